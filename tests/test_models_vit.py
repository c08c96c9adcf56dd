"""Vision transformers: sizes, agreement with PyTorch, derivatives."""

import jax
import numpy as np
import optax
import pytest
import torch_twin
from close import assert_close
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Variables
from cmu_jax.networks import conv
from cmu_jax.networks.families import vit

TINY = {'patch': 4, 'width': 12, 'depth': 2, 'heads': 3}
SHAPE = (12, 8, 3)
SIZES = (
  ('vit_b_16', (224, 224, 3), {}, 86_567_656),
  ('vit_s_16', (224, 224, 3), {}, 22_050_664),
  ('vit_tiny', (224, 224, 3), {'patch': 16}, 5_717_416),
  ('vit_tiny', (32, 32, 3), {}, 5_553_832),
)


def _images(n):
  rng = np.random.default_rng(2)
  return jnp.asarray(rng.standard_normal((n, *SHAPE), np.float32))


def _made(**options):
  model = networks.make('vit_tiny', 5, SHAPE, **TINY | options)
  shapes = jax.eval_shape(model.init, jax.random.key(0), _images(1))
  rng = np.random.default_rng(1)
  variables = jax.tree.map(
    lambda s: jnp.asarray(rng.uniform(-0.4, 0.4, s.shape), jnp.float32), shapes
  )
  return model, variables


@pytest.mark.parametrize('name,shape,options,count', SIZES)
def test_parameter_counts(name, shape, options, count):
  model = networks.make(name, 1000, shape, **options)
  image = jnp.zeros((1, *shape))
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  assert networks.parameter_count(variables) == count
  assert variables.batch_stats == {}
  logits = jax.eval_shape(model.apply, variables, image)
  assert (logits.shape, logits.dtype) == ((1, 1000), jnp.float32)


def test_logits_are_those_of_torchvision():
  vision = torch_twin.torchvision()
  network = vision.models.VisionTransformer(8, 4, 2, 3, 12, 48, num_classes=5)
  torch_twin.randomize(network)
  model = networks.make('vit_tiny', 5, (8, 8, 3), **TINY)
  image = _images(3)[:, :8]
  assert torch_twin.parity(network, model, vit.torch_name, image) <= 1e-4


def test_names_of_the_leaves_that_are_no_layers():
  names = {
    'head': 'heads.head',
    'body/class_token': 'class_token',
    'body/layer_11/in_proj': (
      'encoder.layers.encoder_layer_11.self_attention.in_proj_'
    ),
  }
  assert {module: vit.torch_name(module) for module in names} == names


def test_patches_are_the_convolution_with_their_stride():
  model, variables = _made()
  layer = variables.params['body']['conv_proj']
  kernel, bias = layer['kernel'], layer['bias']
  image = _images(2)
  expected = conv.convolve_stock(image, kernel, (4, 4), 'VALID').reshape(
    2, 6, 12
  )
  got = jax.jit(model.stem)(variables, image)
  assert_close(got, expected + bias[None, None], 1e-5)


def test_attention_is_that_of_one_head_at_a_time():
  rng = np.random.default_rng(4)
  qkv = rng.standard_normal((2, 5, 24), np.float32)
  got = jax.jit(vit.attention, static_argnums=1)(jnp.asarray(qkv), 2)
  for head in (0, 1):
    q, k, v = (
      qkv[0, :, start + 4 * head : start + 4 * head + 4] for start in (0, 8, 16)
    )
    weight = np.exp(q @ k.T / 2)
    expected = weight @ v / weight.sum(1, keepdims=True)
    assert_close(got[0, :, 4 * head : 4 * head + 4], expected, 1e-5)


def test_first_layer_is_linear_and_the_parts_make_the_whole():
  model, theta = _made(depth=1)
  image = _images(3)
  tau = jax.tree.map(jnp.cos, theta)
  edited = jax.tree.map(lambda t, d: t - 0.7 * d, theta, tau)
  stem = jax.jit(model.stem)
  expected = stem(theta, image) - 0.7 * stem(tau, image)
  assert_close(stem(edited, image), expected, 1e-4)

  def parts(variables, image):
    features = model.trunk(variables, model.stem(variables, image))
    return model.head(variables, features), model.update(variables, image)

  through, (trained, stats) = torch_twin.quick(parts, theta, image)
  assert stats == {}
  whole = torch_twin.quick(model.apply, theta, image)
  assert_close((through, trained), (whole, whole), 1e-5)
  assert np.abs(whole[0] - whole[1]).max() > 1e-3


def test_bfloat16_is_float32_roughly():
  model, variables = _made(depth=1)
  half = _made(depth=1, dtype='bfloat16')[0]
  image = _images(2)
  assert jax.eval_shape(half.stem, variables, image).dtype == jnp.bfloat16
  expected, got = (
    torch_twin.quick(m.apply, variables, image) for m in (model, half)
  )
  assert got.dtype == jnp.float32
  error = np.abs(got - expected).max()
  assert 0 < error < 0.05 * np.abs(expected).max() + 0.02


@pytest.mark.slow
def test_derivatives_of_every_kind():
  model, variables = _made(depth=1)
  image, params = _images(2), variables.params
  tangent = jax.tree.map(jnp.cos, params)

  def f(params):
    return model.update(Variables(params, {}), image)[0]

  def loss(params):
    return jnp.mean(jnp.sin(f(params)))

  def slope(params):
    return jax.jvp(loss, (params,), (tangent,))[1]

  def derivatives(params):
    value, linear = jax.linearize(f, params)
    stacked = jax.tree.map(lambda p, t: jnp.stack([p, t]), params, tangent)
    transposed = jax.linear_transpose(linear, params)(linear(tangent))[0]
    second = jax.jvp(slope, (params,), (tangent,))[1]
    gradient = jax.grad(lambda p: optax.tree.vdot(jax.grad(loss)(p), tangent))(
      params
    )
    return {
      'transpose': (
        optax.tree.vdot(transposed, tangent),
        jnp.sum(linear(tangent) ** 2),
      ),
      'vmap': (jax.vmap(f)(stacked)[0], value),
      'grad of grad': (optax.tree.vdot(gradient, tangent), second),
    }

  for kind, (got, expected) in torch_twin.quick(derivatives, params).items():
    assert float(jnp.abs(expected).max()) > 0, kind
    assert_close(got, expected, 1e-3)


@pytest.mark.parametrize(
  'options,words',
  (
    ({'patch': 5}, 'patches of 5x5 do not fill images of 32x32'),
    ({'heads': 5}, '5 heads do not divide width 192'),
    ({'depth': 0}, 'depth 0 is below 1'),
  ),
)
def test_mistakes_are_named_in_one_line(options, words):
  with pytest.raises(errors.UserError, match=words) as caught:
    networks.make('vit_tiny', 10, (32, 32, 3), **options)
  assert '\n' not in str(caught.value)
