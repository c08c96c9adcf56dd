"""Which point of a grid a row shows.

The benchmark's rule sees validation data and S_f only. Its hazard: a constant
predictor changes all of S_f, so on ten classes it scores .55 and beats an
honest repair that scores less. The point is shown all the same, flagged as
collapsed, with the choice of an oracle beside it.
"""

from collections.abc import Sequence

from cmu_jax.core.types import Info

RULES = ('paper', 'oracle')
SLACK = 0.01


def paper(points: Sequence[Info]) -> int | None:
  """The point with the best score; None if all diverged.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 5.
  """
  alive = [i for i, p in enumerate(points) if not p['diverged']]
  return max(alive, key=lambda i: points[i]['score'], default=None)


def oracle(points: Sequence[Info], retain: float | None) -> int | None:
  """The best Acc_corr among points that keep Acc_retain; reads test labels.

  Args:
    points: of one grid.
    retain: Acc_retain of the original model, of which a point may lose .01;
      None where all classes are affected.

  Returns:
    Its position; where no point keeps it, the one that keeps most; None if
    all diverged.
  """
  alive = [i for i, p in enumerate(points) if not p['diverged']]
  keeping = [
    i
    for i in alive
    if retain is None or points[i]['acc_retain'] >= retain - SLACK
  ]
  if keeping:
    return max(keeping, key=lambda i: points[i]['acc_corr'])
  return max(alive, key=lambda i: points[i]['acc_retain'], default=None)


def choose(
  rule: str, points: Sequence[Info], retain: float | None
) -> int | None:
  """The position that a rule of RULES picks."""
  return paper(points) if rule == 'paper' else oracle(points, retain)
