"""PowerQR and the search for layers against dense matrices."""

import functools

import hypothesis
import jax
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import strategies as st
from jax import numpy as jnp
from spectral_case import Small, dense, network, only, sigmas

from cmu_jax import networks
from cmu_jax.core import errors, jit
from cmu_jax.core.types import Variables
from cmu_jax.networks import layers
from cmu_jax.robustness import spectral

pytestmark = pytest.mark.usefixtures('quick_compilation')

SHAPE = (6, 5, 3)
MASK = jnp.tile(jnp.tri(3)[:, :, None, None], (1, 1, 3, 4))
LAYERS = {
  'valid and dilated': nn.Conv(4, (3, 2), padding='VALID', kernel_dilation=2),
  'of rows': nn.Conv(4, 3),
  'grouped': nn.Conv(6, (3, 3), feature_group_count=3),
  'lists': nn.Conv(4, [3, 3], padding='CIRCULAR', strides=2),
  'masked': nn.Conv(4, (3, 3), mask=MASK),
  'transposed': nn.ConvTranspose(2, (3, 3), strides=(2, 2)),
  'ours': layers.Conv(4, 3, 2, bias_init=nn.initializers.ones),
  'norm of rows': nn.BatchNorm(use_running_average=True, axis=1),
  'norm alone': nn.BatchNorm(
    use_running_average=True, use_scale=False, use_bias=False
  ),
  'dense of two axes': nn.DenseGeneral((2, 3), axis=(-2, -1)),
}


RARE = ('of rows', 'masked', 'transposed', 'norm alone', 'dense of two axes')
NAMES = [
  pytest.param(name, marks=pytest.mark.slow if name in RARE else ())
  for name in LAYERS
]


def power(linear, shape, **options):
  run = functools.partial(spectral.power_qr, linear=linear, shape=shape)
  return jit.compile_cheaply(lambda key: run(key, **options))(jax.random.key(3))


@functools.cache
def facts(name):
  """All that the next tests ask of a layer, as one program."""
  apply, variables = network(LAYERS[name], SHAPE)
  (layer,) = spectral.find_layers(apply, variables, SHAPE)
  linear = spectral.bind_layer(layer, variables)

  def run(key):
    x = jax.random.normal(key, (2, *SHAPE))
    image, pull = jax.vjp(linear, x)
    y = jax.random.normal(key, image.shape)
    found = spectral.power_qr(key, linear, SHAPE, k=3, iterations=300)
    eye = jnp.eye(90).reshape(90, *SHAPE)
    return {
      'found': found,
      'rows': linear(eye).reshape(90, -1),
      'image': image,
      'away': apply(variables, x) - apply(variables, jnp.zeros_like(x)),
      'products': (jnp.vdot(image, y), jnp.vdot(x, pull(y)[0])),
      'pulled': (pull(y)[0], jax.linear_transpose(linear, x)(y)[0]),
    }

  return layer, jax.tree.map(
    np.asarray, jit.compile_cheaply(run)(jax.random.key(0))
  )


@pytest.mark.parametrize('name', NAMES)
def test_power_qr_finds_the_largest_singular_values(name):
  layer, seen = facts(name)
  sigma, vector = seen['found']
  true = np.linalg.svd(seen['rows'].astype(np.float64))[1][:3]
  np.testing.assert_allclose(sigma, true, rtol=1e-3)
  assert np.all(sigma <= true * (1 + 1e-5))
  assert layer.shape == SHAPE
  assert layer.path == ''
  flat = vector.reshape(3, -1)
  np.testing.assert_allclose(flat @ flat.T, np.eye(3), atol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_the_map_is_the_layer_without_its_bias(name):
  seen = facts(name)[1]
  np.testing.assert_allclose(seen['image'], seen['away'], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_the_adjoint_is_one_by_both_ways(name):
  seen = facts(name)[1]
  np.testing.assert_allclose(*seen['products'], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(*seen['pulled'], atol=1e-5)


def test_float64_reaches_the_dense_svd():
  with jax.enable_x64(True):
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 4), jnp.float64)
    own = Variables({'kernel': kernel}, {})
    module = nn.Conv(4, (3, 3), 2, use_bias=False, param_dtype=jnp.float64)
    apply = lambda v, x: module.apply({'params': v.params}, x)
    (layer,) = spectral.find_layers(apply, own, SHAPE)
    linear = spectral.bind_layer(layer, own)
    start = jax.random.normal(jax.random.key(1), (4, *SHAPE), jnp.float64)
    found = power(linear, SHAPE, k=4, iterations=2000, start=start)
    true = sigmas(linear, SHAPE, jnp.float64)[:4]
    np.testing.assert_allclose(found.sigma, true, rtol=1e-9)


@pytest.mark.parametrize('stride', (1, 2))
def test_a_pointwise_convolution_has_the_norm_of_its_kernel(stride):
  # Every singular value occurs once a pixel.
  module = layers.Conv(4, 1, stride, padding=0)
  apply, variables = network(module, (4, 4, 3))
  (layer,) = spectral.find_layers(apply, variables, (4, 4, 3))
  linear = spectral.bind_layer(layer, variables)
  found = power(linear, (4, 4, 3), k=4, iterations=200)
  true = np.linalg.svd(variables.params['kernel'][0, 0])[1][0]
  np.testing.assert_allclose(found.sigma, np.full(4, true), rtol=1e-4)


@hypothesis.settings(max_examples=3, deadline=None, derandomize=True)
@hypothesis.given(
  side=st.tuples(st.integers(3, 6), st.integers(3, 6)),
  size=st.integers(1, 3),
  stride=st.integers(1, 2),
  dilation=st.integers(1, 2),
  groups=st.integers(1, 2),
  padding=st.sampled_from(('SAME', 'VALID', 1)),
)
def test_any_convolution_against_its_dense_matrix(
  side, size, stride, dilation, groups, padding
):
  hypothesis.assume(padding != 'VALID' or (size - 1) * dilation < min(side))
  module = nn.Conv(
    4, (size, size), stride, padding, 1, dilation, feature_group_count=groups
  )
  shape = (*side, 2)
  linear = only(module, shape)[1]
  found = power(linear, shape, iterations=200)
  matrix = dense(linear, shape)
  true = np.linalg.svd(matrix)[1][0]
  np.testing.assert_allclose(found.sigma[0], true, rtol=5e-3)
  assert float(found.sigma[0]) <= true * (1 + 1e-5)


def test_a_warm_start_goes_on_where_the_last_one_stopped():
  linear = only(LAYERS['ours'], SHAPE)[1]
  whole = power(linear, SHAPE, k=2, iterations=20)
  half = power(linear, SHAPE, k=2, iterations=10)
  rest = power(linear, SHAPE, k=2, iterations=10, start=half.vector)
  np.testing.assert_allclose(whole.sigma, rest.sigma, rtol=1e-5)


@pytest.mark.parametrize(
  ('k', 'factor'), ((1, 0.0), (3, 0.0), (1, 1e15), (3, 1e-15))
)
def test_maps_of_any_size_give_finite_values(k, factor):
  linear = lambda x: x * factor * jnp.asarray([1.0, 2, 3])[None, :]
  found = power(linear, (3,), k=k, iterations=50)
  np.testing.assert_allclose(found.sigma[0], 3 * factor, rtol=1e-4)
  assert np.isfinite(found.vector).all()


@pytest.mark.parametrize('options', ({'k': 0}, {'k': 28}, {'iterations': 0}))
def test_settings_that_cannot_be_get_one_line(options):
  with pytest.raises(errors.UserError) as caught:
    spectral.power_qr(jax.random.key(0), lambda x: x, (3, 3, 3), **options)
  assert '\n' not in str(caught.value)


def test_layers_are_found_with_what_they_are():
  apply, variables = network(Small(), SHAPE)
  found = spectral.find_layers(jax.jit(apply), variables, SHAPE)
  jax.jit(apply)(variables, jnp.zeros((1, *SHAPE)))
  assert found == spectral.find_layers(jax.jit(apply), variables, SHAPE)
  assert [(x.path, x.kind, x.shape, x.norm) for x in found] == [
    ('first', 'conv', (6, 5, 3), 'norm'),
    ('norm', 'norm', (6, 5, 4), None),
    ('head', 'dense', (36,), None),
  ]
  (both,) = spectral.joint_layers(found)
  middle = found[1].shape
  product = dense(spectral.bind_layer(found[1], variables), middle) @ dense(
    spectral.bind_layer(found[0], variables), SHAPE
  )
  whole = dense(spectral.bind_layer(both, variables), SHAPE)
  np.testing.assert_allclose(whole, product, atol=1e-5)


def test_equal_layers_of_a_network_share_one_function():
  model = networks.make('resnet20', 10, (16, 16, 3), width=4)
  image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  found = spectral.find_layers(model.apply, variables, (16, 16, 3))
  assert [x.kind for x in found].count('conv') == 19
  assert len(spectral.joint_layers(found)) == 19
  assert len({(x.linear, x.shape) for x in found}) == 10


class Gate(nn.Module):
  """Has a kernel, and is not affine."""

  @nn.compact
  def __call__(self, x):
    kernel = self.param('kernel', nn.initializers.ones, (x.shape[-1], 2))
    return nn.relu(x) @ kernel


class Plain(nn.Module):
  """A module of a user's own that is affine."""

  @nn.compact
  def __call__(self, x):
    kernel = self.param('kernel', nn.initializers.ones, (x.shape[-1], 2))
    bias = self.param('bias', nn.initializers.ones, (2,))
    return jnp.tensordot(x, kernel, 1) + bias[None, None, None, :]


def test_what_is_not_affine_is_no_layer():
  apply, variables = network(Gate(), SHAPE)
  assert spectral.find_layers(apply, variables, SHAPE) == ()
  apply, variables = network(nn.LayerNorm(), SHAPE)
  assert spectral.find_layers(apply, variables, SHAPE) == ()
  layer, linear = only(Plain(), SHAPE)
  assert layer.kind == 'dense'
  assert sigmas(linear, SHAPE).shape == (60,)


def test_parameters_elsewhere_get_one_line():
  class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
      stacked = nn.vmap(
        nn.Dense, variable_axes={'params': 0}, split_rngs={'params': True}
      )
      return stacked(3)(x)

  module = Outer()
  made = module.init(jax.random.key(0), jnp.zeros((1, 4, 3)))
  apply = lambda v, x: module.apply({'params': v.params}, x)
  with pytest.raises(errors.UserError, match='cannot be measured'):
    spectral.find_layers(apply, Variables(made['params'], {}), (4, 3))


def _inside_loops(jaxpr, looped=False):
  """Names of the operations in the bodies of a program's loops."""
  for eqn in jaxpr.eqns:
    if looped:
      yield eqn.primitive.name
    inside = looped or eqn.primitive.name in ('while', 'scan')
    for value in jax.tree.leaves(
      list(eqn.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
    ):
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from _inside_loops(inner, inside)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('method', ['power_qr', 'lanczos'])
def test_kernels_are_turned_round_before_the_loop(method, stride):
  layer, linear = only(nn.Conv(4, (3, 3), strides=stride), SHAPE)
  run = getattr(spectral, method)
  made = jax.make_jaxpr(lambda key: run(key, linear, layer.shape))(
    jax.random.key(0)
  )
  names = set(_inside_loops(made.jaxpr))
  assert any('conv' in name for name in names)
  assert 'rev' not in names
