"""What a resample of scores shows, from how often each score was drawn.

Scores are sorted once. Of a resample only sums along them change, so that its
statistics take one pass over each kind of score and a few bisections, whatever
the resample is of: of scores, of networks, of points.

Intervals of scores that share something: a network, a point.

Scores of one network share its training, scores of one point under several
networks share its references and how hard it is. A bootstrap that draws scores
one by one takes all of them for news and is too narrow. Here whole clusters are
drawn, and a score counts as often as its cluster was. With two ways to cluster,
networks and points, a score counts by the product (the pigeonhole bootstrap),
which errs on the wide side where there are many of both. A handful of networks
makes every interval over them somewhat narrow.

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
from cmu_jax.core import errors, rng
from cmu_jax.core.types import PRNGKey

# Resamples that are counted at once, which bounds the memory.
_RESAMPLES_AT_ONCE = 64


class SortedScores(NamedTuple):
  """Both kinds of scores, the highest first, among t different ones.

  Attributes:
    positive: order[i] is which score of members is the i-th highest.
    negative: likewise of non-members.
    members: how many members have one of the u highest different scores, for
      u from 0 to t.
    others: likewise of non-members.
    over: members that lie above each non-member in that order.
    level: members that lie above it or are tied with it.
  """

  positive: Int[np.ndarray, 'p']
  negative: Int[np.ndarray, 'q']
  members: Int[np.ndarray, 't1']
  others: Int[np.ndarray, 't1']
  above: Int[np.ndarray, 'q']
  above_or_tied: Int[np.ndarray, 'q']


def sort_scores(
  positive: roc_curves.Scores, negative: roc_curves.Scores
) -> SortedScores:
  """Sorts scores.

  Raises:
    UserError: a side is empty or has NaN.
  """
  at = roc_curves.dense_ranks(positive, negative)
  one = np.argsort(at.positive, kind='stable')
  two = np.argsort(at.negative, kind='stable')
  first, second = at.positive[one], at.negative[two]
  ends = np.arange(at.total + 1)
  return SortedScores(
    one,
    two,
    np.searchsorted(first, ends, 'left'),
    np.searchsorted(second, ends, 'left'),
    np.searchsorted(first, second, 'left'),
    np.searchsorted(first, second, 'right'),
  )


def _running_sums(weight: Num[np.ndarray, 'b n']) -> Int[np.ndarray, 'b n1']:
  """Running sums that begin with 0."""
  found = np.zeros((len(weight), weight.shape[1] + 1), np.int64)
  np.cumsum(weight, axis=1, out=found[:, 1:])
  return found


def _last_at_most(
  value: Callable[[Int[np.ndarray, 'b']], Float[np.ndarray, 'b']],
  limit: float,
  shape: tuple[int, int],
) -> Int[np.ndarray, 'b']:
  """The last u from 0 to most at which a rising value is at most `limit`."""
  count, most = shape
  low, high = np.zeros(count, np.int64), np.full(count, most + 1)
  while (high - low > 1).any():
    middle = (low + high) // 2
    below = value(np.minimum(middle, most)) <= limit
    low, high = np.where(below, middle, low), np.where(below, high, middle)
  return low


def resample_statistics(
  at: SortedScores,
  members: Num[np.ndarray, 'b p'],
  others: Num[np.ndarray, 'b q'],
) -> roc_curves.RocStatistics:
  """The statistics of b resamples, as `roc_curves.curve_statistics` has them
  of one sample.

  Args:
    at: the scores.
    members: how often each score of a member was drawn, in the order `at`; at
      least one in every resample.
    others: likewise of non-members.
  """
  yes, no = _running_sums(members), _running_sums(others)
  rows, most = np.arange(len(yes)), at.members.size - 1
  all_yes, all_no = yes[:, -1], no[:, -1]
  tpr = lambda u: yes[rows, at.members[u]] / all_yes
  fpr = lambda u: no[rows, at.others[u]] / all_no
  before = np.take(yes, at.above, axis=1) + np.take(
    yes, at.above_or_tied, axis=1
  )
  area = np.einsum('bq,bq->b', others, before, dtype=float)
  shape = (len(yes), most)
  below = _last_at_most(lambda u: fpr(u) + tpr(u), 1.0, shape)
  above = np.minimum(below + 1, most)
  nearer = 1 - (fpr(below) + tpr(below)) <= fpr(above) + tpr(above) - 1
  best = np.where(nearer, below, above)
  low = [
    tpr(_last_at_most(fpr, rate + 1e-12, shape))
    for rate in roc_curves.FALSE_POSITIVE_RATES
  ]
  return roc_curves.RocStatistics(
    area / (2 * all_yes * all_no), (1 + tpr(best) - fpr(best)) / 2, *low
  )


def join_statistics(
  blocks: list[roc_curves.RocStatistics],
) -> roc_curves.RocStatistics:
  """Statistics of blocks of resamples, one after another."""
  columns = zip(*blocks, strict=True)
  return roc_curves.RocStatistics(*(np.concatenate(x) for x in columns))


def bootstrap(
  key: PRNGKey,
  positive: roc_curves.Scores,
  negative: roc_curves.Scores,
  replicates: int = 1000,
) -> roc_curves.RocStatistics:
  """The statistics of resamples, members and non-members each drawn anew.

  The resamples know the sampling of points, not of target or reference
  models: an interval over trainings comes from trainings. Scores that share a
  network or a point are not independent: see `resampling.bootstrap_clusters`.

  Args:
    key: of the resamples.
    positive: scores of members.
    negative: scores of non-members.
    replicates: how many.
  """
  at = sort_scores(positive, negative)

  def drawn(name: str, start: int, order: np.ndarray) -> np.ndarray:
    own, shape = rng.fold_in(key, name, start), (_RESAMPLES_AT_ONCE, order.size)
    draws = np.asarray(jax.random.randint(own, shape, 0, order.size))
    return np.take(count_draws(draws), order, axis=1)

  def block(start: int) -> roc_curves.RocStatistics:
    members = drawn('positive', start, at.positive)
    return resample_statistics(
      at, members, drawn('negative', start, at.negative)
    )

  found = join_statistics(
    [block(start) for start in range(0, replicates, _RESAMPLES_AT_ONCE)]
  )
  return roc_curves.RocStatistics(*(x[:replicates] for x in found))


def count_draws(draws: Int[np.ndarray, 'b n']) -> Int[np.ndarray, 'b n']:
  """How often each of n things is among n draws, in each row."""
  size = draws.shape[1]
  rows = [np.bincount(row, minlength=size) for row in draws]
  return np.array(rows, np.int32)


# Weights of resamples that are held at once: what a cache takes.
_WEIGHTS_AT_ONCE = 2**18


class Clusters(NamedTuple):
  """Which cluster each score is of: an integer from 0 on, a score each.

  Attributes:
    positive: of the scores of members.
    negative: of the scores of non-members; the same integer is the same
      cluster on both sides.
  """

  positive: Int[np.ndarray, '_']
  negative: Int[np.ndarray, '_']


def _draw_counts(
  key: PRNGKey, count: int, replicates: int
) -> Int[np.ndarray, 'b c']:
  """How often each of `count` clusters is drawn, in each resample."""
  draws = jax.random.randint(key, (replicates, count), 0, count)
  return count_draws(np.asarray(draws))


def bootstrap_clusters(
  key: PRNGKey,
  positive: roc_curves.Scores,
  negative: roc_curves.Scores,
  clusters: Sequence[Clusters],
  replicates: int = 1000,
) -> roc_curves.RocStatistics:
  """The statistics of resamples of whole clusters.

  Args:
    key: of the resamples.
    positive: scores of members.
    negative: scores of non-members.
    clusters: one or more ways to cluster the scores, each drawn by itself.
    replicates: how many; those that hold only one kind of score are left out.

  Raises:
    UserError: clusters that are not one a score, or too few of them.
  """
  for one in clusters:
    errors.check(
      (one.positive.size, one.negative.size) == (positive.size, negative.size),
      f'{one.positive.size} and {one.negative.size} cluster numbers for '
      f'{positive.size} and {negative.size} scores; give one a score',
    )
  at = sort_scores(positive, negative)
  ways = []
  for i, one in enumerate(clusters):
    names, number = np.unique(
      np.concatenate([one.positive, one.negative]), return_inverse=True
    )
    drawn = _draw_counts(rng.fold_in(key, 'way', i), names.size, replicates)
    first, second = np.split(number, [positive.size])
    ways.append((drawn, first[at.positive], second[at.negative]))

  def block(rows: slice) -> roc_curves.RocStatistics:
    members, others = (
      functools.reduce(
        np.multiply, [np.take(way[0][rows], way[side], axis=1) for way in ways]
      )
      for side in (1, 2)
    )
    both = (members.sum(axis=1) > 0) & (others.sum(axis=1) > 0)
    return resample_statistics(at, members[both], others[both])

  step = max(_WEIGHTS_AT_ONCE // (positive.size + negative.size), 1)
  starts = range(0, replicates, step)
  made = join_statistics([block(slice(i, i + step)) for i in starts])
  errors.check(
    made.auc.size >= 2,
    'too few clusters: no resample holds scores of both kinds',
  )
  return made
