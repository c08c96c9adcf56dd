"""Reads a results.json whose numbers lie in lists of rows, and checks it."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from cmu_jax.core import errors, files

Results = dict[str, Any]

SCHEMA = 1
# What every such file begins with, see `provenance.header`.
_HEADER = {
  'name': str,
  'smoke': bool,
  'finished': bool,
  'provenance': dict,
  'config': dict,
}


def check(
  path: pathlib.Path, part: str, rows: list, needed: tuple[str, ...]
) -> None:
  """Refuses rows that lack a field or hold a number that is not finite.

  Args:
    path: of the file, for messages.
    part: the name of the list in it.
    rows: the list.
    needed: fields of every row.

  Raises:
    UserError: naming the first such row.
  """
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
  required: Mapping[str, type],
  parts: Mapping[str, tuple[str, ...]],
) -> Results:
  """The checked contents of the results.json of a task.

  Args:
    workdir: the work folder.
    task: the run must be of it, schema 1.
    required: its own fields and their types.
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
  for name, kind in {
    **_HEADER,
    **dict.fromkeys(parts, list),
    **required,
  }.items():
    errors.check(
      isinstance(value.get(name), kind),
      f"{path}: '{name}' is missing or is not a {kind.__name__}; run again",
    )
  for part, needed in parts.items():
    check(path, part, value[part], needed)
  return value
