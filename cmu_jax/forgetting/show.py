"""Everything a person looks at after a run, from its results.json alone."""

import functools
import operator
import os
import pathlib
from collections.abc import Callable, Collection

from cmu_jax import files, progress
from cmu_jax.forgetting import figures, load, page, tables


def write(
  workdir: pathlib.Path,
  texts: dict[str, str],
  captions: Collection[str],
  draw: Callable[..., page.Drawings],
  render: Callable[[page.Drawings], str],
) -> pathlib.Path:
  """Writes tables/, figures/ and report.html, each file whole.

  Args:
    workdir: where to.
    texts: of tables by the name of their file.
    captions: names of all figures that there may be.
    draw: (advance) -> the figures.
    render: the figures -> the page.

  Returns:
    The path of report.html.
  """
  for name, text in texts.items():
    files.write_text(workdir / 'tables' / name, text)
  with progress.bar('drawing the report', len(captions), 'figures') as advance:
    drawn = draw(advance)
  for name in captions:
    # One from an earlier report would no longer belong to these results.
    (workdir / 'figures' / f'{name}.png').unlink(missing_ok=True)
  for one, png in drawn:
    path = workdir / 'figures' / f'{one.name}.png'
    files.write(path, operator.methodcaller('write', png))
  html = workdir / 'report.html'
  files.write_text(html, render(drawn))
  return html


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
  return write(
    workdir,
    tables.texts(found),
    figures.CAPTIONS,
    functools.partial(page.drawings, found),
    functools.partial(page.render, found),
  )
