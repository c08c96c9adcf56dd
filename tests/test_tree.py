"""Task vectors: identities, structural exclusion, controls."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import tree
from cmu_jax.core.types import Variables


class Net(nn.Module):
  """One of each: dense, a BatchNorm of any name, LayerNorm, a head."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(4, name='body')(x)
    x = nn.BatchNorm(use_running_average=not train, name='whitening')(x)
    x = nn.LayerNorm(name='layer')(x)
    return nn.Dense(3, name='head')(x)


@pytest.fixture(scope='module')
def variables():
  found = jax.jit(Net().init)(jax.random.key(0), jnp.ones((2, 5)))
  return Variables(found['params'], found['batch_stats'])


def moved(params, key=1):
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(key), len(leaves))
  return jax.tree.unflatten(
    structure,
    [
      x + jax.random.normal(k, x.shape)
      for k, x in zip(keys, leaves, strict=True)
    ],
  )


def test_subtracting_tau_once_undoes_the_fine_tuning(variables):
  start, end = variables.params, moved(variables.params)
  tau = tree.task_vector(end, start)
  chex.assert_trees_all_close(
    jax.jit(tree.edit)(end, tree.task_vector(start, end), 1.0), start, atol=1e-6
  )
  chex.assert_trees_all_close(tree.edit(start, tau, 1.0), end, atol=1e-6)


def test_alpha_zero_is_the_identity_bit_for_bit(variables):
  tau = tree.task_vector(variables.params, moved(variables.params))
  chex.assert_trees_all_equal(
    tree.edit(variables.params, tau, 0.0), variables.params
  )


@settings(deadline=None, max_examples=10)
@given(st.floats(-4, 4), st.floats(-4, 4))
def test_edits_add_up(first, second):
  theta = {'w': jnp.arange(6.0).reshape(2, 3)}
  tau = {'w': jnp.ones((2, 3))}
  one = tree.edit(tree.edit(theta, tau, first), tau, second)
  chex.assert_trees_all_close(
    one, tree.edit(theta, tau, first + second), atol=1e-5
  )


def test_normalisation_with_statistics_is_excluded_whatever_its_name(variables):
  tau = tree.task_vector(
    variables.params, moved(variables.params), tree.edit_predicate(variables)
  )
  assert not any(jnp.any(x) for x in jax.tree.leaves(tau['whitening']))
  for part in ('body', 'layer', 'head'):
    assert all(jnp.all(x != 0) for x in jax.tree.leaves(tau[part]))


def test_frozen_parts_are_excluded(variables):
  tau = tree.task_vector(
    variables.params,
    moved(variables.params),
    tree.edit_predicate(variables, frozen=('head',)),
  )
  assert not any(jnp.any(x) for x in jax.tree.leaves(tau['head']))
  assert jnp.any(tau['body']['kernel'])


def test_leaves_that_are_not_floats_pass_through():
  start = {'w': jnp.ones(2), 'count': jnp.arange(2), 'name': 'relu'}
  end = {'w': jnp.zeros(2), 'count': jnp.arange(2) + 7, 'name': 'relu'}
  tau = tree.task_vector(start, end)
  edited = tree.edit(start, tau, 2.0)
  assert edited['name'] == 'relu'
  np.testing.assert_array_equal(edited['count'], start['count'])
  np.testing.assert_array_equal(edited['w'], np.full(2, 3.0))
  assert float(tree.norm(tau)) == pytest.approx(np.sqrt(2))


def test_edit_keeps_dtypes():
  theta = {'w': jnp.ones(3, jnp.bfloat16)}
  assert tree.edit(theta, {'w': jnp.ones(3)}, 0.5)['w'].dtype == jnp.bfloat16


@pytest.mark.parametrize('distribution', ['normal', 'uniform'])
def test_random_vector_has_the_norm_of_every_leaf(variables, distribution):
  tau = tree.task_vector(
    variables.params, moved(variables.params), tree.edit_predicate(variables)
  )
  noise = tree.random_like(jax.random.key(3), tau, distribution)
  for a, b in zip(jax.tree.leaves(noise), jax.tree.leaves(tau), strict=True):
    np.testing.assert_allclose(
      jnp.linalg.norm(a), jnp.linalg.norm(b), rtol=1e-5
    )
  kernel = noise['body']['kernel']
  assert jnp.all(kernel >= 0) == (distribution == 'uniform')


def test_stack_index_and_mean_agree():
  trees = [{'a': jnp.full(2, float(i))} for i in range(3)]
  stacked = tree.stack(trees)
  chex.assert_trees_all_equal(tree.index(stacked, 2), trees[2])
  chex.assert_trees_all_equal(tree.mean(stacked), trees[1])
