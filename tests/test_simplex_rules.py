"""Cubature tables against closed forms."""

import math

import numpy as np
import pytest
from simplex_case import moment

from cmu_jax.core import errors
from cmu_jax.methods import simplex

RULES = {
  'centroid': 1,
  'vertices': 1,
  'cubature2': 2,
  'cubature3': 3,
  'grundmann_moeller': 5,
}


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
