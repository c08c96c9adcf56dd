"""An audit of scores: numbers, their intervals, and a conclusion.

The conclusion rests on the interval AUC +- t s. The standard error s is that of
the resamples, so it knows clusters. The quantile t is Student's, because a few
networks or points estimate s badly. Among m attacks on the same points one
succeeds by chance more often than a single attack. Each interval therefore has
the confidence 1 - (1 - c) / m (Bonferroni): all m hold together at c.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from cmu_jax.audits import resampling, roc_curves
from cmu_jax.audits.resampling import Clusters
from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey

# If more of the scores are equal, the attack ignores most points.
_MAX_TIED_SHARE = 0.9
# With fewer reference models, chance decides which points look unusual.
MIN_REFERENCES = 4


class DecisionRule(NamedTuple):
  """The demands on the evidence of an audit.

  Attributes:
    confidence: of the intervals, between 0 and 1.
    attacks: number of attacks on the same points, whose verdicts are read
      together.
    tolerated_auc: a leak up to this AUC may go unnoticed. If the interval
      passes it, or passes 1 - tolerated_auc, the verdict is 'cannot conclude'.
  """

  confidence: float = 0.95
  attacks: int = 1
  tolerated_auc: float = 0.55

  @property
  def significance(self) -> float:
    """The error probability of an attack, of both sides together."""
    return (1 - self.confidence) / self.attacks


DEFAULT_RULE = DecisionRule()


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
    confidence: of the percentile intervals.
    standard_error: of the AUC, over resamples.
    attacks: number of attacks whose intervals hold together.
    interval: ends of the interval of the AUC that decides the verdict.
    detectable: smallest AUC that such points show with probability .8; None
      if no AUC does.
    verdict: 'leaks', 'reversed' (members score lower than non-members),
      'no leak found' or 'cannot conclude'.
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
  standard_error: float
  attacks: int
  interval: tuple[float, float]
  detectable: float | None
  verdict: str
  says: str


class _Evidence(NamedTuple):
  """The facts that decide the verdict."""

  auc: float
  interval: tuple[float, float]
  references: int | None
  rule: DecisionRule
  by_chance: str | None  # the things that are too few, in the plural
  tied: float


def _describe_interval(evidence: _Evidence) -> str:
  """The AUC with its interval, and the number of attacks."""
  low, high = evidence.interval
  count = evidence.rule.attacks
  together = f' for {count} attacks together' if count > 1 else ''
  return (
    f'AUC {evidence.auc:.3f}, {evidence.rule.confidence:.0%} interval '
    f'{low:.3f} to {high:.3f}{together}'
  )


def _conclude(evidence: _Evidence) -> tuple[str, str]:
  """The verdict, and a sentence with its reason.

  The sentences are part of results.json.
  """
  interval, (low, high) = _describe_interval(evidence), evidence.interval
  tolerated = evidence.rule.tolerated_auc
  # Objections to any conclusion come before the conclusions.
  if evidence.references is not None and evidence.references < MIN_REFERENCES:
    return (
      'cannot conclude',
      f'Cannot conclude: {evidence.references} reference models are too few; '
      f'train {MIN_REFERENCES} or more.',
    )
  if evidence.by_chance is not None:
    return (
      'cannot conclude',
      f'Cannot conclude: so few {evidence.by_chance} are parted like this by '
      f'chance, too (AUC {evidence.auc:.3f}); audit more {evidence.by_chance}.',
    )
  if low > 0.5:
    return (
      'leaks',
      f'The attack tells the points apart ({interval}): something of them is '
      'left in the network.',
    )
  # Below chance, the reversed score tells members.
  if high < 0.5:
    return (
      'reversed',
      f'The points score lower than unseen ones ({interval}). If they were '
      'unlearned, more was forgotten than retraining forgets, and this tells '
      'them apart too. Else distrust the audit: the points differ in kind, or '
      'the references differ from the network.',
    )
  if high > tolerated or low < 1 - tolerated:
    return (
      'cannot conclude',
      f'Cannot conclude: an AUC beyond {tolerated:.2f} or below '
      f'{1 - tolerated:.2f} is possible ({interval}); audit more points.',
    )
  # Ties alone draw the AUC to 1/2, whatever leaks.
  if evidence.tied > _MAX_TIED_SHARE:
    return (
      'cannot conclude',
      f'Cannot conclude: {evidence.tied:.0%} of the scores are equal, so that '
      f'this attack says nothing of most points ({interval}).',
    )
  return (
    'no leak found',
    f'This attack found no leak ({interval}); up to {tolerated:.2f} is '
    'tolerated. A stronger attack may find one.',
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


def _degrees_of_freedom(
  positives: int, negatives: int, clusters: Sequence[Clusters]
) -> int:
  """Degrees of freedom of the standard error, by the smallest count."""
  counts = [
    np.union1d(cluster.positive, cluster.negative).size for cluster in clusters
  ]
  # The coarsest clusters limit the knowledge of the spread.
  return min(counts or [positives, negatives]) - 1


def _smallest_p_value(cluster: Clusters) -> float:
  """The probability of a complete separation of clusters by chance."""
  positive, negative = np.unique(cluster.positive), np.unique(cluster.negative)
  mixed = np.intersect1d(positive, negative).size
  alone = positive.size - mixed, negative.size - mixed
  # Each mixed cluster falls to either side; the others are shuffled.
  return min(2 * 0.5**mixed / float(special.comb(sum(alone), alone[0])), 1.0)


def _find_too_few(
  positive: roc_curves.Scores,
  negative: roc_curves.Scores,
  clusters: Sequence[Clusters],
  significance: float,
) -> str | None:
  """Names what is so few that chance separates it like this too often.

  Every resample of few, perfectly separated scores is separated too: their
  standard error is 0 even if chance explains the separation.
  """
  if float(stats.mannwhitneyu(positive, negative).pvalue) >= significance:
    return 'points'
  # The test above takes scores of a cluster for independent ones.
  bounds = [_smallest_p_value(cluster) for cluster in clusters]
  return (
    'networks or other clusters of points'
    if max(bounds, default=0.0) >= significance
    else None
  )


def _decision_interval(
  auc: float, standard_error: float, degrees: int, significance: float
) -> tuple[float, float]:
  """The interval of the AUC that decides the verdict."""
  # A single point or cluster has no spread: any AUC is possible.
  if degrees < 1:
    return 0.0, 1.0
  half = float(stats.t.isf(significance / 2, degrees)) * standard_error
  return max(auc - half, 0.0), min(auc + half, 1.0)


def _design_factor(
  auc: float, standard_error: float, positives: int, negatives: int
) -> float:
  """The standard error as a multiple of that of independent scores."""
  independent = roc_curves.hanley_mcneil_error(auc, positives, negatives)
  # A perfect separation has no error to compare with.
  return max(standard_error / independent, 1.0) if independent else 1.0


def evaluate(
  key: PRNGKey,
  positive: roc_curves.Scores,
  negative: roc_curves.Scores,
  *,
  references: int | None = None,
  clusters: Sequence[Clusters] = (),
  replicates: int = 1000,
  rule: DecisionRule = DEFAULT_RULE,
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
    rule: confidence, number of attacks that are read together, and the leak
      that may go unnoticed.

  Raises:
    UserError: a side is empty or has NaN, or an impossible setting.
  """
  _check_rule(rule)
  errors.check(replicates >= 2, f'{replicates} replicates; use 2 or more')
  point = roc_curves.curve_statistics(roc_curves.roc(positive, negative))
  resampled = (
    resampling.bootstrap_clusters(key, positive, negative, clusters, replicates)
    if clusters
    else resampling.bootstrap(key, positive, negative, replicates)
  )
  auroc, accuracy, *tprs = _estimates(point, resampled, rule.confidence)
  # With fewer than 1 / rate non-members, only a rate of 0 is below the limit.
  tpr_1_percent, tpr_01_percent = (
    tpr if negative.size * rate >= 1 else None
    for tpr, rate in zip(tprs, roc_curves.FALSE_POSITIVE_RATES, strict=True)
  )
  sizes = positive.size, negative.size
  # Tails of a few resampled clusters are too short, their spread is not.
  error = float(np.std(resampled.auc, ddof=1))
  degrees = _degrees_of_freedom(*sizes, clusters)
  interval = _decision_interval(auroc.value, error, degrees, rule.significance)
  separated = interval[0] > 0.5 or interval[1] < 0.5
  # One place for all facts: the order of the reasons is visible there.
  verdict, sentence = _conclude(
    _Evidence(
      auroc.value,
      interval,
      references,
      rule,
      _find_too_few(positive, negative, clusters, rule.significance)
      if separated
      else None,
      roc_curves.tied_share(np.concatenate([positive, negative])),
    )
  )
  return Audit(
    positives=positive.size,
    negatives=negative.size,
    references=references,
    auroc=auroc,
    balanced_accuracy=accuracy,
    tpr_1_percent=tpr_1_percent,
    tpr_01_percent=tpr_01_percent,
    confidence=rule.confidence,
    standard_error=error,
    attacks=rule.attacks,
    interval=interval,
    detectable=roc_curves.detectable_auc(
      *sizes,
      rule.significance,
      design=_design_factor(auroc.value, error, *sizes),
      degrees=float(degrees),
    ),
    verdict=verdict,
    says=sentence,
  )


def _check_rule(rule: DecisionRule) -> None:
  errors.check(
    0 < rule.confidence < 1,
    f'confidence is {rule.confidence}; it must be within 0 and 1',
  )
  errors.check(
    rule.attacks >= 1, f'{rule.attacks} attacks; give the number of those tried'
  )
  errors.check(
    # No interval lies within an AUC of 1/2 alone.
    0.5 < rule.tolerated_auc <= 1,
    f'the tolerated AUC is {rule.tolerated_auc}; it lies above .5 and up to 1',
  )
