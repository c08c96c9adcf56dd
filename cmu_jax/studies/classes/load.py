"""Reads the results.json of a run, and refuses what cannot be shown."""

import os
from collections.abc import Sequence

import numpy as np

from cmu_jax.report import frame, stats
from cmu_jax.report.frame import Results
from cmu_jax.studies.subsets import load

Row = load.Row

_REQUIRED = {
  'class_names': list,
  'train_size': int,
  'test_size': int,
  'unseen_images': dict,
  'methods': dict,
}
_ROW = ('method', 'information', 'seed', 'forget_class', 'diverged')
_ULIRA = ('method', 'forget_class', 'statistic', 'ulira_auc')


def results(workdir: os.PathLike | str) -> Results:
  """The checked contents of results.json in a work folder.

  Raises:
    UserError: it is missing, broken or not that of such a run.
  """
  parts = {**dict.fromkeys(('rows', 'noise', 'tuning'), _ROW), 'ulira': _ULIRA}
  return frame.read_results(workdir, 'class_unlearning', _REQUIRED, parts)


def rows(found: Results, method: str) -> list[Row]:
  """What is reported of a method, without what diverged."""
  own = load.rows(found, method)
  return [row for row in own if not row['diverged']]


def diverged(found: Results, method: str) -> int:
  """How many runs of a method diverged."""
  return len(load.rows(found, method)) - len(rows(found, method))


def by_class(some: Sequence[Row], column: str) -> dict[int, float]:
  """Class -> the mean of a column over the rows that have it."""
  held: dict[int, list[float]] = {}
  for row in some:
    if row.get(column) is not None:
      held.setdefault(row['forget_class'], []).append(row[column])
  return {number: float(np.mean(values)) for number, values in held.items()}


def beyond(
  first: Sequence[Row], second: Sequence[Row], column: str
) -> stats.Interval | None:
  """By how much a column of some rows is above that of others, in points.

  Paired over classes, which differ most; None below two classes.
  """
  own, other = by_class(first, column), by_class(second, column)
  shared = sorted(own.keys() & other.keys())
  return stats.interval(np.array([100 * (own[c] - other[c]) for c in shared]))


def mean(some: Sequence[Row], column: str) -> float | None:
  """Mean over classes of a column, in points; None where there is none."""
  found = by_class(some, column)
  return 100 * float(np.mean(list(found.values()))) if found else None


def noisy(found: Results) -> dict[tuple[float, float], list[Row]]:
  """(beta, noise in similarities) -> rows of TRW, in rising order."""
  held: dict[tuple[float, float], list[Row]] = {}
  for row in found['noise']:
    if not row['diverged']:
      at = row['hyper']['beta'], row['hyper']['noise']
      held.setdefault(at, []).append(row)
  return dict(sorted(held.items()))
