"""Rules for the number of flagged samples; they use S_f and nothing else.

S_f is a uniform sample of the bad ones, so the share r of S_f above a threshold
estimates the recall of flagging everything above it. Of the other samples a
share p lies there. If a share pi of them is bad, r - p is (1 - pi) times recall
less false positive rate. The threshold that maximizes r - p therefore minimizes
the balanced error, without a sample that is known to be good.

References:
  Menon et al., Learning from Corrupted Binary Labels via Class-Probability
  Estimation, ICML 2015: the balanced error is immune to such corruption.
"""

from collections.abc import Callable

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from cmu_jax.methods.detection.detector_data import DetectorData

# A threshold must catch half of S_f, and S_f 1.5 times as often as the others.
_RECALL = 0.5
_LIFT = 1.5
_LEVEL = 0.05
_DRAWS = 9_999

Score = Callable[[DetectorData], Float[np.ndarray, 'n']]


def flag(
  score: Float[np.ndarray, 'n'], identified: Bool[np.ndarray, 'n']
) -> Bool[np.ndarray, 'n']:
  """Flags the samples above the best threshold among the scores of S_f.

  A threshold qualifies if half of S_f reaches it, 1.5 times as often as the
  other samples, and more often than by chance (binomial, 5 % over all
  thresholds). Among these the largest r - p wins; ties go to the lower
  threshold.

  Args:
    score: suspicion; must not come from a fit to the membership in S_f.
    identified: rows of S_f.

  Returns:
    The rows outside S_f to flag; none if no threshold qualifies.
  """
  inside = np.sort(score[identified])
  outside = np.sort(score[~identified])
  if not (inside.size and outside.size):
    return np.zeros_like(identified)
  threshold = np.unique(inside)
  hits = inside.size - np.searchsorted(inside, threshold)
  others = outside.size - np.searchsorted(outside, threshold)
  recall, share = hits / inside.size, others / outside.size
  # Bonferroni over the thresholds, because the best of them is reported.
  chance = scipy.stats.binom.sf(hits - 1, inside.size, share) * threshold.size
  fits = (recall >= _RECALL) & (recall >= _LIFT * share) & (chance < _LEVEL)
  if not fits.any():
    return np.zeros_like(identified)
  # Rounded, so that equal differences tie whatever their rounding errors.
  quality = np.where(fits, np.round(recall - share, 9), -np.inf)
  return (score >= threshold[np.argmax(quality)]) & ~identified


def flag_by_class(
  score: Score, data: DetectorData, minimum: int = 1
) -> Bool[np.ndarray, 'n']:
  """Scores and flags within each trained class separately.

  Args:
    score: from the samples of one class to their suspicion.
    minimum: rows of S_f that a class needs to be searched.

  Returns:
    The rows outside S_f to flag.
  """
  flags = np.zeros_like(data.identified)
  labels, counts = np.unique(data.label[data.identified], return_counts=True)
  for label in labels[counts >= minimum]:
    rows, members = select_class(data, label)
    flags[rows] = flag(score(members), members.identified)
  return flags


def flag_jointly(score: Score, data: DetectorData) -> Bool[np.ndarray, 'n']:
  """Flags the suspects of all trained classes of S_f, or none, by one test.

  Of m rows of S_f in a class h are suspects, as is a share p of all its rows.
  The test compares the sum of |h - m p| over classes with its distribution for
  S_f drawn at random from each class (hypergeometric). Classes with too few
  rows for a test of their own may so pass together.

  Args:
    score: from the samples of one class to 1 for suspects and 0 for others.

  Returns:
    The suspects outside S_f. None unless they contain half of S_f, 1.5 times
    their share of all rows, and beat chance (5 %).
  """
  suspects = np.zeros_like(data.identified)
  counts = []
  for label in np.unique(data.label[data.identified]):
    rows, members = select_class(data, label)
    suspects[rows] = hit = score(members) > 0
    inside = members.identified
    counts.append((hit[inside].sum(), inside.sum(), hit.sum(), hit.size))
  if not counts:
    return suspects
  hits, sizes, inside, rows = np.array(counts).T
  expected = sizes * inside / rows
  # The distance without its sign: the score of a class is already oriented
  # towards S_f, so a sign would count that choice as evidence.
  distance = lambda hits: np.abs(hits - expected).sum(axis=-1)
  # A fixed seed: the same data must always give the same flags.
  draws = np.random.default_rng(0).hypergeometric(
    inside, rows - inside, sizes, (_DRAWS, len(counts))
  )
  chance = (1 + (distance(draws) >= distance(hits) - 1e-9).sum()) / (1 + _DRAWS)
  least_hits = max(_RECALL * sizes.sum(), _LIFT * expected.sum())
  passed = chance < _LEVEL and hits.sum() >= least_hits
  return suspects & ~data.identified & passed


def select_class(
  data: DetectorData, label: np.integer
) -> tuple[np.ndarray, DetectorData]:
  """Selects the rows of a trained class; returns their positions and data."""
  rows = np.flatnonzero(data.label == label)
  return rows, DetectorData(*(x[rows] for x in data))
