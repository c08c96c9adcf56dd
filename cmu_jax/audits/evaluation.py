"""An audit of scores: numbers, their intervals, and what may be concluded."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from cmu_jax.audits import resampling, roc_curves
from cmu_jax.audits.resampling import Clusters
from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey

# A leak that is smaller than this AUC may go unnoticed without a word.
TOLERATED_AUC = 0.55
# A score that is the same for more of the points does not look at them.
_MAX_TIED_SHARE = 0.9
# Fewer reference models than these decide by chance which points look odd.
MIN_REFERENCES = 4


class BootstrapEstimate(NamedTuple):
  """A number with the percentile interval of a bootstrap."""

  value: float
  low: float
  high: float


class Audit(NamedTuple):
  """How well an attack tells members from non-members.

  Attributes:
    positives: how many members, or points to be told from others.
    negatives: how many non-members.
    references: how many reference models the scores rest on; None for an
      attack without any.
    auroc: area under the ROC curve; .5 is chance.
    balanced_accuracy: see `roc_curves.RocStatistics`.
    tpr_1_percent: true positive rate at 1 % false positives; None with fewer
      than 100 non-members, where only a rate of 0 is below it.
    tpr_01_percent: at 0.1 %; None with fewer than 1000.
    confidence: of the intervals.
    detectable: the smallest AUC that so many points would show with
      probability .8; None where none would.
    verdict: 'leaks', 'no leak found' or 'cannot conclude'.
    says: the verdict in a sentence.
  """

  positives: int
  negatives: int
  references: int | None
  auroc: BootstrapEstimate
  balanced_accuracy: BootstrapEstimate
  tpr_1_percent: BootstrapEstimate | None
  tpr_01_percent: BootstrapEstimate | None
  confidence: float
  detectable: float | None
  verdict: str
  says: str


def _chance_probability(
  positive: roc_curves.Scores, negative: roc_curves.Scores
) -> float:
  """How likely shuffled labels part the scores as far; exact for few."""
  return float(stats.mannwhitneyu(positive, negative).pvalue)


def _conclude(
  auroc: BootstrapEstimate,
  detectable: float | None,
  references: int | None,
  tolerated: float,
  by_chance: bool,
  tied: float,
) -> tuple[str, str]:
  """The verdict, and a sentence that says what it rests on."""
  found = f'AUC {auroc.value:.3f}, interval {auroc.low:.3f} to {auroc.high:.3f}'
  if references is not None and references < MIN_REFERENCES:
    return (
      'cannot conclude',
      f'Cannot conclude: {references} reference models are too few; train '
      f'{MIN_REFERENCES} or more.',
    )
  if by_chance:
    return (
      'cannot conclude',
      f'Cannot conclude: so few points are parted like this by chance, too '
      f'(AUC {auroc.value:.3f}); audit more points.',
    )
  if auroc.low > 0.5:
    return (
      'leaks',
      f'The attack tells the points apart ({found}): something of them is '
      'left in the network.',
    )
  if auroc.high < 0.5:
    return (
      'leaks',
      f'The points score lower than unseen ones ({found}), which tells them '
      'apart too: more was forgotten than retraining forgets.',
    )
  if detectable is None or detectable > tolerated:
    least = '' if detectable is None else f' below AUC {detectable:.3f}'
    return (
      'cannot conclude',
      f'Cannot conclude: with so few points a leak{least} would go unnoticed '
      f'({found}); audit more points.',
    )
  if tied > _MAX_TIED_SHARE:
    return (
      'cannot conclude',
      f'Cannot conclude: {tied:.0%} of the scores are equal, so that this '
      f'attack says nothing of most points ({found}).',
    )
  return (
    'no leak found',
    f'This attack found no leak ({found}); it would have noticed an AUC of '
    f'{detectable:.3f}. A stronger attack may find one.',
  )


def _estimates(
  point: roc_curves.RocStatistics,
  drawn: roc_curves.RocStatistics,
  confidence: float,
) -> list[BootstrapEstimate]:
  tails = [(1 - confidence) / 2, (1 + confidence) / 2]
  return [
    BootstrapEstimate(float(value), *map(float, np.quantile(sample, tails)))
    for value, sample in zip(point, drawn, strict=True)
  ]


def evaluate(
  key: PRNGKey,
  positive: roc_curves.Scores,
  negative: roc_curves.Scores,
  *,
  references: int | None = None,
  clusters: Sequence[Clusters] = (),
  replicates: int = 1000,
  confidence: float = 0.95,
  tolerated_auc: float = TOLERATED_AUC,
) -> Audit:
  """Audits scores of members against those of non-members.

  Args:
    key: of the bootstrap.
    positive: scores of members; higher is more like a member.
    negative: scores of non-members.
    references: how many reference models the scores rest on, if any.
    clusters: what scores share, which is then drawn as a whole; () takes each
      score for independent of the others.
    replicates: bootstrap resamples.
    confidence: of the intervals, between 0 and 1.
    tolerated_auc: the AUC up to which a leak may go unnoticed before the
      answer is 'cannot conclude'.

  Raises:
    UserError: a side is empty or has NaN, or a setting cannot be.
  """
  errors.check(
    0 < confidence < 1, f'confidence is {confidence}; it must be within 0 and 1'
  )
  errors.check(replicates >= 2, f'{replicates} replicates; use 2 or more')
  point = roc_curves.curve_statistics(roc_curves.roc(positive, negative))
  drawn = (
    resampling.bootstrap_clusters(key, positive, negative, clusters, replicates)
    if clusters
    else resampling.bootstrap(key, positive, negative, replicates)
  )
  auroc, accuracy, *low = _estimates(point, drawn, confidence)
  # No threshold of too few non-members has such a rate.
  first, second = (
    found if negative.size * rate >= 1 else None
    for found, rate in zip(low, roc_curves.FALSE_POSITIVE_RATES, strict=True)
  )
  detectable = roc_curves.detectable_auc(positive.size, negative.size)
  # Resamples of few scores that are parted cannot but be parted, too.
  parted = auroc.low > 0.5 or auroc.high < 0.5
  by_chance = (
    parted and _chance_probability(positive, negative) >= 1 - confidence
  )
  verdict, says = _conclude(
    auroc,
    detectable,
    references,
    tolerated_auc,
    by_chance,
    roc_curves.tied_share(np.concatenate([positive, negative])),
  )
  return Audit(
    positives=positive.size,
    negatives=negative.size,
    references=references,
    auroc=auroc,
    balanced_accuracy=accuracy,
    tpr_1_percent=first,
    tpr_01_percent=second,
    confidence=confidence,
    detectable=detectable,
    verdict=verdict,
    says=says,
  )
