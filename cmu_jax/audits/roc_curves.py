"""ROC curves of scores by counting: the separation of members and non-members.

Ties count one half (mid-ranks): each point of a curve is an existing threshold,
and a group of equal scores is a straight segment. All statistics belong to the
exact curve; only the area under a tie is interpolated across thresholds.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import optimize, stats

from cmu_jax.core import array_checks, errors

Scores = Num[np.ndarray, '_']
FALSE_POSITIVE_RATES = (0.01, 0.001)
# Rates are quotients of counts: 1/100 must not fail "at most 0.01" by rounding.
_ROUNDING = 1e-12


class RocCurve(NamedTuple):
  """A ROC curve, from (0, 0) to (1, 1).

  Attributes:
    fpr: share of non-members above each threshold, rising.
    tpr: share of members likewise.
  """

  fpr: Float[np.ndarray, 't']
  tpr: Float[np.ndarray, 't']


class RocStatistics(NamedTuple):
  """Statistics of a curve, or of the curves of b resamples.

  Attributes:
    auc: area under the curve.
    balanced_accuracy: mean of TPR and 1 - FPR at the threshold with the most
      similar error rates. Unlike the best threshold, it is not biased upwards.
    tpr_1_percent: highest TPR of a threshold with an FPR of at most 0.01.
    tpr_01_percent: the same at 0.001.
  """

  auc: Float[np.ndarray, '*b']
  balanced_accuracy: Float[np.ndarray, '*b']
  tpr_1_percent: Float[np.ndarray, '*b']
  tpr_01_percent: Float[np.ndarray, '*b']


class DenseRanks(NamedTuple):
  """Dense ranks of both kinds of scores, 0 for the highest of all values."""

  positive: Int[np.ndarray, 'p']
  negative: Int[np.ndarray, 'q']
  total: int


def _check_scores(name: str, scores: Scores) -> Float[np.ndarray, '_']:
  array_checks.check_array(f'array of {name} scores', scores)
  errors.check(scores.size, f'no {name} scores: an audit needs both kinds')
  # A column would be joined with a row to a matrix of scores.
  errors.check(
    scores.ndim == 1,
    f'the {name} scores have shape {scores.shape}; give one score a point',
  )
  bad = np.isnan(scores)
  errors.check(
    not bad.any(),
    f'{int(bad.sum())} of {scores.size} {name} scores are NaN, the first at '
    f'{int(bad.argmax())}; drop them or correct their source',
  )
  return np.asarray(scores, np.float64)


def dense_ranks(positive: Scores, negative: Scores) -> DenseRanks:
  """Ranks all scores together.

  Raises:
    UserError: a side is empty or has NaN.
  """
  scores = [
    _check_scores('member', positive),
    _check_scores('non-member', negative),
  ]
  # Negated, so that the highest score has rank 0.
  values, rank = np.unique(-np.concatenate(scores), return_inverse=True)
  return DenseRanks(rank[: positive.size], rank[positive.size :], values.size)


def curve_statistics(curve: RocCurve) -> RocStatistics:
  """Summarizes a curve."""
  fpr, tpr = curve
  # Trapezoids: a tie is a straight segment, worth one half.
  area = np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)
  balance = np.abs(fpr + tpr - 1).argmin()
  accuracy = (1 + tpr[balance] - fpr[balance]) / 2
  tprs = [np.max(tpr[fpr <= rate + _ROUNDING]) for rate in FALSE_POSITIVE_RATES]
  return RocStatistics(area, accuracy, *tprs)


def roc(positive: Scores, negative: Scores) -> RocCurve:
  """The ROC curve of scores; scores at or above a threshold are accused.

  Args:
    positive: scores of members, higher is more like a member.
    negative: scores of non-members.

  Raises:
    UserError: a side is empty or has NaN.
  """
  ranks = dense_ranks(positive, negative)

  def rates(rank: Int[np.ndarray, '_']) -> Float[np.ndarray, 't']:
    sums = np.bincount(rank, minlength=ranks.total).cumsum()
    return np.pad(sums / rank.size, (1, 0))

  return RocCurve(rates(ranks.negative), rates(ranks.positive))


def auc(positive: Scores, negative: Scores) -> float:
  """P(positive > negative) + P(positive = negative) / 2, by mid-ranks."""
  return float(curve_statistics(roc(positive, negative)).auc)


def tied_share(scores: Scores) -> float:
  """The share of the most common score."""
  return float(np.unique(scores, return_counts=True)[1].max() / scores.size)


def tpr_at(positive: Scores, negative: Scores, fpr: float) -> float:
  """The highest TPR of a threshold with at most this FPR."""
  errors.check(
    0 <= fpr <= 1, f'a false positive rate of {fpr} is not from 0 to 1'
  )
  curve = roc(positive, negative)
  return float(curve.tpr[curve.fpr <= fpr + _ROUNDING].max())


def balanced_accuracy(positive: Scores, negative: Scores) -> float:
  """Mean of TPR and 1 - FPR at the most similar error rates."""
  return float(curve_statistics(roc(positive, negative)).balanced_accuracy)


def hanley_mcneil_error(area: float, positives: int, negatives: int) -> float:
  """The standard error of an AUC for exponential scores.

  Args:
    area: the AUC.
    positives: number of members.
    negatives: number of non-members.

  References:
    Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve,
    Radiology 143 (1982), equation 2.
  """
  q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
  variance = (
    area * (1 - area)
    + (positives - 1) * (q1 - area**2)
    + (negatives - 1) * (q2 - area**2)
  ) / (positives * negatives)
  # Rounding may leave less than 0 for a perfect separation.
  return math.sqrt(max(variance, 0.0))


def detectable_auc(
  positives: int,
  negatives: int,
  significance: float = 0.05,
  power: float = 0.8,
  *,
  design: float = 1.0,
  degrees: float = math.inf,
) -> float | None:
  """The smallest AUC above 1/2 that a test on so many points detects.

  The test of AUC = 1/2 is two-sided, because scores below chance tell points
  apart too. Standard errors are those of `hanley_mcneil_error`.

  Args:
    positives: number of members.
    negatives: number of non-members.
    significance: of both sides together.
    power: probability with which the test detects the AUC.
    design: multiple of these errors, for scores that depend on each other.
    degrees: degrees of freedom of an estimated error.

  Returns:
    The AUC, or None if the test would miss even a perfect separation.
  """
  # A single point or cluster has no spread to test with.
  if degrees < 1:
    return None
  # The test rejects above this distance from 1/2.
  level = stats.t.isf(significance / 2, degrees) * design
  level *= hanley_mcneil_error(0.5, positives, negatives)
  quantile = stats.norm.ppf(power) * design

  def excess(area: float) -> float:
    error = hanley_mcneil_error(area, positives, negatives)
    return area - 0.5 - level - quantile * error

  # Few points have an error at 1/2 that no AUC exceeds.
  if excess(1.0) < 0:
    return None
  return float(optimize.brentq(excess, 0.5, 1.0))
