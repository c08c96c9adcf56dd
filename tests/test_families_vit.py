"""Vision transformers: sizes, agreement with PyTorch, derivatives."""

import jax
import numpy as np
import pytest
import torch_twin
from close import assert_close
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core.types import Variables
from cmu_jax.networks import conv
from cmu_jax.networks.families import vit

TINY = {'patch': 4, 'width': 12, 'depth': 2, 'heads': 3}
SHAPE = (12, 8, 3)


def _images(n):
  rng = np.random.default_rng(2)
  return jnp.asarray(rng.standard_normal((n, *SHAPE), np.float32))


def _made(**options):
  model = networks.make('vit_tiny', 5, SHAPE, **TINY | options)
  return model, torch_twin.random_variables(model, _images(1))


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


def test_the_parts_make_the_network_also_in_training():
  model, theta = _made(depth=1)
  image = _images(3)

  def parts(variables, image):
    features = model.trunk(variables, model.stem(variables, image))
    return model.head(variables, features), model.update(variables, image)

  through, (trained, stats) = torch_twin.quick(parts, theta, image)
  assert stats == {}
  logits = torch_twin.quick(model.apply, theta, image)
  assert_close((through, trained), (logits, logits), 1e-5)
  assert np.abs(logits[0] - logits[1]).max() > 1e-3


@pytest.mark.slow
def test_derivatives_of_every_kind():
  model, variables = _made(depth=1)
  image, params = _images(2), variables.params
  tangent = jax.tree.map(jnp.cos, params)

  def f(params):
    return model.update(Variables(params, {}), image)[0]

  pairs = torch_twin.quick(
    lambda params: torch_twin.derivative_pairs(f, params, tangent), params
  )
  for kind, (got, expected) in pairs.items():
    assert float(jnp.abs(expected).max()) > 0, kind
    assert_close(got, expected, 1e-3)
