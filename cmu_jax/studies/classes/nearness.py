"""How far a method is from retraining, class by class, in points.

  gap = (|dACC_r| + |dACC_f| + 100 TV) / 3

on unseen images, where d is the difference to the mean of the networks that
were retrained without the same class. MIA-NN and U-LiRA have no part in it:
what methods are chosen by may not be what they are audited with. MIS has none
either, for on a forgotten class it extrapolates.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmu_jax.studies.engine import gaps
from cmu_jax.studies.engine.gaps import Gap

Row = dict[str, Any]

COLUMNS = ('retain_accuracy', 'forget_accuracy', 'tv')


def gap(rows: Sequence[Row], retrained: Sequence[Row]) -> Gap | None:
  """The gap of some runs on one class to networks retrained without it.

  Args:
    rows: of one method; TV is a distance to retraining already.
    retrained: of the retrained networks.
  """
  ideal = [{**row, 'tv': 0.0} for row in retrained]
  return gaps.between(rows, ideal, COLUMNS)


def choose(points: Sequence[Sequence[Row]], retrained: Sequence[Row]) -> int:
  """The point of a grid with the least mean gap over tuning classes.

  Args:
    points: for each point of the grid, its rows, one a class.
    retrained: of all tuning classes; each is compared with its own.

  Returns:
    Its position; a point that diverged anywhere is not chosen unless all did.
  """
  means = []
  for rows in points:
    found = [
      gap([row], [r for r in retrained if _same(r, row)])
      for row in rows
      if not row['diverged']
    ]
    known = [one.of_runs for one in found if one is not None]
    whole = len(known) == len(rows)
    means.append(float(np.mean(known)) if whole else np.inf)
  return int(np.argmin(means)) if np.isfinite(means).any() else len(points) - 1


def _same(first: Row, second: Row) -> bool:
  return first['forget_class'] == second['forget_class']
