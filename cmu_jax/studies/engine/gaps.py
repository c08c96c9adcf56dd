"""How far a method is from retraining: the gap of AMUN, in points.

  gap = (|dUA| + |dRA| + |dTA| + |dMIA|) / 4

where d is the difference to the mean of Retrain. Over runs it is taken twice:
of the means, and as the mean of each run's gap, which is never smaller
(Jensen). Published tables mix the two.

References:
  AMUN, arXiv 2503.00917, section 5.2.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Row = dict[str, Any]

# What MIA is, by the setting `attack`: the column of a row.
ATTACKS = {
  'confidence': 'ft_auc',
  'rmia': 'ft_auc_rmia',
  'rmia_ratio': 'ft_auc_rmia_ratio',
  'mis': 'mis',
}
_SHARED = ('forget_accuracy', 'retain_accuracy', 'test_accuracy')


class Gap(NamedTuple):
  """The gap of a method to retraining, in points; smaller is nearer.

  Attributes:
    of_means: of the means over runs.
    of_runs: mean of the gaps of single runs.
    std: sample standard deviation of these; None for one run.
    parts: mean |difference| of UA, RA, TA and MIA over runs.
  """

  of_means: float
  of_runs: float
  std: float | None
  parts: tuple[float, ...]


def columns(attack: str) -> tuple[str, ...]:
  """The columns that a gap is made of."""
  return (*_SHARED, ATTACKS[attack])


def values(
  rows: Sequence[Row], names: Sequence[str]
) -> Float[np.ndarray, 'r c']:
  """Columns in points, a row a run; diverged runs are left out."""
  found = [[row[name] for name in names] for row in rows if _whole(row, names)]
  return 100 * np.asarray(found, np.float64).reshape(-1, len(names))


def _whole(row: Row, names: Sequence[str]) -> bool:
  return all(row.get(name) is not None for name in names)


def gap(
  rows: Sequence[Row], retrained: Sequence[Row], attack: str
) -> Gap | None:
  """The gap of some runs to those of Retrain.

  Args:
    rows: of one method.
    retrained: of Retrain.
    attack: a key of `ATTACKS`.

  Returns:
    None where all runs of either diverged, or lack the attack.
  """
  return between(rows, retrained, columns(attack))


def between(
  rows: Sequence[Row], retrained: Sequence[Row], names: Sequence[str]
) -> Gap | None:
  """The mean gap of some columns, each a rate.

  Args:
    rows: of one method.
    retrained: of Retrain.
    names: of the columns.

  Returns:
    None where all runs of either diverged, or lack a column.
  """
  found, best = values(rows, names), values(retrained, names)
  if not len(found) or not len(best):
    return None
  away = np.abs(found - best.mean(axis=0)[None, :])
  each = away.mean(axis=1)
  of_means = np.abs(found.mean(axis=0) - best.mean(axis=0)).mean()
  std = float(each.std(ddof=1)) if len(each) > 1 else None
  parts = tuple(float(x) for x in away.mean(axis=0))
  return Gap(float(of_means), float(each.mean()), std, parts)


def choose(
  points: Sequence[Sequence[Row]], retrained: Sequence[Row], attack: str
) -> int:
  """The point of a grid with the least mean gap on the tuning forget sets.

  Args:
    points: for each point of the grid, its rows, one a tuning forget set.
    retrained: Retrain's rows, likewise.
    attack: a key of `ATTACKS`.

  Returns:
    Its position; a point that diverged anywhere is not chosen unless all did,
    when the last one, the smallest rate, is.
  """
  return nearest(
    [
      gap(rows, retrained, attack)
      if all(not row['diverged'] for row in rows)
      else None
      for rows in points
    ]
  )


def nearest(found: Sequence[Gap | None]) -> int:
  """The position of the least mean gap; the last one where none is known."""
  sound = [(one.of_runs, i) for i, one in enumerate(found) if one is not None]
  return min(sound)[1] if sound else len(found) - 1
