"""Gaps between methods and retraining: the gap of AMUN, in points.

  gap = (|dUA| + |dRA| + |dTA| + |dMIA|) / 4

where d is the difference to the mean of Retrain. Over runs there are two gaps:
that of the means, and the mean of each run's gap, which is never smaller
(Jensen). Published tables mix the two.

References:
  AMUN, arXiv 2503.00917, section 5.2.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cmu_jax.report import stats, text_tables
from cmu_jax.report.text_tables import TextTable

Row = dict[str, Any]

# Setting `attack` -> the column of a row that counts as MIA.
ATTACKS = {
  'confidence': 'ft_auc',
  'rmia': 'ft_auc_rmia',
  'rmia_ratio': 'ft_auc_rmia_ratio',
  'mis': 'mis',
}
_ACCURACIES = ('forget_accuracy', 'retain_accuracy', 'test_accuracy')


class Gap(NamedTuple):
  """The gap of a method to retraining, in points; smaller is nearer."""

  of_means: float  # of the means over runs
  of_runs: float  # mean of the gaps of single runs
  std: float | None  # sample standard deviation of these; None for one run
  parts: tuple[float, ...]  # mean |difference| of UA, RA, TA and MIA over runs


def gap_columns(attack: str) -> tuple[str, ...]:
  """Lists the columns of the gap with this attack."""
  return (*_ACCURACIES, ATTACKS[attack])


def column_values(
  rows: Sequence[Row], columns: Sequence[str]
) -> Float[np.ndarray, 'r c']:
  """Selects columns in points, a row a run; diverged runs are left out."""
  values = [
    [row[column] for column in columns]
    for row in rows
    if all(row.get(column) is not None for column in columns)
  ]
  return 100 * np.asarray(values, np.float64).reshape(-1, len(columns))


def points_text(rows: Sequence[Row], column: str) -> str:
  """Formats mean and spread of a column in points: '95.45 ± 0.19'."""
  values = [100 * row[column] for row in rows if row.get(column) is not None]
  # A dash: every run diverged, or no run is done.
  return text_tables.spread_text(stats.spread(values))


def points_table(
  title: str,
  notes: Sequence[str],
  columns: Mapping[str, str],
  rows: Mapping[Any, Sequence[Row]],
  keys: tuple[str, ...] = ('method',),
) -> TextTable:
  """Builds a table of means and spreads in points.

  Args:
    title: of the table.
    notes: sentences about its numbers.
    columns: column of a row -> its heading.
    rows: texts of the first cells, a tuple -> the runs behind a line.
    keys: headings of the first cells.
  """
  lines = tuple(
    (*key, *(points_text(runs, column) for column in columns))
    for key, runs in rows.items()
  )
  return TextTable(title, tuple(notes), (*keys, *columns.values()), lines)


def interval_text(interval: stats.Interval) -> str:
  """Formats a difference in points and its interval, with true minus signs."""
  text = (
    f'{interval.mean:+.2f} points, 95 % interval {interval.low:+.2f} to '
    f'{interval.high:+.2f}'
  )
  return text.replace('-', '−')


def compute_gap(
  rows: Sequence[Row], retrained: Sequence[Row], attack: str
) -> Gap | None:
  """Computes the gap of a method to Retrain; None without comparable runs."""
  return compare_columns(rows, retrained, gap_columns(attack))


def compare_columns(
  rows: Sequence[Row], retrained: Sequence[Row], columns: Sequence[str]
) -> Gap | None:
  """Computes the mean gap of these columns, each a rate.

  The gap is None where all runs of either diverged, or lack a column.
  """
  values = column_values(rows, columns)
  ideal = column_values(retrained, columns)
  if not len(values) or not len(ideal):
    return None
  differences = np.abs(values - ideal.mean(axis=0)[None, :])
  by_run = differences.mean(axis=1)
  of_means = np.abs(values.mean(axis=0) - ideal.mean(axis=0)).mean()
  std = float(by_run.std(ddof=1)) if len(by_run) > 1 else None
  parts = tuple(float(x) for x in differences.mean(axis=0))
  return Gap(float(of_means), float(by_run.mean()), std, parts)


def choose_point(
  points: Sequence[Sequence[Row]], retrained: Sequence[Row], attack: str
) -> int:
  """Chooses the point of a grid with the least mean gap on tuning sets.

  Args:
    points: for each point of the grid, its rows, one a tuning forget set.
    retrained: of Retrain, likewise.
    attack: a key of `ATTACKS`.

  Returns:
    Its position. A point that diverged on a set is chosen only if all did; then
    it is the last point, which has the smallest rate.
  """
  sizes = []
  for position, rows in enumerate(points):
    diverged = any(row['diverged'] for row in rows)
    gap = None if diverged else compute_gap(rows, retrained, attack)
    if gap is not None:
      sizes.append((gap.of_runs, position))
  return min(sizes)[1] if sizes else len(points) - 1
