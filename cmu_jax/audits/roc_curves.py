"""How well scores part members from non-members: ROC curves by counting.

Ties are worth one half (mid-ranks): a point of the curve is a threshold that
occurs, and a group of equal scores is one straight piece of it. All statistics
are of the exact curve; nothing is interpolated across thresholds except the
area under a tie.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import optimize, stats

from cmu_jax.core import errors

Scores = Num[np.ndarray, '_']
FALSE_POSITIVE_RATES = (0.01, 0.001)


class RocCurve(NamedTuple):
  """A ROC curve, from (0, 0) to (1, 1).

  Attributes:
    fpr: share of non-members above each threshold, rising.
    tpr: share of members likewise.
  """

  fpr: Float[np.ndarray, 't']
  tpr: Float[np.ndarray, 't']


class RocStatistics(NamedTuple):
  """What is read off a curve; off those of b resamples, b values each.

  Attributes:
    auc: area under the curve.
    balanced_accuracy: mean of TPR and 1 - FPR where the two error rates are
      nearest to each other: unlike the best threshold it is not flattered by
      chance.
    tpr_1_percent: highest TPR of a threshold whose FPR is at most 0.01.
    tpr_01_percent: the same at 0.001.
  """

  auc: Float[np.ndarray, '*b']
  balanced_accuracy: Float[np.ndarray, '*b']
  tpr_1_percent: Float[np.ndarray, '*b']
  tpr_01_percent: Float[np.ndarray, '*b']


class DenseRanks(NamedTuple):
  """Where each score lies among the different ones, the highest first."""

  positive: Int[np.ndarray, 'p']
  negative: Int[np.ndarray, 'q']
  total: int


def _check_scores(name: str, scores: Scores) -> Float[np.ndarray, '_']:
  errors.check(scores.size, f'no {name} scores: an audit needs both kinds')
  bad = np.isnan(scores)
  errors.check(
    not bad.any(),
    f'{int(bad.sum())} of {scores.size} {name} scores are NaN, the first at '
    f'{int(bad.argmax())}; drop them or mend what made them',
  )
  return np.asarray(scores, np.float64)


def dense_ranks(positive: Scores, negative: Scores) -> DenseRanks:
  """Where each score lies among all of them.

  Raises:
    UserError: a side is empty or has NaN.
  """
  both = [
    _check_scores('member', positive),
    _check_scores('non-member', negative),
  ]
  values, place = np.unique(-np.concatenate(both), return_inverse=True)
  return DenseRanks(place[: positive.size], place[positive.size :], values.size)


def curve_statistics(curve: RocCurve) -> RocStatistics:
  """What is read off a curve."""
  fpr, tpr = curve
  area = np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)
  where = np.abs(fpr + tpr - 1).argmin()
  accuracy = (1 + tpr[where] - fpr[where]) / 2
  low = [np.max(tpr[fpr <= rate + 1e-12]) for rate in FALSE_POSITIVE_RATES]
  return RocStatistics(area, accuracy, *low)


def roc(positive: Scores, negative: Scores) -> RocCurve:
  """The ROC curve of scores; a threshold takes what is at or above it.

  Args:
    positive: scores of members, higher is more like a member.
    negative: scores of non-members.

  Raises:
    UserError: a side is empty or has NaN.
  """
  at = dense_ranks(positive, negative)

  def rising(place: Int[np.ndarray, '_']) -> Float[np.ndarray, 't']:
    sums = np.bincount(place, minlength=at.total).cumsum()
    return np.pad(sums / place.size, (1, 0))

  return RocCurve(rising(at.negative), rising(at.positive))


def auc(positive: Scores, negative: Scores) -> float:
  """P(positive > negative) + P(positive = negative) / 2, by mid-ranks."""
  return float(curve_statistics(roc(positive, negative)).auc)


def tied_share(scores: Scores) -> float:
  """The share of the most common score."""
  return float(np.unique(scores, return_counts=True)[1].max() / scores.size)


def tpr_at(positive: Scores, negative: Scores, fpr: float) -> float:
  """The highest TPR of a threshold whose FPR is at most `fpr`."""
  errors.check(
    0 <= fpr <= 1, f'a false positive rate of {fpr} is not from 0 to 1'
  )
  curve = roc(positive, negative)
  return float(curve.tpr[curve.fpr <= fpr + 1e-12].max())


def balanced_accuracy(positive: Scores, negative: Scores) -> float:
  """Mean of TPR and 1 - FPR where both errors are most nearly equal."""
  return float(curve_statistics(roc(positive, negative)).balanced_accuracy)


def hanley_mcneil_error(area: float, positives: int, negatives: int) -> float:
  """The standard error of an AUC under exponential scores.

  Args:
    area: the AUC.
    positives: number of members.
    negatives: number of non-members.

  References:
    Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve,
    Radiology 143 (1982), equation 2.
  """
  first, second = area / (2 - area), 2 * area**2 / (1 + area)
  variance = (
    area * (1 - area)
    + (positives - 1) * (first - area**2)
    + (negatives - 1) * (second - area**2)
  ) / (positives * negatives)
  return math.sqrt(max(variance, 0.0))


def detectable_auc(
  positives: int,
  negatives: int,
  significance: float = 0.05,
  power: float = 0.8,
) -> float | None:
  """The smallest AUC above 1/2 that so many points would show.

  A one-sided test of AUC = 1/2 at the given significance finds it with the
  given probability; standard errors are of `hanley_mcneil`.

  Returns:
    The AUC, or None where not even a perfect separation would do.
  """
  level = stats.norm.isf(significance) * hanley_mcneil_error(
    0.5, positives, negatives
  )
  quantile = stats.norm.ppf(power)

  def excess(area: float) -> float:
    error = hanley_mcneil_error(area, positives, negatives)
    return area - 0.5 - level - quantile * error

  if excess(1.0) < 0:
    return None
  return float(optimize.brentq(excess, 0.5, 1.0))
