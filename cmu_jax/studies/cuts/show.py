"""show."""

import operator
import os
import pathlib

from cmu_jax.core import files, progress
from cmu_jax.report import style
from cmu_jax.studies.cuts import figures, load, page, tables, verdict
from cmu_jax.studies.cuts.load import Arrays, Results

Drawings = list[tuple[style.ReportFigure, bytes | None]]


def _draw(results: Results, arrays: Arrays) -> Drawings:
  drawings: Drawings = []
  total = len(figures.ALL)
  with progress.bar('drawing the report', total, 'figures') as advance:
    for drawn in figures.draw(results, arrays):
      png = style.png(drawn.figure) if drawn.figure else None
      drawings.append((drawn, png))
      advance()
  return drawings


def _write_figures(folder: pathlib.Path, drawings: Drawings) -> None:
  for drawn, png in drawings:
    path = folder / f'{drawn.name}.png'
    if png is None:
      # One from an earlier run would no longer belong to these results.
      path.unlink(missing_ok=True)
    else:
      files.write(path, operator.methodcaller('write', png))


def build(workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/*.md, figures/*.png and report.html, each of them whole.

  Args:
    workdir: the work folder of a finished run, with results.json and, for the
      figures that need it, arrays.npz.

  Returns:
    The path of report.html.

  Raises:
    UserError: a file is missing, broken or of another schema, or the folder
      cannot be written.
  """
  workdir = pathlib.Path(workdir)
  results = load.results(workdir)
  arrays = load.arrays(workdir, len(results['class_names']))
  found = verdict.verdict(results)
  drawings = _draw(results, arrays)
  files.write_text(workdir / 'tables/results.md', tables.markdown(results))
  files.write_text(workdir / 'tables/per_class.md', tables.per_class(results))
  _write_figures(workdir / 'figures', drawings)
  html = workdir / 'report.html'
  files.write_text(html, page.render(results, found, drawings))
  return html
