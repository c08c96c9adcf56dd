"""The report of the corrective benchmark.

Its page has a chart to pick from, and LaTeX tables, hence a writer of its own.
"""

import os
import pathlib

from cmu_jax.core import files, progress
from cmu_jax.report import frame
from cmu_jax.report.frame import Results, Verdict
from cmu_jax.studies.corrective import figures, load, page, tables, verdict


def write_report(workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/, figures/ and report.html, each file whole.

  Args:
    workdir: the work folder of a sweep, with results.json.

  Returns:
    The path of report.html.

  Raises:
    UserError: results.json is missing, broken or not that of a sweep, or the
      folder cannot be written.
  """
  workdir = pathlib.Path(workdir)
  results = load.results(workdir)
  for name, text in tables.texts(results).items():
    files.write_text(workdir / 'tables' / name, text)
  total = len(figures.names(results))
  with progress.bar('drawing the report', total, 'figures') as advance:
    drawn = frame.draw_figures(figures.draw(results), advance)
  # Of earlier results there may have been others.
  stems = {path.stem for path in (workdir / 'figures').glob('*.png')}
  stale = filter(figures.ours, stems)
  frame.write_figures(workdir / 'figures', drawn, list(stale))
  html = workdir / 'report.html'
  files.write_text(html, page.render(results, drawn))
  return html


def _verdict(results: Results) -> Verdict:
  finding = verdict.verdict(results)
  tone = 'good' if finding.good else 'flat'
  return Verdict(finding.label, tone, tuple(finding.sentences))


REPORT = frame.Report(
  read=load.results,
  verdict=_verdict,
  tables=lambda results: {},
  figures=lambda results, label: figures.draw(results),
  captions={},
  sections=lambda results: {},
  glossary={},
  write=write_report,
)
