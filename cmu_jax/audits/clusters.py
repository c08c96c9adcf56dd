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

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from cmu_jax.audits import ranks, resamples
from cmu_jax.core import errors, rng
from cmu_jax.core.types import PRNGKey

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
  return resamples.counts(np.asarray(draws))


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
  at = resamples.ordered(positive, negative)
  ways = []
  for i, one in enumerate(clusters):
    names, number = np.unique(
      np.concatenate([one.positive, one.negative]), return_inverse=True
    )
    drawn = _drawn(rng.named(key, 'way', i), names.size, replicates)
    first, second = np.split(number, [positive.size])
    ways.append((drawn, first[at.positive], second[at.negative]))

  def block(rows: slice) -> ranks.Statistics:
    members, others = (
      functools.reduce(
        np.multiply, [np.take(way[0][rows], way[side], axis=1) for way in ways]
      )
      for side in (1, 2)
    )
    both = (members.sum(axis=1) > 0) & (others.sum(axis=1) > 0)
    return resamples.statistics(at, members[both], others[both])

  step = max(_AT_ONCE // (positive.size + negative.size), 1)
  starts = range(0, replicates, step)
  made = resamples.joined([block(slice(i, i + step)) for i in starts])
  errors.check(
    made.auc.size >= 2,
    'too few clusters: no resample holds scores of both kinds',
  )
  return made
