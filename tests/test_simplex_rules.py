"""Cubature tables, Monte Carlo, distances and linearised networks."""

import math

import jax
import numpy as np
import pytest
from close import assert_close
from simplex_case import (
  X,
  case,
  chances,
  corners_of,
  mean,
  moment,
  network,
  points,
)

from cmu_jax.core import errors
from cmu_jax.methods import simplex

RULES = {
  'centroid': 1,
  'vertices': 1,
  'cubature2': 2,
  'cubature3': 3,
  'grundmann_moeller': 5,
}


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize('q', [2, 3, 5, 8])
@pytest.mark.parametrize('method', RULES)
def test_rules_are_exact_to_their_degree_and_no_further(method, q):
  nodes, weights = simplex.simplex_weights(q, method)
  assert abs(weights.sum() - 1) < 1e-12 and nodes.shape == (len(weights), q)
  assert nodes.min() >= 0 and np.abs(nodes.sum(1) - 1).max() < 1e-12
  a = np.random.default_rng(q).normal(size=q)
  error = lambda k: abs(weights @ (nodes @ a) ** k - moment(a, k))
  for degree in range(RULES[method] + 1):
    assert error(degree) < 1e-12
  # Two vertices: odd degrees beyond vanish by symmetry.
  assert q == 2 or error(RULES[method] + 1) > 1e-6


@pytest.mark.parametrize('degree', [1, 3, 7, 9])
def test_grundmann_moeller_has_its_nodes_and_degree(degree):
  nodes, weights = simplex.simplex_weights(4, 'grundmann_moeller', degree)
  assert len(weights) == math.comb(4 + degree // 2, degree // 2)
  a = np.array([0.3, -1.2, 0.7, 1.9])
  error = lambda k: abs(weights @ (nodes @ a) ** k - moment(a, k))
  assert max(error(k) for k in range(degree + 1)) < 1e-11
  assert error(degree + 1) > 1e-7


@pytest.mark.parametrize(
  'q, variance, covariance', [(2, 1 / 12, -1 / 12), (3, 1 / 18, -1 / 36)]
)
@pytest.mark.parametrize('method', list(RULES)[2:])
def test_second_moments_of_small_simplices(q, variance, covariance, method):
  nodes, weights = simplex.simplex_weights(q, method)
  found = (nodes.T * weights) @ nodes - 1 / q**2
  assert np.abs(np.diag(found) - variance).max() < 1e-14
  assert abs(found[0, 1] - covariance) < 1e-14


def test_which_weights_are_positive():
  for q in (2, 3, 8, 30):
    assert simplex.simplex_weights(q, 'cubature2')[1].min() > 0
    nodes, weights = simplex.simplex_weights(q, 'cubature3')
    assert abs(weights[0] + q**2 / (4 * (q + 1))) < 1e-12
    assert np.allclose(weights[1:], (q + 2) ** 2 / (4 * q * (q + 1)))
    assert np.allclose(nodes[1], 1 / q + 2 * (np.eye(q)[0] - 1 / q) / (q + 2))
  for method in RULES:
    nodes, weights = simplex.simplex_weights(1, method)
    assert np.allclose(nodes, 1) and abs(weights.sum() - 1) < 1e-12


def test_unusable_rules_are_named():
  for arguments, message in (
    ((0, 'centroid'), '1 vertex or more'),
    ((3, 'grundmann_moeller', 4), 'degree 4 is not odd'),
    ((30, 'grundmann_moeller', 13), 'takes 1947792 nodes'),
  ):
    with pytest.raises(errors.UserError, match=message):
      simplex.simplex_weights(*arguments)


@pytest.mark.parametrize('seed', range(3))
def test_monte_carlo_finds_the_fine_rule(seed):
  found = case(size=0.5, seed=seed)
  fine = mean(chances, found, X, method='grundmann_moeller', degree=11).value
  key = jax.random.key(seed)
  with_control = mean(chances, found, X, method='mc_cv', n=4000, key=key)
  plain = mean(chances, found, X, method='mc', n=4000, key=key)
  for sampled in (with_control, plain):
    assert (np.abs(sampled.value - fine) < 4.5 * sampled.error).all()
  assert with_control.error.mean() < plain.error.mean()


def test_distances_and_angles_of_the_simplex():
  found = points()
  corners = corners_of(found)
  assert_close(found.vertices()['w'], corners, 1e-14)
  d = corners - corners.mean(0)
  assert_close(found.gram(), d @ d.T, 1e-12)
  radius = np.sqrt((d**2).sum() / (4 * 5))
  assert_close(found.radius(), radius, 1e-12)
  rows = np.asarray(found.sample(jax.random.key(0), 20000))
  away = ((rows @ corners - corners.mean(0)) ** 2).sum(1)
  assert abs(away.mean() - radius**2) < 4.5 * away.std() / np.sqrt(20000)
  w = np.array([0.5, 0.25, 0.25, 0.0])
  assert_close(found.point(w)['w'], w @ corners, 1e-12)
  assert abs(moment(np.arange(4.0), 1) - 1.5) < 1e-12


def test_the_tangent_is_first_order_with_its_head_exact():
  found = case(size=0.3)
  softmax = lambda z: jax.nn.softmax(z, axis=-1)
  assert_close(
    mean(network, found, X, method='tangent').value,
    network(found.centroid(), X),
    1e-12,
  )
  # A network that is linear in its parameters is its own tangent.
  linear = lambda params, x: x @ params['body']['kernel']
  fine = mean(
    lambda p, x: softmax(linear(p, x)), found, X,
    method='grundmann_moeller', degree=11,
  ).value  # fmt: skip
  for anchor in ('centroid', 'base'):
    value = mean(
      linear, found, X, method='tangent', head=softmax, degree=11, anchor=anchor
    ).value
    assert_close(value, fine, 1e-10)
  at_base = mean(network, found, X, method='tangent', anchor='base').value
  slope = jax.jvp(
    lambda k: network({**found.base, 'head': k}, X),
    (found.base['head'],),
    (-0.7 * found.taus['head'].mean(0),),
  )
  rest = {'body': jax.tree.map(lambda x: -0.7 * x.mean(0), found.taus['body'])}
  other = jax.jvp(
    lambda b: network({**found.base, 'body': b}, X),
    (found.base['body'],),
    (rest['body'],),
  )
  assert_close(at_base, slope[0] + slope[1] + other[1], 1e-12)
