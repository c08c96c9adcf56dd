r"""Intervals of scores that share something: a network, a point.

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

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int, Num

from cmu_jax import errors, rng
from cmu_jax.audit import ranks
from cmu_jax.types import PRNGKey

# Weights of resamples that are held at once: what a cache takes.
_AT_ONCE = 2**18


class Clusters(NamedTuple):
  """Which cluster each score is of: an integer from 0 on, a score each.

  Attributes:
    positive: of the scores of members.
    negative: of the scores of non-members; the same integer is the same
      cluster on both sides.
  """

  positive: Int[np.ndarray, '_']
  negative: Int[np.ndarray, '_']


def _drawn(key: PRNGKey, count: int, replicates: int) -> Int[np.ndarray, 'b c']:
  """How often each of `count` clusters is drawn, in each resample."""
  draws = jax.random.randint(key, (replicates, count), 0, count)
  start = count * np.arange(replicates)[:, None]
  found = np.bincount(
    (start + np.asarray(draws)).ravel(), minlength=replicates * count
  )
  return found.reshape(replicates, count).astype(np.int32)


def _sums(
  weight: Num[np.ndarray, 'b n'], start: Int[np.ndarray, 't']
) -> Num[np.ndarray, 'b t']:
  return np.add.reduceat(weight, start, axis=1).cumsum(axis=1)


def clustered(
  key: PRNGKey,
  positive: ranks.Scores,
  negative: ranks.Scores,
  clusters: Sequence[Clusters],
  replicates: int = 1000,
) -> ranks.Statistics:
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
  found = ranks.places(positive, negative)
  place = np.concatenate([found.positive, found.negative])
  order = np.argsort(place, kind='stable')
  start = np.flatnonzero(np.diff(place[order], prepend=-1))
  member = (order < positive.size)[None, :]
  ways = []
  for i, one in enumerate(clusters):
    names, number = np.unique(
      np.concatenate([one.positive, one.negative]), return_inverse=True
    )
    drawn = _drawn(rng.named(key, 'way', i), names.size, replicates)
    ways.append((drawn, number[order]))

  def block(rows: slice) -> ranks.Statistics:
    weight = np.ones((1, place.size), np.int32)
    for drawn, number in ways:
      weight = weight * drawn[rows][:, number]
    yes = _sums(np.where(member, weight, 0), start)
    no = _sums(np.where(member, 0, weight), start)
    both = (yes[:, -1] > 0) & (no[:, -1] > 0)
    curve = (
      np.pad(side[both] / side[both, -1:], ((0, 0), (1, 0)))
      for side in (no, yes)
    )
    return ranks.read(ranks.Curve(*curve))

  step = max(_AT_ONCE // place.size, 1)
  blocks = [block(slice(i, i + step)) for i in range(0, replicates, step)]
  made = ranks.Statistics(
    *(np.concatenate(x) for x in zip(*blocks, strict=True))
  )
  errors.check(
    made.auc.size >= 2,
    'too few clusters: no resample holds scores of both kinds',
  )
  return made
