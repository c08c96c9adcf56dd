"""The Lipschitz bound of single operations: closed forms, and refusals."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from cmu_jax import networks
from cmu_jax.networks import layers
from cmu_jax.robustness import lipschitz

KEY = jax.random.key(0)


def _bound(apply, shape, **options):
  return lipschitz.bound(KEY, apply, shape, **options)


SHAPE = (6, 6, 1)
_INDEX = np.asarray([4, 0, 2])
# Functions of an image, and their bounds.
CLOSED = {
  'relu': (nn.relu, 1),
  'relu6': (nn.relu6, 1),
  'hard_tanh': (nn.hard_tanh, 1),
  'leaky_relu': (lambda x: nn.leaky_relu(x, 0.2), 1),
  'steep_leaky': (lambda x: jnp.where(x < 0, -3 * x, x), 3),
  'sigmoid': (nn.sigmoid, 0.25),
  'softplus': (nn.softplus, 1),
  'elu': (nn.elu, 1),
  'celu': (lambda x: layers.celu(x, 0.075), 1),
  'silu': (nn.silu, 1.0998394),
  'tanh_scaled': (lambda x: 3 * jnp.tanh(x / 2), 1.5),
  'remat': (jax.checkpoint(lambda x: jnp.tanh(2 * x)), 2),
  'jit': (jax.jit(lambda x: jax.jit(jnp.abs)(x) - 1), 1),
  'mean': (lambda x: jnp.mean(x, (1, 2)), 1 / 6),
  'sum': (lambda x: jnp.sum(x, (1, 2)), 6),
  'residual': (lambda x: x + 2 * nn.relu(x), 3),
  'two_scales': (lambda x: 2 * x - jnp.flip(x, 1) * 0 - x, 1),
  'square_pool': (lambda x: nn.max_pool(x, (2, 2), (2, 2)), 1),
  'wide_pool': (lambda x: nn.max_pool(x, (3, 3), (1, 1)), 3),
  'max_pool': (layers.max_pool, 1),
  'row_maximum': (lambda x: jnp.max(x, 1), 1),
  'sorted': (lambda x: jnp.sort(x, 1), 1),
  'maxout': (lambda x: jnp.maximum(jnp.tanh(3 * x), jnp.tanh(4 * x)), 5),
  'side_by_side': (
    lambda x: jnp.concatenate([jnp.tanh(3 * x), jnp.abs(4 * x)], -1),
    5,
  ),
  'twice': (lambda x: jnp.concatenate([x, x], -1), math.sqrt(2)),
  'rows': (lambda x: 2 * x[:, _INDEX], 2),
  'padded': (lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) - 4, 1),
  'half_precision': (lambda x: nn.relu(3 * x.astype(jnp.bfloat16)), 3),
  'constant': (lambda x: jnp.ones(3), 0),
}


@pytest.mark.parametrize('name', CLOSED)
def test_closed_forms(name):
  apply, expected = CLOSED[name]
  np.testing.assert_allclose(_bound(apply, SHAPE).value, expected, rtol=1e-6)


@jax.custom_vjp
def _halved(x):
  return x / 2


_halved.defvjp(lambda x: (x / 2, None), lambda _, g: (7 * g,))


def test_the_function_counts_and_not_the_gradient_it_claims():
  assert _bound(_halved, SHAPE).value == pytest.approx(0.5)


UNBOUNDED = {
  'exp': (jnp.exp, 'exp'),
  'softmax': (nn.softmax, 'exp'),
  'product': (lambda x: x * jnp.flip(x, 1), 'product of two values'),
  'attention': (
    lambda x: jnp.einsum('nhwc,nvwc->nhv', x, x),
    'product of two values',
  ),
  'square': (lambda x: x**2, 'integer_pow'),
  'step': (lambda x: jnp.where(x > 0, x + 1, x), 'select_n'),
  'other_choice': (lambda x: jnp.where(x > 1, 2 * x, x), 'select_n'),
  'chosen_by_another': (
    lambda x: jnp.where(jnp.flip(x, 1) > 0, x, 0.0),
    'select_n',
  ),
  'quotient': (lambda x: 1 / (1 + jnp.abs(x)), 'div'),
  'loop': (
    lambda x: jax.lax.fori_loop(0, 3, lambda i, y: 2 * y, x),
    'scan',
  ),
}


@pytest.mark.parametrize('name', UNBOUNDED)
def test_what_has_no_bound_is_named(name):
  apply, operation = UNBOUNDED[name]
  found = _bound(apply, SHAPE)
  assert found.value is None and found.upper is None
  assert found.reason.startswith('no finite bound: ')
  assert operation in found.reason


def test_a_transformer_has_no_bound_and_the_module_is_named():
  shape = (8, 8, 3)
  model = networks.make('vit_tiny', 10, shape)
  made = jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))
  variables = jax.tree.map(lambda x: jnp.zeros(x.shape), made)
  found = _bound(functools.partial(model.apply, variables), shape)
  assert found.value is None
  assert 'Classifier/body/layer_0' in found.reason


def test_a_function_that_only_borrows_a_name_is_taken_apart():
  @jax.jit
  def softplus(x):
    return 5 * x

  assert _bound(softplus, SHAPE).value == pytest.approx(5)


def test_nnx_and_equinox_networks():
  eqx = pytest.importorskip('equinox')
  kernel = np.asarray(jax.random.normal(KEY, (36, 5)))
  net = nnx.Linear(36, 5, rngs=nnx.Rngs(0))
  net.kernel[...] = jnp.asarray(kernel)
  linear = eqx.nn.Linear(36, 5, key=KEY)
  linear = eqx.tree_at(lambda m: m.weight, linear, jnp.asarray(kernel.T))
  expected = 2 * np.linalg.norm(kernel, 2)
  for apply in (net, jax.vmap(linear)):
    found = _bound(
      lambda x, apply=apply: 2 * nn.relu(apply(x.reshape(1, -1))), SHAPE
    )
    np.testing.assert_allclose(found.value, expected, rtol=1e-5)
