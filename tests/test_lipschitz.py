"""The Lipschitz bound: closed forms, dense matrices, random pairs, refusals."""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import strategies

from cmu_jax import errors, jitting, lipschitz, models, rng
from cmu_jax.lipschitz import norms
from cmu_jax.models import layers

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
  model = models.make(
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
    model = models.make('resnet18', 2, shape, width=2, norm=norm)
    made = jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))
    paths = jax.tree_util.tree_leaves_with_path(made.params)
    names[norm] = {jax.tree_util.keystr(path) for path, _ in paths}
    assert bool(made.batch_stats) == (norm == 'batch')
  assert names['none'] == {n for n in names['batch'] if 'norm' not in n}
  with pytest.raises(errors.UserError, match=r'norm of model resnet18.*group'):
    models.make('resnet18', 2, shape, norm='group')


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
  variables = jitting.once(net.init)(key, jnp.zeros((1, 8, 8, 2)))
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


@hypothesis.settings(max_examples=4, deadline=None, derandomize=True)
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
  other = image + 0.1 * jax.random.normal(rng.named(key, 'b'), image.shape)
  moved = np.linalg.norm(apply(image) - apply(other), axis=1)
  far = np.linalg.norm((image - other).reshape(64, -1), axis=1)
  assert max(steepest, (moved / far).max()) <= found.value * (1 + 1e-5)
  assert steepest > 0.02 * found.value


@hypothesis.settings(max_examples=4, deadline=None, derandomize=True)
@hypothesis.given(strategies.integers(0, 999), _OPTIONS)
def test_a_linear_network_has_the_norm_of_its_matrix(seed, options):
  apply = _net(seed, {**options, 'activation': 'none'})
  matrix = jax.jacrev(apply)(jnp.ones((1, 8, 8, 2))).reshape(3, -1)
  found = _bound(apply, (8, 8, 2))
  np.testing.assert_allclose(
    found.value, np.linalg.norm(np.asarray(matrix), 2), rtol=1e-5
  )
  assert len(found.parts) == 1


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
  assert found.why.startswith('no finite bound: ')
  assert operation in found.why
  assert lipschitz.lines(found) == [found.why]


def test_a_transformer_has_no_bound_and_the_module_is_named():
  shape = (8, 8, 3)
  model = models.make('vit_tiny', 10, shape)
  made = jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))
  variables = jax.tree.map(lambda x: jnp.zeros(x.shape), made)
  found = _bound(functools.partial(model.apply, variables), shape)
  assert found.value is None
  assert 'Classifier/body/layer_0' in found.why


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


def test_estimates_lie_below_and_their_margins_above(monkeypatch):
  apply = _net(
    3, dict(width=3, stride=1, activation='relu', residual=True, pool=False)
  )
  exact = _bound(apply, (8, 8, 2)).value
  monkeypatch.setattr(norms, '_SIDE', 0)
  few = _bound(apply, (8, 8, 2), steps=25)
  many = _bound(apply, (8, 8, 2), steps=60)
  np.testing.assert_allclose(many.value, exact, rtol=1e-4)
  assert few.value <= exact * (1 + 1e-4) <= many.upper <= few.upper
  assert 'estimates from below' in many.why
  assert _bound(apply, (8, 8, 2), steps=3).upper is None
  assert 'at most' in lipschitz.lines(many)[0]


def test_the_margin_falls_with_steps_and_rises_with_dimensions():
  assert norms.margin(100, 1, 1e-6) is None
  found = [norms.margin(n, k, 1e-6) for n, k in ((99, 50), (99, 99), (9, 99))]
  assert found == sorted(found, reverse=True)
  # 1.648 sqrt(n) exp(-sqrt(e) (2 k - 1)) is the risk.
  risk = 1.648 * math.sqrt(99) * math.exp(-math.sqrt(found[0]) * 99)
  assert risk == pytest.approx(1e-6)


def test_a_zero_map_and_one_that_returns_several_arrays():
  assert _bound(lambda x: nn.relu(0 * x), SHAPE).value == 0
  with pytest.raises(errors.UserError, match='returns 2 arrays'):
    _bound(lambda x: (x, x), SHAPE)
