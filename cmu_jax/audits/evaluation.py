"""An audit of scores: numbers, their intervals, and a conclusion."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from cmu_jax.audits import resampling, roc_curves
from cmu_jax.audits.resampling import Clusters
from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey

# An audit may miss a leak below this AUC without a warning.
TOLERATED_AUC = 0.55
# If more of the scores are equal, the attack ignores most points.
_MAX_TIED_SHARE = 0.9
# With fewer reference models, chance decides which points look unusual.
MIN_REFERENCES = 4


class BootstrapEstimate(NamedTuple):
  """A number with the percentile interval of a bootstrap."""

  value: float
  low: float
  high: float


class Audit(NamedTuple):
  """The success of an attack that tells members from non-members.

  Attributes:
    positives: number of members, or of points to be told from others.
    negatives: number of non-members.
    references: number of reference models behind the scores; None for an
      attack without references.
    auroc: area under the ROC curve; .5 is chance.
    balanced_accuracy: see `roc_curves.RocStatistics`.
    tpr_1_percent: true positive rate at 1 % false positives; None with fewer
      than 100 non-members.
    tpr_01_percent: at 0.1 %; None with fewer than 1000.
    confidence: of the intervals.
    detectable: smallest AUC that so many points show with probability .8; None
      if no AUC does.
    verdict: 'leaks', 'no leak found' or 'cannot conclude'.
    says: the verdict as a sentence.
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


class _Evidence(NamedTuple):
  """The facts that decide the verdict."""

  auroc: BootstrapEstimate
  detectable: float | None
  references: int | None
  tolerated_auc: float
  by_chance: bool
  tied: float


def _conclude(evidence: _Evidence) -> tuple[str, str]:
  """The verdict, and a sentence with its reason.

  The sentences are part of results.json.
  """
  auroc, detectable = evidence.auroc, evidence.detectable
  interval = (
    f'AUC {auroc.value:.3f}, interval {auroc.low:.3f} to {auroc.high:.3f}'
  )
  if evidence.references is not None and evidence.references < MIN_REFERENCES:
    return (
      'cannot conclude',
      f'Cannot conclude: {evidence.references} reference models are too few; '
      f'train {MIN_REFERENCES} or more.',
    )
  if evidence.by_chance:
    return (
      'cannot conclude',
      f'Cannot conclude: so few points are parted like this by chance, too '
      f'(AUC {auroc.value:.3f}); audit more points.',
    )
  if auroc.low > 0.5:
    return (
      'leaks',
      f'The attack tells the points apart ({interval}): something of them is '
      'left in the network.',
    )
  # A score below that of unseen points identifies a member as well.
  if auroc.high < 0.5:
    return (
      'leaks',
      f'The points score lower than unseen ones ({interval}), which tells them '
      'apart too: more was forgotten than retraining forgets.',
    )
  if detectable is None or detectable > evidence.tolerated_auc:
    limit = '' if detectable is None else f' below AUC {detectable:.3f}'
    return (
      'cannot conclude',
      f'Cannot conclude: with so few points a leak{limit} would go unnoticed '
      f'({interval}); audit more points.',
    )
  if evidence.tied > _MAX_TIED_SHARE:
    return (
      'cannot conclude',
      f'Cannot conclude: {evidence.tied:.0%} of the scores are equal, so that '
      f'this attack says nothing of most points ({interval}).',
    )
  return (
    'no leak found',
    f'This attack found no leak ({interval}); it would have noticed an AUC of '
    f'{detectable:.3f}. A stronger attack may find one.',
  )


def _estimates(
  point: roc_curves.RocStatistics,
  resampled: roc_curves.RocStatistics,
  confidence: float,
) -> list[BootstrapEstimate]:
  tails = [(1 - confidence) / 2, (1 + confidence) / 2]
  return [
    BootstrapEstimate(float(value), *map(float, np.quantile(sample, tails)))
    for value, sample in zip(point, resampled, strict=True)
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
    references: number of reference models behind the scores, or None.
    clusters: scores that depend on each other, resampled together; () treats
      all scores as independent.
    replicates: bootstrap resamples.
    confidence: of the intervals, between 0 and 1.
    tolerated_auc: a leak up to this AUC may go unnoticed; beyond it the
      verdict is 'cannot conclude'.

  Raises:
    UserError: a side is empty or has NaN, or an impossible setting.
  """
  errors.check(
    0 < confidence < 1, f'confidence is {confidence}; it must be within 0 and 1'
  )
  errors.check(replicates >= 2, f'{replicates} replicates; use 2 or more')
  point = roc_curves.curve_statistics(roc_curves.roc(positive, negative))
  resampled = (
    resampling.bootstrap_clusters(key, positive, negative, clusters, replicates)
    if clusters
    else resampling.bootstrap(key, positive, negative, replicates)
  )
  auroc, accuracy, *tprs = _estimates(point, resampled, confidence)
  # With fewer than 1 / rate non-members, only a rate of 0 is below the limit.
  tpr_1_percent, tpr_01_percent = (
    tpr if negative.size * rate >= 1 else None
    for tpr, rate in zip(tprs, roc_curves.FALSE_POSITIVE_RATES, strict=True)
  )
  # Every resample of few, perfectly separated scores is separated too: the
  # interval excludes .5 even if chance explains the separation.
  separated = auroc.low > 0.5 or auroc.high < 0.5
  by_chance = separated and (
    float(stats.mannwhitneyu(positive, negative).pvalue) >= 1 - confidence
  )
  evidence = _Evidence(
    auroc,
    roc_curves.detectable_auc(positive.size, negative.size),
    references,
    tolerated_auc,
    by_chance,
    roc_curves.tied_share(np.concatenate([positive, negative])),
  )
  verdict, sentence = _conclude(evidence)
  return Audit(
    positives=positive.size,
    negatives=negative.size,
    references=references,
    auroc=auroc,
    balanced_accuracy=accuracy,
    tpr_1_percent=tpr_1_percent,
    tpr_01_percent=tpr_01_percent,
    confidence=confidence,
    detectable=evidence.detectable,
    verdict=verdict,
    says=sentence,
  )
