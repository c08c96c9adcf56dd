"""Intervals of scores that share networks and points."""

import jax
import numpy as np
import pytest

from cmu_jax import audits
from cmu_jax.core import errors

KEY = jax.random.key(0)


def scores(seed, p=150, q=170, shift=0.5):
  generator = np.random.default_rng(seed)
  return generator.normal(shift, 1, p), generator.normal(0, 1, q)


def own(positive, negative):
  """Every score a cluster of its own."""
  both = np.arange(positive.size + negative.size)
  return audits.Clusters(both[: positive.size], both[positive.size :])


def test_copies_of_a_point_are_no_news():
  positive, negative = scores(1)
  one = own(positive, negative)
  plain = audits.bootstrap_clusters(KEY, positive, negative, [one], 200)
  many = audits.bootstrap_clusters(
    KEY,
    np.tile(positive, 5),
    np.repeat(negative, 5),
    [audits.Clusters(np.tile(one.positive, 5), np.repeat(one.negative, 5))],
    200,
  )
  for first, second in zip(plain, many, strict=True):
    np.testing.assert_allclose(first, second, atol=1e-12)
  taken = audits.bootstrap(
    KEY, np.tile(positive, 5), np.tile(negative, 5), 200
  ).auc.std()
  assert 1.8 < many.auc.std() / taken < 2.7  # the root of 5


def test_scores_of_their_own_spread_as_the_plain_bootstrap_does():
  positive, negative = scores(2)
  found = audits.bootstrap_clusters(
    KEY, positive, negative, [own(positive, negative)], 600
  )
  plain = audits.bootstrap(KEY, positive, negative, 600)
  assert found.auc.mean() == pytest.approx(plain.auc.mean(), abs=0.005)
  assert found.auc.std() == pytest.approx(plain.auc.std(), rel=0.15)


def test_a_resample_is_what_it_says():
  """Each is the statistic of the scores, repeated as often as drawn."""
  positive = np.array([3.0, 1.0, 2.0, 2.0])
  negative = np.array([2.0, 0.0, 1.0])
  networks = audits.Clusters(np.array([0, 0, 1, 1]), np.array([0, 1, 1]))
  found = audits.bootstrap_clusters(KEY, positive, negative, [networks], 64)
  possible = [
    audits.auc(
      np.concatenate([positive[networks.positive == i] for i in draw]),
      np.concatenate([negative[networks.negative == i] for i in draw]),
    )
    for draw in ((0, 0), (0, 1), (1, 1))
  ]
  assert set(np.round(found.auc, 9)) == set(np.round(possible, 9))


def test_two_ways_cover_where_points_and_networks_vary():
  """Eight networks are few: too seldom still, but far from single scores."""
  generator = np.random.default_rng(5)
  held = {'none': 0, 'both': 0}
  rounds, networks, points = 30, 8, 60
  for i in range(rounds):
    shared = generator.normal(0, 1, (1, 2 * points))
    training = generator.normal(0, 0.7, (networks, 2))
    member = np.arange(2 * points) < points
    score = shared + np.where(member, training[:, :1], training[:, 1:])
    score = score + generator.normal(0, 0.3, score.shape)
    first, second = score[:, member].ravel(), score[:, ~member].ravel()
    network, point = (
      index.reshape(networks, 2 * points) for index in np.indices(score.shape)
    )
    ways = [
      audits.Clusters(x[:, member].ravel(), x[:, ~member].ravel())
      for x in (network, point)
    ]
    for name, told in (('none', ()), ('both', ways)):
      auroc = audits.evaluate(
        jax.random.key(i), first, second, clusters=told, replicates=64
      ).auroc
      held[name] += auroc.low <= 0.5 <= auroc.high
  assert held['none'] < 0.8 * held['both']
  assert held['both'] >= 0.7 * rounds


def test_clusters_that_cannot_be():
  positive, negative = scores(3)
  with pytest.raises(errors.UserError, match='give one a score'):
    audits.bootstrap_clusters(
      KEY, positive, negative[1:], [own(positive, negative)]
    )
  apart = audits.Clusters(np.zeros(1, int), np.ones(1, int))
  with pytest.raises(errors.UserError, match='too few clusters'):
    audits.bootstrap_clusters(KEY, positive[:1], negative[:1], [apart], 1)
