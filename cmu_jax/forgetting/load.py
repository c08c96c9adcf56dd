"""Reads the results.json of a run, and refuses what cannot be shown."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from cmu_jax import errors, files
from cmu_jax.forgetting.gaps import Row

Results = dict[str, Any]

SCHEMA = 1
_REQUIRED = {
  'name': str,
  'smoke': bool,
  'finished': bool,
  'provenance': dict,
  'config': dict,
  'train_size': int,
  'forget_size': int,
  'test_size': int,
  'methods': dict,
  'rows': list,
  'requests': list,
  'tuning': list,
}
_ROW = ('method', 'information', 'seed', 'forget_seed', 'run', 'diverged')


def _check_rows(
  path: pathlib.Path, part: str, rows: list, needed: tuple[str, ...]
) -> None:
  for i, row in enumerate(rows):
    known = set(row) if isinstance(row, dict) else set()
    absent = [name for name in needed if name not in known]
    errors.check(
      not absent,
      f'{path}: {part}[{i}] has no {", ".join(absent)}; run again to rewrite '
      'it',
    )
    for key, value in row.items():
      errors.check(
        not isinstance(value, float) or math.isfinite(value),
        f'{path}: {part}[{i}].{key} is not finite; write null where a number '
        'does not apply',
      )


def read(
  workdir: os.PathLike | str,
  task: str,
  required: dict[str, type],
  parts: Mapping[str, tuple[str, ...]],
) -> Results:
  """The checked contents of the results.json of a task.

  Args:
    workdir: the work folder.
    task: the run must be of it, schema 1.
    required: fields and their types.
    parts: lists of rows, and what every row of them has.

  Raises:
    UserError: it is missing, broken or not that of such a run.
  """
  path = pathlib.Path(workdir) / 'results.json'
  value = files.read_json(path)
  errors.check(
    isinstance(value, dict)
    and (value.get('task'), value.get('schema')) == (task, SCHEMA),
    f'{path} is not of task {task}, schema {SCHEMA}; run again',
  )
  for name, kind in required.items():
    errors.check(
      isinstance(value.get(name), kind),
      f"{path}: '{name}' is missing or is not a {kind.__name__}; run again",
    )
  for part, needed in parts.items():
    _check_rows(path, part, value[part], needed)
  return value


def results(workdir: os.PathLike | str) -> Results:
  """The checked contents of results.json in a work folder.

  Raises:
    UserError: it is missing, broken or not that of such a run.
  """
  parts = dict.fromkeys(('rows', 'requests', 'tuning'), _ROW)
  return read(workdir, 'forgetting', _REQUIRED, parts)


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
