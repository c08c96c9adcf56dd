r"""Evidence for a repair without any label: two runs that agree.

Two runs of a repair see disjoint halves of the pictures. With the predictions
o of the network before, a and b of the runs, on all pictures:

  changed = (share(a != o) + share(b != o)) / 2
  alike   = share(a = b != o)          changes that the other run confirms
  alone   = changed - alike            changes that it does not

A run that only disturbs a network changes uncertain predictions, each run
others. A run that mends mistakes changes what the other run changes too, and
into the same class. Runs also share the statistics of BatchNorm that pictures
bring about, which mend nothing: changes that a control with these statistics
and the old weights makes as well do not count as alike. So `alike` estimates
the gain, up to changes that are not for the better. It is a mean over pictures,
with the error of a mean. The rule is ours. The agreement of two networks as an
estimate of their accuracy is due to Jiang et al., Assessing Generalization of
SGD via Disagreement, arXiv 2106.13799.
"""

import statistics
from typing import Any, NamedTuple

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
    least: share of the predictions that both runs must change alike. A clean
      ResNet-20 reached .014 in our trials, and .166 with wrong labels.
    confidence: that this share is reached, one-sided.
    confirmed: least part of a run's changes that the other run confirms.
    needs_all_classes: abstains where the pictures do not show some class.
  """

  least: float = 0.02
  confidence: float = 0.8
  confirmed: float = 0.25
  needs_all_classes: bool = True


RULE = Rule()


class Evidence(NamedTuple):
  """The verdict on a repair.

  Attributes:
    repaired: whether the rule takes the repair.
    reason: '' or the reason against it: 'gain' or 'classes'.
    alike: share of the predictions that both runs change alike.
    interval: of `alike`, 95 %.
    alone: share that a run changes and the other does not confirm.
    accuracy_before: estimate of the accuracy before, with its 95 % interval.
    accuracy_after: likewise after a run on half of the pictures.
    absent: classes that the pictures do not show.
  """

  repaired: bool
  reason: str
  alike: float
  interval: tuple[float, float]
  alone: float
  accuracy_before: tuple[float, float, float]
  accuracy_after: tuple[float, float, float]
  absent: tuple[int, ...]

  @property
  def record(self) -> Info:
    """The evidence as JSON."""
    return make_record(self)


def make_record(evidence: Any) -> Info:
  """The fields of a named tuple as JSON."""
  return {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in evidence._asdict().items()
  }


def _mark_alike(
  original: Int[np.ndarray, 'n'],
  run_a: Int[np.ndarray, 'n'],
  run_b: Int[np.ndarray, 'n'],
  control: Int[np.ndarray, 'n'] | None,
) -> Float[np.ndarray, 'n']:
  """1 for pictures that both runs change alike and the control does not."""
  alike = (run_a == run_b) & (run_a != original)
  if control is not None:
    alike &= control != run_a
  return alike.astype(float)


def changes(
  original: Int[np.ndarray, 'n'],
  run_a: Int[np.ndarray, 'n'],
  run_b: Int[np.ndarray, 'n'],
  control: Int[np.ndarray, 'n'] | None = None,
) -> tuple[float, float]:
  """`alike` and `alone` of two runs; see `judge`."""
  alike = float(_mark_alike(original, run_a, run_b, control).mean())
  changed = np.mean([run_a != original, run_b != original])
  return alike, float(changed) - alike


def judge(
  original: Int[np.ndarray, 'n'],
  run_a: Int[np.ndarray, 'n'],
  run_b: Int[np.ndarray, 'n'],
  classes: int,
  rule: Rule = RULE,
  control: Int[np.ndarray, 'n'] | None = None,
) -> Evidence:
  """Judges a repair by two of its runs.

  Args:
    original: classes that the network predicts before.
    run_a: after a run on one half of the pictures.
    run_b: after a run on the other half.
    classes: k.
    rule: see `Rule`.
    control: predicted with the statistics of the pictures and the old weights;
      None for a network without such statistics.

  Raises:
    UserError: fewer than two pictures.
  """
  errors.check(
    len(original) >= 2, f'{len(original)} pictures are too few; give 2 or more'
  )
  stays = np.mean([run_a == original, run_b == original], axis=0)
  same = (run_a == run_b).astype(float)
  confirmed = _mark_alike(original, run_a, run_b, control)
  alike, deviation = measure_mean(confirmed)
  _, alone = changes(original, run_a, run_b, control)
  reach = statistics.NormalDist().inv_cdf(rule.confidence)
  absent = find_absent(run_a, run_b, classes)
  reason = ''
  if alike - reach * deviation <= rule.least or alike < rule.confirmed * (
    alike + alone
  ):
    reason = 'gain'
  elif rule.needs_all_classes and absent:
    reason = 'classes'
  return Evidence(
    repaired=not reason,
    reason=reason,
    alike=alike,
    interval=make_interval(alike, deviation)[1:],
    alone=alone,
    accuracy_before=make_interval(*measure_mean(stays)),
    accuracy_after=make_interval(*measure_mean(same)),
    absent=absent,
  )


def find_absent(
  run_a: Int[np.ndarray, 'n'], run_b: Int[np.ndarray, 'n'], classes: int
) -> tuple[int, ...]:
  """Classes on which both runs agree far less often than on an even pool.

  Runs fill a class that the pictures lack with different pictures. They agree
  on a class that is there, even if the network before seldom predicted it.
  """
  size = len(run_a)
  counts = np.bincount(run_a[run_a == run_b], minlength=classes)
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


def measure_mean(values: Float[np.ndarray, 'n']) -> tuple[float, float]:
  """The mean, and its standard error."""
  return (
    float(values.mean()),
    float(values.std(ddof=1) / np.sqrt(values.size)),
  )


def make_interval(mean: float, error: float) -> tuple[float, float, float]:
  """The mean with the ends of its 95 % interval."""
  reach = statistics.NormalDist().inv_cdf(0.975) * error
  return mean, mean - reach, mean + reach
