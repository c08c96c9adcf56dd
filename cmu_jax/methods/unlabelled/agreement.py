r"""Evidence for a repair without any label: two runs that agree.

Two runs of a repair see disjoint halves of the pictures. With the predictions
o of the network before, a and b of the runs, on all n pictures:

  D = share(a = b != o) - (share(a != o, b = o) + share(b != o, a = o)) / 2
    = share(a = b) - (share(a = o) + share(b = o)) / 2

A run that only disturbs a network changes predictions that the other run does
not change, so D is below 0. A run that mends mistakes changes what the other
run changes too, and into the same classes: D is above 0. D is a mean over
pictures, so its standard error is that of a mean. D is ours. The agreement of
two networks as an estimate of their accuracy is due to Jiang et al., Assessing
Generalization of SGD via Disagreement, arXiv 2106.13799.
"""

import statistics
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cmu_jax.core import errors
from cmu_jax.core.types import Info

# A class on which both runs agree less often than this part of an even share
# is not shown by the pictures.
_LEAST_SHARE = 1 / 3
# Chance that an even pool shows some class so seldom by accident.
_ACCIDENT = 0.05


class Rule(NamedTuple):
  """The settings of `judge`.

  Attributes:
    confidence: that D is above 0, one-sided; the repair abstains below it.
    needs_all_classes: abstains where the pictures do not show some class.
  """

  confidence: float = 0.8
  needs_all_classes: bool = True


class Evidence(NamedTuple):
  """The verdict on a repair.

  Attributes:
    repaired: whether the rule takes the repair.
    reason: '' or the reason against it: 'gain' or 'classes'.
    gain: D.
    interval: of D, 95 %.
    before: estimate of the accuracy before, with its 95 % interval.
    after: likewise after a run on half of the pictures.
    changed: share of the predictions that a run changes.
    absent: classes that the pictures do not show.
  """

  repaired: bool
  reason: str
  gain: float
  interval: tuple[float, float]
  before: tuple[float, float, float]
  after: tuple[float, float, float]
  changed: float
  absent: tuple[int, ...]

  @property
  def record(self) -> Info:
    """The evidence as JSON."""
    return {
      name: list(value) if isinstance(value, tuple) else value
      for name, value in self._asdict().items()
    }


def judge(
  original: Int[np.ndarray, 'n'],
  first: Int[np.ndarray, 'n'],
  second: Int[np.ndarray, 'n'],
  classes: int,
  rule: Rule = Rule(),
) -> Evidence:
  """Judges a repair by two of its runs.

  Args:
    original: classes that the network predicts before.
    first: after a run on one half of the pictures.
    second: after a run on the other half.
    classes: k.
    rule: see `Rule`.

  Raises:
    UserError: fewer than two pictures.
  """
  errors.check(
    len(original) >= 2, f'{len(original)} pictures are too few; give 2 or more'
  )
  alike = np.mean([first == original, second == original], axis=0)
  same = (first == second).astype(float)
  gain, deviation = _mean_with_error(same - alike)
  reach = statistics.NormalDist().inv_cdf(rule.confidence)
  absent = find_absent(first, second, classes)
  reason = ''
  if gain - reach * deviation <= 0:
    reason = 'gain'
  elif rule.needs_all_classes and absent:
    reason = 'classes'
  return Evidence(
    repaired=not reason,
    reason=reason,
    gain=gain,
    interval=_interval(gain, deviation)[1:],
    before=_interval(*_mean_with_error(alike)),
    after=_interval(*_mean_with_error(same)),
    changed=float(1 - alike.mean()),
    absent=absent,
  )


def find_absent(
  first: Int[np.ndarray, 'n'], second: Int[np.ndarray, 'n'], classes: int
) -> tuple[int, ...]:
  """Classes on which both runs agree far less often than on an even pool.

  Runs fill a class that the pictures lack with different pictures. They agree
  on a class that is there, even if the network before seldom predicted it.
  """
  size = len(first)
  counts = np.bincount(first[first == second], minlength=classes)
  # Few pictures lack a class by accident, which is no sign.
  even = size / classes
  limit = min(_LEAST_SHARE * even, _accidental_count(size, classes))
  return tuple(int(c) for c in np.flatnonzero(counts < limit))


def _accidental_count(size: int, classes: int) -> int:
  """The smallest count that some class of an even pool falls below by chance.

  The chance is below `_ACCIDENT` for all classes together, by Bonferroni.
  """
  # Poisson instead of binomial: a wider spread, so fewer alarms.
  mean = size / classes
  term = total = float(np.exp(-mean))
  count = 0
  while total < _ACCIDENT / classes:
    count += 1
    term *= mean / count
    total += term
  return count


def _mean_with_error(values: Float[np.ndarray, 'n']) -> tuple[float, float]:
  """The mean, and its standard error."""
  return (
    float(values.mean()),
    float(values.std(ddof=1) / np.sqrt(values.size)),
  )


def _interval(mean: float, error: float) -> tuple[float, float, float]:
  """The mean with the ends of its 95 % interval."""
  reach = statistics.NormalDist().inv_cdf(0.975) * error
  return mean, mean - reach, mean + reach
