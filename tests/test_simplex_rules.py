"""Cubature tables, the series of exponentials, heads: closed forms."""

import decimal
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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


@pytest.mark.parametrize('q', [1, 3, 30])
def test_equally_spaced_exponents(q):
  with jax.enable_x64(True):
    found = simplex.log_mean_exp_simplex(jnp.arange(q, dtype=float))
  assert abs(float(found) - (q - 1) * math.log(math.e - 1)) < 2e-14 * q
  if q == 30:
    assert abs(float(found) - 15.698420783774623) < 1e-13


def by_decimals(a):
  """log E exp(w.a) by partial fractions, at 120 digits."""
  with decimal.localcontext() as context:
    context.prec = 120
    values = [decimal.Decimal(float(x)) for x in a]
    total = decimal.Decimal(0)
    for i, x in enumerate(values):
      gaps = [x - y for j, y in enumerate(values) if j != i]
      total += x.exp() / math.prod(gaps, start=decimal.Decimal(1))
    return float((total * math.factorial(len(values) - 1)).ln())


@pytest.mark.parametrize('q', [2, 5, 30])
def test_the_series_agrees_with_many_digits(q):
  spreads = np.array([0.1, 1.0, 10.0, 90.0])
  a = spreads[:, None] * np.random.default_rng(q).uniform(size=q) - 3
  expected = np.array([by_decimals(row) for row in a])
  with jax.enable_x64(True):
    found = np.asarray(simplex.log_mean_exp_simplex(jnp.asarray(a)))
  error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
  assert error.max() < 1e-13


def test_the_series_with_two_and_with_equal_nodes():
  with jax.enable_x64(True):
    a = jnp.array([[1.3, -0.4], [2.0, 2.0]])
    found = simplex.log_mean_exp_simplex(a)
    expected = np.log((np.exp(1.3) - np.exp(-0.4)) / 1.7)
    np.testing.assert_allclose(found, [expected, 2.0], rtol=1e-15)
    along = jax.jit(simplex.log_mean_exp_simplex, static_argnums=1)(a.T, 0)
    np.testing.assert_allclose(along, found, rtol=1e-14)


def test_the_gradient_repeats_a_node():
  with jax.enable_x64(True):
    a = jnp.array([0.4, -1.0, 2.2, -1.0])
    mean = lambda x: jnp.exp(simplex.log_mean_exp_simplex(x, terms=80))
    slope = jax.grad(mean)(a)
    for i in range(4):
      again = mean(jnp.append(a, a[i])) / 4
      assert abs(float(slope[i] - again)) < 1e-14
    assert abs(float(slope.sum() - mean(a))) < 1e-13


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-30, 30), min_size=4, max_size=4))
def test_a_mean_of_exponentials_lies_between_its_bounds(values):
  # Float32, inside of jit: Jensen from below, the vertices from above.
  a = jnp.asarray(values, jnp.float32)
  found = float(_traced(a))
  assert found >= float(a.mean()) - 1e-4
  assert found <= float(jax.nn.logsumexp(a)) - math.log(4) + 1e-4
  moved = float(_traced(a[::-1] + 5)) - 5
  assert abs(moved - found) < 2e-4


_traced = jax.jit(simplex.log_mean_exp_simplex)


@pytest.mark.parametrize('score', ['probs', 'logits', 'mean_exp'])
def test_heads_agree_with_a_fine_rule(score):
  rng = np.random.default_rng(3)
  features, head = rng.normal(size=(3, 2, 4)) + 2, rng.normal(size=(5, 4))
  nodes, weights = simplex.simplex_weights(3, 'grundmann_moeller', 15)
  unit = lambda u: u / np.linalg.norm(u, axis=-1, keepdims=True)
  softmax = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
  mixed = 3.0 * unit(np.einsum('mq,qnd->mnd', nodes, features)) @ head.T
  corners = 3.0 * unit(features) @ head.T
  exponents = np.exp(np.einsum('mq,qnk->mnk', nodes, corners))
  means = np.einsum('m,mnk->nk', weights, exponents)
  expected = {
    'logits': np.einsum('m,mnk->nk', weights, mixed),
    'probs': np.einsum('m,mnk->nk', weights, softmax(mixed)),
    'mean_exp': means / means.sum(-1, keepdims=True),
  }[score]
  with jax.enable_x64(True):
    found = simplex.head_ensemble(
      jnp.asarray(features), jnp.asarray(head), 3.0, score, degree=13
    )
  np.testing.assert_allclose(found, expected, atol=2e-5)
  if score == 'mean_exp':
    # A score of its own: not the mean of the softmax.
    other = np.einsum('m,mnk->nk', weights, softmax(mixed))
    assert np.abs(np.asarray(found) - other).max() > 1e-3


def test_heads_without_normalisation_and_unknown_scores():
  features, head = np.arange(12.0).reshape(2, 2, 3), np.eye(3)[:2]
  found = simplex.head_ensemble(
    jnp.asarray(features, jnp.float32), jnp.asarray(head), 2.0, 'logits', False
  )
  np.testing.assert_allclose(found, 2 * features.mean(0) @ head.T, rtol=1e-6)
  with pytest.raises(errors.UserError, match="did you mean 'probs'"):
    simplex.head_ensemble(jnp.ones((2, 3)), jnp.ones((2, 3)), 1.0, 'prob')
