"""Everything a person looks at after a run, from its results.json alone."""

import operator
import os
import pathlib

from cmu_jax import files, progress
from cmu_jax.forgetting import figures, load, page, tables


def show(workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/, figures/ and report.html, each file whole.

  Args:
    workdir: the work folder of a run, with results.json.

  Returns:
    The path of report.html.

  Raises:
    UserError: results.json is missing, broken or of something else, or the
      folder cannot be written.
  """
  workdir = pathlib.Path(workdir)
  found = load.results(workdir)
  for name, text in tables.texts(found).items():
    files.write_text(workdir / 'tables' / name, text)
  with progress.bar(
    'drawing the report', len(figures.CAPTIONS), 'figures'
  ) as a:
    drawn = page.drawings(found, a)
  for name in figures.CAPTIONS:
    # One from an earlier report would no longer belong to these results.
    (workdir / 'figures' / f'{name}.png').unlink(missing_ok=True)
  for one, png in drawn:
    path = workdir / 'figures' / f'{one.name}.png'
    files.write(path, operator.methodcaller('write', png))
  html = workdir / 'report.html'
  files.write_text(html, page.render(found, drawn))
  return html
