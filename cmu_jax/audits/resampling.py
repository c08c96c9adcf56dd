"""Bootstrap intervals of ROC statistics, over scores or over clusters.

Scores are sorted once. A resample changes only sums along them, so its
statistics take one pass over each kind of score and a few bisections.

Scores of one network share its training; scores of one point under several
networks share its references and its difficulty. A bootstrap of single scores
treats all of them as independent and its intervals are too narrow.
`bootstrap_clusters` resamples whole clusters: a score counts as often as its
cluster is drawn. With two kinds of clusters, networks and points, a score
counts by the product (the pigeonhole bootstrap), which is conservative with
many of both. Intervals over a handful of networks are somewhat too narrow.

References:
  The pigeonhole bootstrap, arXiv 0712.1111; Bootstrapping data arrays of
  arbitrary order, arXiv 1106.2125.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Num

from cmu_jax.audits import roc_curves
from cmu_jax.audits.roc_curves import RocStatistics, Scores
from cmu_jax.core import errors, rng
from cmu_jax.core.types import PRNGKey

# Bounds of the memory: resamples that are counted together, and, for clusters,
# weights that fit a processor's cache.
_RESAMPLES_AT_ONCE = 64
_WEIGHTS_AT_ONCE = 2**18


class SortedScores(NamedTuple):
  """Both kinds of scores, the highest first, with t different values.

  Attributes:
    positive: indices of the members' scores in descending order.
    negative: likewise of non-members.
    members: number of members with one of the u highest values, for u from 0
      to t.
    others: likewise of non-members.
    above: number of members above each non-member, in descending order.
    above_or_tied: number of members above or tied with it.
  """

  positive: Int[np.ndarray, 'p']
  negative: Int[np.ndarray, 'q']
  members: Int[np.ndarray, 't1']
  others: Int[np.ndarray, 't1']
  above: Int[np.ndarray, 'q']
  above_or_tied: Int[np.ndarray, 'q']


class Clusters(NamedTuple):
  """The cluster of each score, an integer from 0 on.

  Attributes:
    positive: of the scores of members.
    negative: of the scores of non-members; the same integer is the same
      cluster on both sides.
  """

  positive: Int[np.ndarray, '_']
  negative: Int[np.ndarray, '_']


def sort_scores(positive: Scores, negative: Scores) -> SortedScores:
  """Sorts scores.

  Raises:
    UserError: a side is empty or has NaN.
  """
  ranks = roc_curves.dense_ranks(positive, negative)
  # Stable: equal scores keep their order, so that a key fixes the result.
  members = np.argsort(ranks.positive, kind='stable')
  others = np.argsort(ranks.negative, kind='stable')
  member_rank, other_rank = ranks.positive[members], ranks.negative[others]
  ends = np.arange(ranks.total + 1)
  return SortedScores(
    members,
    others,
    np.searchsorted(member_rank, ends, 'left'),
    np.searchsorted(other_rank, ends, 'left'),
    np.searchsorted(member_rank, other_rank, 'left'),
    np.searchsorted(member_rank, other_rank, 'right'),
  )


def _running_sums(weight: Num[np.ndarray, 'b n']) -> Int[np.ndarray, 'b n1']:
  """Running sums that begin with 0."""
  sums = np.zeros((len(weight), weight.shape[1] + 1), np.int64)
  np.cumsum(weight, axis=1, out=sums[:, 1:])
  return sums


def _last_at_most(
  value: Callable[[Int[np.ndarray, 'b']], Float[np.ndarray, 'b']],
  limit: float,
  shape: tuple[int, int],
) -> Int[np.ndarray, 'b']:
  """Bisects for the last u at which a rising value is at most `limit`."""
  # All resamples together: a loop over them would be slow.
  count, largest = shape
  low, high = np.zeros(count, np.int64), np.full(count, largest + 1)
  while (high - low > 1).any():
    middle = (low + high) // 2
    below = value(np.minimum(middle, largest)) <= limit
    low, high = np.where(below, middle, low), np.where(below, high, middle)
  return low


def resample_statistics(
  scores: SortedScores,
  members: Num[np.ndarray, 'b p'],
  others: Num[np.ndarray, 'b q'],
) -> RocStatistics:
  """The statistics of b resamples, as `curve_statistics` of a single sample.

  Args:
    scores: sorted scores.
    members: multiplicity of each member's score in sorted order; a resample
      has at least one.
    others: likewise of non-members.
  """
  member_sums, other_sums = _running_sums(members), _running_sums(others)
  # Gathers pick an entry for each resample.
  rows, largest = np.arange(len(member_sums)), scores.members.size - 1
  positives, negatives = member_sums[:, -1], other_sums[:, -1]
  tpr = lambda u: member_sums[rows, scores.members[u]] / positives
  fpr = lambda u: other_sums[rows, scores.others[u]] / negatives
  # Twice the mid-rank: members above each non-member, ties for half.
  double_rank = np.take(member_sums, scores.above, axis=1) + np.take(
    member_sums, scores.above_or_tied, axis=1
  )
  area = np.einsum('bq,bq->b', others, double_rank, dtype=float)
  shape = (len(member_sums), largest)
  # FPR + TPR rises from 0 to 2; the error rates are equal where it is 1.
  below = _last_at_most(lambda u: fpr(u) + tpr(u), 1.0, shape)
  above = np.minimum(below + 1, largest)
  nearer = 1 - (fpr(below) + tpr(below)) <= fpr(above) + tpr(above) - 1
  balance = np.where(nearer, below, above)
  tprs = [
    tpr(_last_at_most(fpr, rate + 1e-12, shape))
    for rate in roc_curves.FALSE_POSITIVE_RATES
  ]
  return RocStatistics(
    area / (2 * positives * negatives),
    (1 + tpr(balance) - fpr(balance)) / 2,
    *tprs,
  )


def join_statistics(blocks: list[RocStatistics]) -> RocStatistics:
  """Concatenates statistics of blocks of resamples."""
  columns = zip(*blocks, strict=True)
  return RocStatistics(*(np.concatenate(column) for column in columns))


def count_draws(draws: Int[np.ndarray, 'b n']) -> Int[np.ndarray, 'b n']:
  """The multiplicity of each of n items among n draws, in each row."""
  size = draws.shape[1]
  # Counting takes a pass; comparing with every item takes n.
  rows = [np.bincount(row, minlength=size) for row in draws]
  return np.array(rows, np.int32)


def bootstrap(
  key: PRNGKey, positive: Scores, negative: Scores, replicates: int = 1000
) -> RocStatistics:
  """The statistics of resamples; members and non-members are drawn separately.

  The resamples reflect the sampling of points, not of target or reference
  models: intervals over trainings need several trainings. For scores that
  share a network or a point, see `bootstrap_clusters`.

  Args:
    key: of the resamples.
    positive: scores of members.
    negative: scores of non-members.
    replicates: number of resamples.
  """
  scores = sort_scores(positive, negative)

  def draw(name: str, start: int, order: np.ndarray) -> np.ndarray:
    draw_key = rng.fold_in(key, name, start)
    shape = (_RESAMPLES_AT_ONCE, order.size)
    draws = np.asarray(jax.random.randint(draw_key, shape, 0, order.size))
    return np.take(count_draws(draws), order, axis=1)

  blocks = [
    resample_statistics(
      scores,
      draw('positive', start, scores.positive),
      draw('negative', start, scores.negative),
    )
    for start in range(0, replicates, _RESAMPLES_AT_ONCE)
  ]
  # Blocks have a fixed size, so that the key of a block fixes its draws.
  return RocStatistics(*(x[:replicates] for x in join_statistics(blocks)))


def bootstrap_clusters(
  key: PRNGKey,
  positive: Scores,
  negative: Scores,
  clusters: Sequence[Clusters],
  replicates: int = 1000,
) -> RocStatistics:
  """The statistics of resamples of whole clusters.

  Args:
    key: of the resamples.
    positive: scores of members.
    negative: scores of non-members.
    clusters: one or more ways to cluster the scores, drawn independently.
    replicates: number of resamples; a resample with a single kind of score is
      left out.

  Raises:
    UserError: cluster numbers that do not match the scores, or too few
      clusters.
  """
  scores = sort_scores(positive, negative)
  groupings = []
  for i, cluster in enumerate(clusters):
    sizes = cluster.positive.size, cluster.negative.size
    errors.check(
      sizes == (positive.size, negative.size),
      f'{sizes[0]} and {sizes[1]} cluster numbers for {positive.size} and '
      f'{negative.size} scores; give one a score',
    )
    # Members and non-members of a network share its luck.
    names, number = np.unique(
      np.concatenate([cluster.positive, cluster.negative]), return_inverse=True
    )
    draws = jax.random.randint(
      rng.fold_in(key, 'way', i), (replicates, names.size), 0, names.size
    )
    members, others = np.split(number, [positive.size])
    groupings.append(
      (
        count_draws(np.asarray(draws)),
        members[scores.positive],
        others[scores.negative],
      )
    )

  def block(rows: slice) -> RocStatistics:
    members, others = (
      functools.reduce(
        np.multiply,
        [np.take(g[0][rows], g[side], axis=1) for g in groupings],
      )
      for side in (1, 2)
    )
    # A product of two draws may leave no score of a kind.
    complete = (members.sum(axis=1) > 0) & (others.sum(axis=1) > 0)
    return resample_statistics(scores, members[complete], others[complete])

  step = max(_WEIGHTS_AT_ONCE // (positive.size + negative.size), 1)
  statistics = join_statistics(
    [block(slice(i, i + step)) for i in range(0, replicates, step)]
  )
  errors.check(
    statistics.auc.size >= 2,
    'too few clusters: no resample holds scores of both kinds',
  )
  return statistics
