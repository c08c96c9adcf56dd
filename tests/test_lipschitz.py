"""The Lipschitz bound of networks: dense matrices, random pairs, margins."""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import strategies

from cmu_jax import networks
from cmu_jax.core import errors, jit, rng
from cmu_jax.networks import layers
from cmu_jax.robustness import lipschitz
from cmu_jax.robustness.lipschitz import operator_norms

KEY = jax.random.key(0)


def _bound(apply, shape, **options):
  return lipschitz.bound(KEY, apply, shape, **options)


def _orthogonal(seed, shape):
  """A kernel whose only tap is a matrix of orthonormal rows or columns."""
  *window, rows, columns = shape
  draw = np.random.default_rng(seed).normal
  q = np.linalg.qr(draw(size=(max(rows, columns), min(rows, columns))))[0]
  kernel = np.zeros(shape, np.float32)
  kernel[tuple(size // 2 for size in window)] = q if rows >= columns else q.T
  return jnp.asarray(kernel)


def _of_norm_one(model, shape):
  variables = jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))
  leaves, structure = jax.tree.flatten(variables.params)
  params = [
    _orthogonal(i, x.shape) if x.ndim > 1 else jnp.zeros(x.shape)
    for i, x in enumerate(leaves)
  ]
  return variables._replace(params=jax.tree.unflatten(structure, params))


def test_a_resnet18_of_convolutions_of_norm_one():
  """2^5 / 4: five identity blocks, and means over 4x4 pixels."""
  shape = (32, 32, 3)
  model = networks.make(
    'resnet18', 2, shape, width=2, norm='none', halve_projections=True
  )
  variables = _of_norm_one(model, shape)
  found = _bound(functools.partial(model.apply, variables), shape, steps=30)
  np.testing.assert_allclose(found.value, 8, rtol=1e-4)
  assert found.upper >= found.value


def test_a_resnet_without_norms_keeps_its_other_names():
  shape = (8, 8, 3)
  names = {}
  for norm in ('batch', 'none'):
    model = networks.make('resnet18', 2, shape, width=2, norm=norm)
    made = jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))
    paths = jax.tree_util.tree_leaves_with_path(made.params)
    names[norm] = {jax.tree_util.keystr(path) for path, _ in paths}
    assert bool(made.batch_stats) == (norm == 'batch')
  assert names['none'] == {n for n in names['batch'] if 'norm' not in n}
  with pytest.raises(errors.UserError, match=r'norm of model resnet18.*group'):
    networks.make('resnet18', 2, shape, norm='group')


class Net(nn.Module):
  """A network of whatever a draw asks for."""

  width: int
  stride: int
  activation: str
  residual: bool
  pool: bool

  @nn.compact
  def __call__(self, x):
    act = _ACTIVATIONS[self.activation]
    x = layers.Conv(self.width, stride=self.stride)(x)
    x = act(layers.BatchNorm()(x, False))
    y = act(layers.Conv(self.width)(x))
    x = x + y if self.residual else y
    x = layers.max_pool(x) if self.pool else x
    x = nn.avg_pool(x, (2, 2))
    return layers.Dense(3)(x.reshape(x.shape[0], -1))


_ACTIVATIONS = {
  'none': lambda x: x,
  'relu': nn.relu,
  'leaky': nn.leaky_relu,
  'tanh': jnp.tanh,
  'softplus': nn.softplus,
}


def _net(seed, options):
  net = Net(**options)
  key = jax.random.key(seed)
  variables = jit.compile_cheaply(net.init)(key, jnp.zeros((1, 8, 8, 2)))
  stats = jax.tree.map(
    lambda x: x + jax.random.uniform(key, x.shape), variables['batch_stats']
  )
  return functools.partial(net.apply, {**variables, 'batch_stats': stats})


_OPTIONS = strategies.fixed_dictionaries(
  dict(
    width=strategies.sampled_from([2, 3]),
    stride=strategies.sampled_from([1, 2]),
    activation=strategies.sampled_from(sorted(_ACTIVATIONS)),
    residual=strategies.booleans(),
    pool=strategies.just(False),
  )
)


@pytest.mark.slow
@hypothesis.settings(max_examples=2, deadline=None, derandomize=True)
@hypothesis.given(strategies.integers(0, 999), _OPTIONS)
def test_no_pair_of_images_exceeds_the_bound(seed, options):
  apply = _net(seed, {**options, 'pool': options['stride'] == 1})
  found = _bound(apply, (8, 8, 2))
  key = jax.random.key(seed + 1)
  image = jax.random.normal(key, (64, 8, 8, 2))
  slope = jax.vmap(jax.jacrev(lambda x: apply(x[None])[0]))(image)
  steepest = np.linalg.svd(
    np.asarray(slope).reshape(64, 3, -1), compute_uv=False
  ).max()
  other = image + 0.1 * jax.random.normal(rng.fold_in(key, 'b'), image.shape)
  moved = np.linalg.norm(apply(image) - apply(other), axis=1)
  far = np.linalg.norm((image - other).reshape(64, -1), axis=1)
  assert max(steepest, (moved / far).max()) <= found.value * (1 + 1e-5)
  assert steepest > 0.02 * found.value


@hypothesis.settings(max_examples=2, deadline=None, derandomize=True)
@hypothesis.given(strategies.integers(0, 999), _OPTIONS)
def test_a_linear_network_has_the_norm_of_its_matrix(seed, options):
  apply = _net(seed, {**options, 'activation': 'none'})
  matrix = jax.jacrev(apply)(jnp.ones((1, 8, 8, 2))).reshape(3, -1)
  found = _bound(apply, (8, 8, 2))
  np.testing.assert_allclose(
    found.value, np.linalg.norm(np.asarray(matrix), 2), rtol=1e-5
  )
  assert len(found.stretches) == 1


@pytest.mark.slow
def test_estimates_lie_below_and_their_margins_above(monkeypatch):
  apply = _net(
    3, dict(width=3, stride=1, activation='relu', residual=True, pool=False)
  )
  exact = _bound(apply, (8, 8, 2)).value
  monkeypatch.setattr(operator_norms, '_DENSE_SIDE', 0)
  few = _bound(apply, (8, 8, 2), steps=25)
  many = _bound(apply, (8, 8, 2), steps=60)
  np.testing.assert_allclose(many.value, exact, rtol=1e-4)
  assert few.value <= exact * (1 + 1e-4) <= many.upper <= few.upper
  assert 'estimates from below' in many.reason
  assert _bound(apply, (8, 8, 2), steps=3).upper is None


def test_the_margin_falls_with_steps_and_rises_with_dimensions():
  assert operator_norms.lanczos_margin(100, 1, 1e-6) is None
  found = [
    operator_norms.lanczos_margin(n, k, 1e-6)
    for n, k in ((99, 50), (99, 99), (9, 99))
  ]
  assert found == sorted(found, reverse=True)
  # 1.648 sqrt(n) exp(-sqrt(e) (2 k - 1)) is the risk.
  risk = 1.648 * math.sqrt(99) * math.exp(-math.sqrt(found[0]) * 99)
  assert risk == pytest.approx(1e-6)


def test_a_zero_map_and_one_that_returns_several_arrays():
  assert _bound(lambda x: nn.relu(0 * x), (6, 6, 1)).value == 0
  with pytest.raises(errors.UserError, match='returns 2 arrays'):
    _bound(lambda x: (x, x), (6, 6, 1))
