"""Everything a person looks at after a run on negation, off results.json."""

import os
import pathlib

from cmu_jax.report import frame
from cmu_jax.report.frame import Results
from cmu_jax.studies.negation import figures, tables, verdict


def _read(workdir: os.PathLike | str) -> Results:
  parts = {'rows': ('method', 'forget_set'), 'curves': ('method', 'forget_set')}
  return frame.read_results(workdir, 'negation', {'control': str}, parts)


REPORT = frame.Report(
  read=_read,
  verdict=verdict.verdict,
  tables=tables.contents,
  figures=figures.draw,
  captions=figures.CAPTIONS,
  sections=lambda found: {},
  glossary={},
)


def show(workdir: os.PathLike | str) -> pathlib.Path:
  """Writes tables/, figures/ and report.html, see `frame.show`."""
  return frame.show(REPORT, workdir)
