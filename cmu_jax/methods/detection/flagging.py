"""How many samples to flag, read off S_f and nothing else.

S_f is a uniform sample of the bad ones, so the share r of S_f above a threshold
estimates the recall of flagging what lies above it. Of the rest a share p lies
there. With a share pi of bad ones in the rest, r - p is (1 - pi) times recall
less false positive rate: the threshold that is best for r - p is best for the
balanced error, without a sample that is known to be good.

References:
  Menon et al., Learning from Corrupted Binary Labels via Class-Probability
  Estimation, ICML 2015: the balanced error is immune to such corruption.
"""

from collections.abc import Callable

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from cmu_jax.methods.detection.detector_data import DetectorData

_RECALL = 0.5
_LIFT = 1.5
_LEVEL = 0.05
_DRAWS = 9_999

Score = Callable[[DetectorData], Float[np.ndarray, 'n']]


def flag(
  score: Float[np.ndarray, 'n'], identified: Bool[np.ndarray, 'n']
) -> Bool[np.ndarray, 'n']:
  """Flags what scores at least the best threshold among the scores of S_f.

  A threshold qualifies if half of S_f passes it, 1.5 times as often as the
  rest does, and more often than chance has it (binomial, 5 % over all
  thresholds). Of those, r - p chooses; ties go to the lower threshold.

  Args:
    score: suspicion; rows of S_f must not have been fitted to as such.
    identified: which rows are of S_f.

  Returns:
    The rows outside S_f to flag; none where no threshold qualifies.
  """
  mine, rest = np.sort(score[identified]), np.sort(score[~identified])
  if not (mine.size and rest.size):
    return np.zeros_like(identified)
  threshold = np.unique(mine)
  hits = mine.size - np.searchsorted(mine, threshold)
  others = rest.size - np.searchsorted(rest, threshold)
  recall, share = hits / mine.size, others / rest.size
  chance = scipy.stats.binom.sf(hits - 1, mine.size, share) * threshold.size
  fits = (recall >= _RECALL) & (recall >= _LIFT * share) & (chance < _LEVEL)
  if not fits.any():
    return np.zeros_like(identified)
  quality = np.where(fits, np.round(recall - share, 9), -np.inf)
  return (score >= threshold[np.argmax(quality)]) & ~identified


def flag_by_class(
  score: Score, evidence: DetectorData, minimum: int = 1
) -> Bool[np.ndarray, 'n']:
  """Scores and flags within each trained class on its own.

  Args:
    score: from the samples of one class to their suspicion.
    evidence: all samples.
    minimum: rows of S_f that a class needs to be looked at.

  Returns:
    The rows outside S_f to flag.
  """
  found = np.zeros_like(evidence.identified)
  labels, counts = np.unique(
    evidence.label[evidence.identified], return_counts=True
  )
  for label in labels[counts >= minimum]:
    here, part = select_class(evidence, label)
    found[here] = flag(score(part), part.identified)
  return found


def flag_jointly(score: Score, evidence: DetectorData) -> Bool[np.ndarray, 'n']:
  """Flags in all trained classes of S_f or in none, by one test.

  Of m rows of S_f in a class h are suspects, as is a share p of all its rows.
  The sum of |h - m p| over the classes is held against what it is for S_f drawn
  at random from each class (hypergeometric). The distance counts and not its
  sign: S_f itself says which side is the suspect one. A few rows a class, which
  tell nothing there, may do so together.

  Args:
    score: from the samples of one class to 1 for suspects and 0 for others.
    evidence: all samples.

  Returns:
    The suspects outside S_f; none where half of S_f, 1.5 times the share of all
    and chance (5 %, 9,999 draws that are always the same) are not passed.
  """
  suspects = np.zeros_like(evidence.identified)
  counts = []
  for label in np.unique(evidence.label[evidence.identified]):
    here, part = select_class(evidence, label)
    suspects[here] = hit = score(part) > 0
    known = part.identified
    counts.append((hit[known].sum(), known.sum(), hit.sum(), hit.size))
  if not counts:
    return suspects
  hits, sizes, inside, rows = np.array(counts).T
  expected = sizes * inside / rows
  apart = lambda found: np.abs(found - expected).sum(axis=-1)
  draws = np.random.default_rng(0).hypergeometric(
    inside, rows - inside, sizes, (_DRAWS, len(counts))
  )
  chance = (1 + (apart(draws) >= apart(hits) - 1e-9).sum()) / (1 + _DRAWS)
  least = max(_RECALL * sizes.sum(), _LIFT * expected.sum())
  passed = chance < _LEVEL and hits.sum() >= least
  return suspects & ~evidence.identified & passed


def select_class(
  evidence: DetectorData, label: np.integer
) -> tuple[np.ndarray, DetectorData]:
  """The rows trained with this label, and the evidence of them."""
  here = np.flatnonzero(evidence.label == label)
  return here, DetectorData(*(x[here] for x in evidence))
