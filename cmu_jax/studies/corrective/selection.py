"""Rules that choose the point of a grid for a row.

The rule of the benchmark uses validation data and S_f only. It has a weakness:
a constant predictor changes all of S_f. On ten classes it scores .55, which may
be above the score of a repair. Such a point is reported nevertheless, flagged
as collapsed, together with the choice of an oracle.
"""

from collections.abc import Sequence

from cmu_jax.core.types import Info

RULES = ('paper', 'oracle')
SLACK = 0.01


def paper(points: Sequence[Info]) -> int | None:
  """Chooses the point with the best score; None if all diverged.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 5.
  """
  converged = [i for i, p in enumerate(points) if not p['diverged']]
  return max(converged, key=lambda i: points[i]['score'], default=None)


def oracle(points: Sequence[Info], retain: float | None) -> int | None:
  """Chooses the best Acc_corr among points that retain Acc_retain.

  It reads test labels.

  Args:
    points: of a grid.
    retain: Acc_retain of the original network, of which a point may lose .01;
      None if all classes are affected.

  Returns:
    The position; if no point retains enough, that of the highest Acc_retain;
    None if all diverged.
  """
  converged = [i for i, p in enumerate(points) if not p['diverged']]
  retaining = [
    i
    for i in converged
    if retain is None or points[i]['acc_retain'] >= retain - SLACK
  ]
  if retaining:
    return max(retaining, key=lambda i: points[i]['acc_corr'])
  return max(converged, key=lambda i: points[i]['acc_retain'], default=None)


def choose(
  rule: str, points: Sequence[Info], retain: float | None
) -> int | None:
  """Chooses by a rule of RULES; returns a position or None."""
  return paper(points) if rule == 'paper' else oracle(points, retain)
