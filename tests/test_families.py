"""Families: sizes, pure functions, statistics and derivatives."""

import functools

import jax
import numpy as np
import optax
import pytest
import torch_twin
from close import assert_close
from flax import linen as nn
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Variables
from cmu_jax.networks import conv, layers

# Narrow networks on small images. Mobile networks take long to compile.
SMALL = {
  'fc': ((4, 5, 1), {'width': 6, 'depth': 2}),
  'convnet': ((8, 7, 1), {'width': 1}),
  'resnet9': ((12, 13, 3), {'width': 2}),
  'resnet18': ((8, 8, 3), {'width': 2}),
  'vit_tiny': (
    (12, 8, 3),
    {'patch': 4, 'width': 12, 'depth': 1, 'heads': 3},
  ),
  'mobilenet_v1': ((8, 8, 3), {'width': 0.1, 'stem': 'cifar'}),
  'mobilenet_v2': ((8, 8, 3), {'width': 0.1, 'stem': 'cifar'}),
}
NAMES = [
  pytest.param(name, marks=[pytest.mark.slow] * name.startswith('mobile'))
  for name in SMALL
]
RGB, IMAGENET = (32, 32, 3), (224, 224, 3)
SIZES = (
  ('fc', 10, (28, 28, 1), {}, 26_050_570),
  ('fc', 10, (28, 28, 1), {'width': 128, 'depth': 2}, 118_282),
  ('convnet', 10, (28, 28, 1), {}, 24_058),
  ('resnet9', 10, RGB, {}, 2_276_224),
  ('resnet18', 10, RGB, {}, 11_173_962),
  ('resnet18', 10, (64, 64, 3), {'stem': 'imagenet'}, 11_181_642),
  ('resnet34', 10, RGB, {}, 21_282_122),
  ('resnet50', 1000, (64, 64, 3), {'stem': 'imagenet'}, 25_557_032),
  # 0.27, 0.46, 0.66 and 0.85 million, table 6 of arXiv 1512.03385.
  ('resnet20', 10, RGB, {}, 269_722),
  ('resnet32', 10, RGB, {}, 464_154),
  ('resnet44', 10, RGB, {}, 658_586),
  ('resnet56', 10, RGB, {}, 853_018),
  ('wrn', 10, RGB, {}, 36_479_194),
  ('wrn_corrective', 100, RGB, {}, 36_547_940),
  ('vgg19', 1000, IMAGENET, {}, 143_667_240),
  ('vgg19_bn', 1000, IMAGENET, {}, 143_678_248),
  ('vgg19_bn', 10, RGB, {'hidden': 0}, 20_040_522),
  ('densenet121', 1000, IMAGENET, {'stem': 'imagenet'}, 7_978_856),
  ('mobilenet_v1', 1000, IMAGENET, {'width': 1.0}, 4_231_976),
  ('mobilenet_v1', 1000, IMAGENET, {'width': 0.25}, 470_072),
  ('mobilenet_v2', 1000, IMAGENET, {'width': 1}, 3_504_872),
  ('vit_b_16', 1000, IMAGENET, {}, 86_567_656),
  ('vit_s_16', 1000, IMAGENET, {}, 22_050_664),
  ('vit_tiny', 1000, IMAGENET, {'patch': 16}, 5_717_416),
  ('vit_tiny', 1000, RGB, {}, 5_553_832),
)


@functools.cache
def _made(name, **extra):
  """A model, random variables and images."""
  shape, options = SMALL[name]
  model = networks.make(name, 3, shape, **options, **extra)
  rng = np.random.default_rng(1)
  image = jnp.asarray(rng.standard_normal((3, *shape), np.float32))
  return model, torch_twin.random_variables(model, image, 0.3), image


@pytest.mark.parametrize('name,classes,shape,options,count', SIZES)
def test_parameter_counts(name, classes, shape, options, count):
  model = networks.make(name, classes, shape, **options)
  image = jnp.zeros((5, *shape))
  variables = jax.eval_shape(model.init, jax.random.key(0), image[:1])
  assert networks.parameter_count(variables) == count
  assert set(variables.params) == {'body', 'head'}
  logits = jax.eval_shape(model.apply, variables, image)
  assert (logits.shape, logits.dtype) == ((5, classes), jnp.float32)


@pytest.mark.parametrize('name', NAMES)
def test_apply_is_head_of_features_is_trunk_of_stem(name):
  model, variables, image = _made(name)

  def paths(variables, image):
    features = model.features(variables, image)
    split = model.trunk(variables, model.stem(variables, image))
    return (
      model.apply(variables, image),
      model.head(variables, features),
      features,
      split,
    )

  logits, through, features, split = torch_twin.quick(paths, variables, image)
  assert features.shape[0] == 3 and logits.shape == (3, 3)
  assert_close(through, logits, 1e-4)
  assert_close(split, features, 1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_stem_is_linear_in_its_parameters(name):
  model, theta, image = _made(name)
  tau = jax.tree.map(jnp.sin, theta)
  alpha = 1.7
  edited = jax.tree.map(lambda t, d: t - alpha * d, theta, tau)
  stem = jax.jit(model.stem)
  expected = stem(theta, image) - alpha * stem(tau, image)
  assert_close(stem(edited, image), expected, 1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_update_moves_only_the_statistics(name):
  model, variables, image = _made(name)
  logits, stats = torch_twin.quick(model.update, variables, image)
  assert logits.shape == (3, 3) and logits.dtype == jnp.float32
  assert jax.tree.structure(stats) == jax.tree.structure(variables.batch_stats)
  old, new = (jax.tree.leaves(s) for s in (variables.batch_stats, stats))
  assert all(np.abs(a - b).max() > 0 for a, b in zip(old, new, strict=True))
  assert all(s.dtype == jnp.float32 for s in new)


@pytest.mark.parametrize('name', NAMES)
def test_bfloat16_keeps_parameters_statistics_and_logits(name):
  _, variables, image = _made(name)
  half = _made(name, dtype='bfloat16')[0]
  made = jax.eval_shape(half.init, jax.random.key(0), image[:1])
  assert {p.dtype for p in jax.tree.leaves(made)} == {jnp.dtype('float32')}
  logits, stats = jax.eval_shape(half.update, variables, image)
  assert logits.dtype == jnp.float32
  assert {s.dtype for s in jax.tree.leaves(stats)} <= {jnp.dtype('float32')}
  assert jax.eval_shape(half.stem, variables, image).dtype == jnp.bfloat16
  features = jax.eval_shape(half.features, variables, image)
  assert features.dtype == jnp.float32


@pytest.mark.parametrize('name', ('fc', 'convnet', 'resnet9', 'vit_tiny'))
def test_bfloat16_computes_what_float32_does_roughly(name):
  model, variables, image = _made(name)
  half = _made(name, dtype='bfloat16')[0]
  expected, got = (
    torch_twin.quick(m.apply, variables, image) for m in (model, half)
  )
  assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max() + 0.02
  assert np.abs(got - expected).max() > 0


@pytest.mark.parametrize('name', ('fc', 'convnet'))
def test_stacked_variables(name):
  model, _, image = _made(name)
  keys = jax.random.split(jax.random.key(3), 2)
  stacked = jax.jit(jax.vmap(lambda key: model.init(key, image[:1])))(keys)
  both = jax.jit(jax.vmap(model.apply, (0, None)))(stacked, image)
  one = Variables(*jax.tree.map(lambda leaf: leaf[1], stacked))
  assert_close(both[1], jax.jit(model.apply)(one, image), 1e-4)
  assert np.abs(both[0] - both[1]).max() > 1e-3


def _derivatives(model, variables, tangent, image):
  """All that the methods of this package ask of a network, in training mode."""
  params, stats = variables

  def f(params):
    return model.update(Variables(params, stats), image)[0]

  def loss(params):
    return jnp.mean(jnp.sin(f(params)))

  def slope(params):
    return jax.jvp(f, (params,), (tangent,))[1]

  def square(params):
    return optax.tree.norm(jax.grad(loss)(params), squared=True)

  _, linear = jax.linearize(f, params)
  jvp, second = jax.jvp(slope, (params,), (tangent,))
  size, curvature = jax.value_and_grad(square)(params)
  stacked = jax.tree.map(lambda p, t: jnp.stack([p, t]), params, tangent)
  return {
    'value': f(params),
    'jvp': jvp,
    'jvp of jvp': second,
    'linear': linear(tangent),
    'linear_transpose': optax.tree.vdot(
      jax.linear_transpose(linear, params)(jvp)[0], tangent
    ),
    'square': size,
    'grad of grad': optax.tree.vdot(curvature, tangent),
    'vmap': jax.vmap(f)(stacked)[0],
  }


def _tangent(params):
  rng = np.random.default_rng(3)
  return jax.tree.map(
    lambda p: jnp.asarray(rng.uniform(-0.1, 0.1, p.shape), jnp.float32), params
  )


def _all_derivatives(name, **extra):
  model, variables, image = _made(name, **extra)
  function = functools.partial(_derivatives, model)
  got = torch_twin.quick(function, variables, _tangent(variables.params), image)
  assert_close(got['linear'], got['jvp'])
  assert_close(got['vmap'], got['value'])
  assert_close(got['linear_transpose'], jnp.sum(got['jvp'] ** 2), 1e-3)
  return got


@pytest.mark.parametrize(
  'name',
  (
    'convnet',
    pytest.param('resnet9', marks=pytest.mark.slow),
    pytest.param('resnet18', marks=pytest.mark.slow),
  ),
)
def test_derivatives_with_our_convolution_and_with_jax(name):
  ours, stock = (
    _all_derivatives(name, convolve=f)
    for f in (conv.convolve_canonical, conv.convolve_stock)
  )
  for kind in stock:
    try:
      assert_close(ours[kind], stock[kind], 2e-3)
    except AssertionError as error:
      raise AssertionError(f'{name}: {kind}') from error


def test_derivatives_of_fc_are_those_of_differences():
  model, variables, image = _made('fc')
  got = _all_derivatives('fc')
  params, tangent = variables.params, _tangent(variables.params)
  low, high = (
    model.apply(
      Variables(optax.tree.add_scale(params, sign * 1e-2, tangent), {}), image
    )
    for sign in (-1, 1)
  )
  assert_close(got['jvp'], (high - low) / 2e-2, 1e-2)
  assert_close(got['jvp of jvp'], (high - 2 * got['value'] + low) / 1e-4, 0.02)


def test_initial_values_are_those_of_torch():
  model = networks.make('fc', 10, (28, 28, 1), width=256)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
  for layer, fan_in in (('body', 784), ('head', 256)):
    for leaf in jax.tree.leaves(variables.params[layer]):
      bound = fan_in**-0.5
      assert 0.7 * bound < np.abs(leaf).max() <= bound
  kernel = variables.params['body']['hidden_0']['kernel']
  assert np.std(kernel) == pytest.approx(784**-0.5 / 3**0.5, rel=0.02)
  values = layers.kaiming_fan_out(jax.random.key(0), (3, 3, 8, 64))
  assert np.std(values) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
  'name,shape,options,words',
  (
    ('resnet8', RGB, {}, "did you mean 'resnet"),
    (
      'resnet9',
      RGB,
      {'widht': 8},
      "unknown option of model 'resnet9' 'widht': did you mean 'width'",
    ),
    ('fc', (8, 8, 1), {'dtype': 'float64'}, "dtype of model 'fc'"),
    ('resnet9', (8, 8, 1), {}, '8x8 are too small'),
    ('fc', (8, 8, 1), {'depth': 0}, 'depth 0'),
    ('resnet18', (8, 8, 1), {'stem': 'cifra'}, "'cifar'"),
    (
      'resnet50',
      RGB,
      {'stem': 'cifra'},
      "stem of model resnet50 'cifra': did you mean 'cifar'",
    ),
    ('wrn', RGB, {'depth': 27}, 'wrn: depth 27'),
    ('wrn_corrective', RGB, {'width': 0}, 'wrn_corrective: width 0 must'),
    ('vgg19', (28, 28, 3), {}, '28x28 are too small'),
    ('vgg19_bn', RGB, {'hidden': -1}, 'hidden -1'),
    (
      'densenet121',
      (28, 28, 3),
      {'stem': 'imagenet'},
      'resize to 29x29 or more',
    ),
    ('densenet121', RGB, {'stem': 'imagnet'}, "did you mean 'imagenet'"),
    ('mobilenet_v1', RGB, {'stem': 'cifra'}, "did you mean 'cifar'"),
    (
      'mobilenet_v2',
      RGB,
      {'width': 0},
      'mobilenet_v2: width 0 is not positive',
    ),
    ('mobilenet_v2', RGB, {'depth': 3}, 'unknown option of model'),
    (
      'vit_tiny',
      RGB,
      {'patch': 5},
      'patches of 5x5 do not fill images of 32x32',
    ),
    ('vit_tiny', RGB, {'heads': 5}, '5 heads do not divide width 192'),
    ('vit_tiny', RGB, {'depth': 0}, 'depth 0 is below 1'),
  ),
)
def test_mistakes_are_named_in_one_line(name, shape, options, words):
  with pytest.raises(errors.UserError, match=words) as caught:
    networks.make(name, 10, shape, **options)
  assert '\n' not in str(caught.value)


def test_a_module_without_a_stem_can_be_bound():
  class Plain(nn.Module):
    @nn.compact
    def __call__(self, image, train=False):
      return nn.Dense(2)(image.reshape(len(image), -1))

  model = networks.bind(Plain())
  assert model.stem is None and model.trunk is None
