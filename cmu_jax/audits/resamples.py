"""What a resample of scores shows, from how often each score was drawn.

Scores are sorted once. Of a resample only sums along them change, so that its
statistics take one pass over each kind of score and a few bisections, whatever
the resample is of: of scores, of networks, of points.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Num

from cmu_jax.audits import ranks
from cmu_jax.core import rng
from cmu_jax.core.types import PRNGKey

# Resamples that are counted at once, which bounds the memory.
_BLOCK = 64


class Sorted(NamedTuple):
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
  over: Int[np.ndarray, 'q']
  level: Int[np.ndarray, 'q']


def ordered(positive: ranks.Scores, negative: ranks.Scores) -> Sorted:
  """Sorts scores.

  Raises:
    UserError: a side is empty or has NaN.
  """
  at = ranks.places(positive, negative)
  one = np.argsort(at.positive, kind='stable')
  two = np.argsort(at.negative, kind='stable')
  first, second = at.positive[one], at.negative[two]
  ends = np.arange(at.total + 1)
  return Sorted(
    one,
    two,
    np.searchsorted(first, ends, 'left'),
    np.searchsorted(second, ends, 'left'),
    np.searchsorted(first, second, 'left'),
    np.searchsorted(first, second, 'right'),
  )


def _sums(weight: Num[np.ndarray, 'b n']) -> Int[np.ndarray, 'b n1']:
  """Running sums that begin with 0."""
  found = np.zeros((len(weight), weight.shape[1] + 1), np.int64)
  np.cumsum(weight, axis=1, out=found[:, 1:])
  return found


def _last(
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


def statistics(
  at: Sorted, members: Num[np.ndarray, 'b p'], others: Num[np.ndarray, 'b q']
) -> ranks.Statistics:
  """The statistics of b resamples, as `ranks.read` has them of one sample.

  Args:
    at: the scores.
    members: how often each score of a member was drawn, in the order `at`; at
      least one in every resample.
    others: likewise of non-members.
  """
  yes, no = _sums(members), _sums(others)
  rows, most = np.arange(len(yes)), at.members.size - 1
  all_yes, all_no = yes[:, -1], no[:, -1]
  tpr = lambda u: yes[rows, at.members[u]] / all_yes
  fpr = lambda u: no[rows, at.others[u]] / all_no
  before = np.take(yes, at.over, axis=1) + np.take(yes, at.level, axis=1)
  area = np.einsum('bq,bq->b', others, before, dtype=float)
  shape = (len(yes), most)
  below = _last(lambda u: fpr(u) + tpr(u), 1.0, shape)
  above = np.minimum(below + 1, most)
  nearer = 1 - (fpr(below) + tpr(below)) <= fpr(above) + tpr(above) - 1
  best = np.where(nearer, below, above)
  low = [tpr(_last(fpr, rate + 1e-12, shape)) for rate in ranks.RATES]
  return ranks.Statistics(
    area / (2 * all_yes * all_no), (1 + tpr(best) - fpr(best)) / 2, *low
  )


def joined(blocks: list[ranks.Statistics]) -> ranks.Statistics:
  """Statistics of blocks of resamples, one after another."""
  columns = zip(*blocks, strict=True)
  return ranks.Statistics(*(np.concatenate(x) for x in columns))


def bootstrap(
  key: PRNGKey,
  positive: ranks.Scores,
  negative: ranks.Scores,
  replicates: int = 1000,
) -> ranks.Statistics:
  """The statistics of resamples, members and non-members each drawn anew.

  The resamples know the sampling of points, not of target or reference
  models: an interval over trainings comes from trainings. Scores that share a
  network or a point are not independent: see `clusters.clustered`.

  Args:
    key: of the resamples.
    positive: scores of members.
    negative: scores of non-members.
    replicates: how many.
  """
  at = ordered(positive, negative)

  def drawn(name: str, start: int, order: np.ndarray) -> np.ndarray:
    own, shape = rng.named(key, name, start), (_BLOCK, order.size)
    draws = np.asarray(jax.random.randint(own, shape, 0, order.size))
    return np.take(counts(draws), order, axis=1)

  def block(start: int) -> ranks.Statistics:
    members = drawn('positive', start, at.positive)
    return statistics(at, members, drawn('negative', start, at.negative))

  found = joined([block(start) for start in range(0, replicates, _BLOCK)])
  return ranks.Statistics(*(x[:replicates] for x in found))


def counts(draws: Int[np.ndarray, 'b n']) -> Int[np.ndarray, 'b n']:
  """How often each of n things is among n draws, in each row."""
  size = draws.shape[1]
  rows = [np.bincount(row, minlength=size) for row in draws]
  return np.array(rows, np.int32)
