"""Layers against those of Flax, and pools against their windows."""

import functools

import jax
import pytest
from close import assert_close
from flax import linen as nn
from jax import numpy as jnp

from cmu_jax.networks import layers


@pytest.mark.parametrize('train', (True, False))
def test_batch_norm_is_that_of_flax(train):
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 3, 5, 6))
  variables = {
    'params': {'scale': jnp.arange(1.0, 7), 'bias': jnp.arange(6.0)},
    'batch_stats': {'mean': jnp.arange(6.0), 'var': jnp.arange(2.0, 8)},
  }
  stock = nn.BatchNorm(
    use_running_average=not train, momentum=0.9, epsilon=1e-5
  )
  ours = functools.partial(layers.BatchNorm().apply, train=train)

  def run(apply, variables, x):
    y, state = apply(variables, x, mutable=['batch_stats'])
    return jnp.sum(jnp.sin(y)), state

  grads = [
    jax.value_and_grad(functools.partial(run, f), (0, 1), has_aux=True)(
      variables, x
    )
    for f in (ours, stock.apply)
  ]
  assert_close(*grads, 1e-3)


@pytest.mark.parametrize('train', (True, False))
def test_batch_norm_with_an_offset_is_that_of_the_shifted_input(train):
  x = jax.random.normal(jax.random.key(0), (4, 3, 5, 2))
  offset = jnp.asarray([0.5, -2.0])
  norm = layers.BatchNorm()
  variables = norm.init(jax.random.key(0), x, True)
  results = [
    norm.apply(variables, *args, mutable=['batch_stats'])
    for args in (
      (x, train, offset),
      (x + offset[None, None, None, :], train),
    )
  ]
  assert_close(*results, 1e-5)


def test_celu_and_its_derivatives_are_those_of_jax():
  x = jnp.linspace(-2, 2, 101)

  def orders(f):
    first = jax.vmap(jax.grad(f))
    return jax.vmap(f)(x), first(x), jax.vmap(jax.grad(jax.grad(f)))(x[x != 0])

  ours = orders(lambda x: layers.celu(x, 0.075))
  assert_close(ours, orders(lambda x: jax.nn.celu(x, 0.075)), 1e-5)


def test_pools_are_window_maxima():
  x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3), jnp.float32)
  positive = jax.nn.relu(x) + 0.1

  def windows(x, size, padding):
    return nn.max_pool(x, (size, size), (2, 2), padding)

  for ours, stock, x in (
    (layers.max_pool, lambda x: windows(x, 2, 'VALID'), x),
    (layers.max_pool3, lambda x: windows(x, 3, ((1, 1), (1, 1))), positive),
  ):
    assert_close(ours(x), stock(x))
    gradients = (
      jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x) for f in (ours, stock)
    )
    assert_close(*gradients)
