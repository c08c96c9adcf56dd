"""Reads the results.json of a sweep, and refuses what cannot be shown."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

from cmu_jax.core import errors, files
from cmu_jax.report import frame
from cmu_jax.report.frame import Results

Row = dict[str, Any]

SCHEMA = 1
_REQUIRED = {
  'name': str,
  'smoke': bool,
  'finished': bool,
  'provenance': dict,
  'config': dict,
  'class_names': list,
  'problems': list,
  'rows': list,
  'points': list,
  'importance': list,
}
_PROBLEM = ('manipulation', 'manipulation_size')
_POINT = (*_PROBLEM, 'seed', 'identified_fraction', 'method')
_MEASURED = ('acc_corr', 'acc_retain', 'diverged', 'collapsed')
_FIELDS = {
  'problems': _PROBLEM,
  'rows': (*_POINT, 'selection', *_MEASURED),
  'points': (*_POINT, *_MEASURED),
  'importance': (
    *_PROBLEM,
    'seed',
    'identified_fraction',
    'edges',
    'retain_counts',
  ),
}
_KEYS = {
  'problems': _PROBLEM,
  'rows': (*_POINT, 'selection'),
}


def _check_twice(path: pathlib.Path, part: str, entries: list) -> None:
  """One entry a cell: of two, a table would show the later one unasked."""
  seen: set[tuple] = set()
  for i, entry in enumerate(entries):
    key = tuple(entry[name] for name in _KEYS[part])
    errors.check(
      key not in seen,
      f'{path}: {part}[{i}] comes twice ({", ".join(map(str, key))}); run '
      'again to rewrite it',
    )
    seen.add(key)


def _check_known(path: pathlib.Path, value: Results) -> None:
  """Every row belongs to a problem that is described."""
  known = {tuple(entry[k] for k in _PROBLEM) for entry in value['problems']}
  for part in ('rows', 'points', 'importance'):
    for i, entry in enumerate(value[part]):
      key = tuple(entry[name] for name in _PROBLEM)
      errors.check(
        key in known,
        f'{path}: {part}[{i}] is of {key[0]} {key[1]}, which problems does '
        'not list; run again to rewrite it',
      )


def _check_counts(path: pathlib.Path, entries: list) -> None:
  for i, entry in enumerate(entries):
    edges, counts = len(entry['edges']), len(entry['retain_counts'])
    errors.check(
      edges == counts + 1 and counts,
      f'{path}: importance[{i}] has {edges} edges for {counts} counts, '
      'expected one more; run again to rewrite it',
    )


def check(value: Any, path: os.PathLike | str = 'results.json') -> Results:
  """The same value, if it is the results of a sweep.

  Args:
    value: what the file holds.
    path: where it came from, for messages.

  Raises:
    UserError: another schema or task, a field that is missing or of another
      kind, a number that is not finite, or a cell that comes twice.
  """
  path = pathlib.Path(path)
  errors.check(
    isinstance(value, dict) and value.get('schema') == SCHEMA,
    f'{path}: schema is not {SCHEMA}; give the work folder of a sweep of this '
    'version, or run again',
  )
  errors.check(
    value.get('task') == 'corrective',
    f"{path}: task is {value.get('task')!r}, not 'corrective'; give the work "
    'folder of a sweep of the corrective benchmark',
  )
  for key, kind in _REQUIRED.items():
    errors.check(
      isinstance(value.get(key), kind),
      f'{path}: field {key} is missing or not a {kind.__name__}; run again '
      'to rewrite it',
    )
  for part in _FIELDS:
    frame.check_rows(path, part, value[part], _FIELDS[part])
  for part in _KEYS:
    _check_twice(path, part, value[part])
  _check_known(path, value)
  _check_counts(path, value['importance'])
  return value


def results(workdir: os.PathLike | str) -> Results:
  """The contents of results.json of a sweep, finished or not.

  Raises:
    UserError: the file is missing, broken, or not that of a sweep.
  """
  path = pathlib.Path(workdir) / 'results.json'
  errors.check(
    path.is_file(),
    f'{path} does not exist; give the work folder of a sweep',
  )
  return check(files.read_json(path), path)


def having(rows: Iterable[Row], **wanted: Any) -> list[Row]:
  """The rows in which every named column has the wanted value."""
  return [
    row for row in rows if all(row.get(k) == v for k, v in wanted.items())
  ]
