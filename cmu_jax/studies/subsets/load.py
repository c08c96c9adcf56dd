"""Reads the results.json of a run, and refuses what cannot be shown."""

import os

from cmu_jax.report import frame
from cmu_jax.report.frame import Results
from cmu_jax.studies.engine.gaps import Row

_REQUIRED = {
  'train_size': int,
  'forget_size': int,
  'test_size': int,
  'methods': dict,
}
_ROW = ('method', 'information', 'seed', 'forget_seed', 'run', 'diverged')


def results(workdir: os.PathLike | str) -> Results:
  """The checked contents of results.json in a work folder.

  Raises:
    UserError: it is missing, broken or not that of such a run.
  """
  parts = dict.fromkeys(('rows', 'requests', 'tuning'), _ROW)
  return frame.read_results(workdir, 'forgetting', _REQUIRED, parts)


def rows(found: Results, method: str) -> list[Row]:
  """What is reported of a method."""
  return [row for row in found['rows'] if row['method'] == method]


def alone(found: Results, method: str) -> bool:
  """Whether a method does without D_R."""
  seen = [row['information'] for row in rows(found, method)]
  return bool(seen) and 'D_F' in seen[0] and 'D_R' not in seen[0]


def groups(found: Results) -> dict[str, list[str]]:
  """'with D_R' and 'without D_R' -> methods, in order, with what both share."""
  methods = list(found['methods'])
  both = [m for m in ('none', 'retrain') if m in methods]
  own = [m for m in methods if m not in both]
  parted = {
    'with D_R': [m for m in own if not alone(found, m)],
    'without D_R': [m for m in own if alone(found, m)],
  }
  return {name: both + some for name, some in parted.items() if some}
