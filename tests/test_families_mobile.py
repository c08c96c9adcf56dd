"""MobileNets: sizes, agreement with PyTorch, derivatives, first layers."""

import functools
import re

import jax
import numpy as np
import pytest
import torch_twin
from close import assert_close
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core.types import Variables
from cmu_jax.networks import conv, layers
from cmu_jax.networks.families import mobilenet

POINTWISE = functools.partial(
  layers.Conv,
  kernel_init=layers.kaiming_fan_out,
  convolve=conv.convolve_canonical,
)


def _images(*shape):
  rng = np.random.default_rng(2)
  return jnp.asarray(rng.standard_normal(shape, np.float32))


def test_channels_are_multiples_of_eight_within_a_tenth():
  counts = [(32, 1, 32), (32, 0.01, 8), (24, 0.75, 24), (1280, 1.4, 1792)]
  for count, width, expected in counts:
    assert mobilenet.scale_channels(count, width) == expected
  for count in range(8, 400):
    got = mobilenet.scale_channels(count, 1.0)
    assert got % 8 == 0 and got >= 0.9 * count and got <= count + 8


def _v1_twin():
  """MobileNetV1 at width 0.25 in plain PyTorch, with timm's names."""
  nn = torch_twin.torch().nn

  def pair(name, number, convolution):
    norm = nn.BatchNorm2d(convolution.out_channels)
    return {name: convolution, f'bn{number}': norm}

  class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
      super().__init__()
      deep = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
      flat = nn.Conv2d(inputs, outputs, 1, bias=False)
      for name, module in {
        **pair('conv_dw', 1, deep),
        **pair('conv_pw', 2, flat),
      }.items():
        self.add_module(name, module)

    def forward(self, x):
      x = self.bn1(self.conv_dw(x)).clamp(0, 6)
      return self.bn2(self.conv_pw(x)).clamp(0, 6)

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv_stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
      self.bn1 = nn.BatchNorm2d(8)
      self.blocks = nn.Sequential(
        nn.Sequential(Block(8, 16, 1)),
        nn.Sequential(Block(16, 32, 2), Block(32, 32, 1)),
        nn.Sequential(Block(32, 64, 2), Block(64, 64, 1)),
        nn.Sequential(
          Block(64, 128, 2), *[Block(128, 128, 1) for _ in range(5)]
        ),
        nn.Sequential(Block(128, 256, 2), Block(256, 256, 1)),
      )
      self.classifier = nn.Linear(256, 7)

    def forward(self, x):
      x = self.blocks(self.bn1(self.conv_stem(x)).clamp(0, 6))
      return self.classifier(x.mean((2, 3)))

  return Net()


def _v2_twin():
  return torch_twin.torchvision().models.mobilenet_v2(
    num_classes=7, width_mult=0.25
  )


@pytest.mark.parametrize(
  'name,twin,torch_name',
  (
    ('mobilenet_v1', _v1_twin, mobilenet.torch_name_v1),
    pytest.param(
      'mobilenet_v2', _v2_twin, mobilenet.torch_name_v2, marks=pytest.mark.slow
    ),
  ),
)
def test_logits_are_those_of_pytorch(name, twin, torch_name):
  network = twin()
  torch_twin.randomize(network)
  model = networks.make(name, 7, (48, 41, 3), width=0.25)
  image = _images(2, 48, 41, 3)
  error = torch_twin.parity(network, model, torch_name, image)
  assert error <= 1e-4


@pytest.mark.parametrize(
  'size,stride,padding',
  (
    (3, 1, ((1, 1), (1, 1))),
    (3, 2, ((1, 1), (1, 1))),
    (3, 2, 'SAME'),
    (5, 3, ((2, 1), (0, 2))),
    (2, 1, 'VALID'),
  ),
)
def test_depthwise_is_the_grouped_convolution(size, stride, padding):
  x, kernel = _images(2, 9, 8, 5), _images(size, size, 1, 5)

  def grouped(x, kernel):
    return conv.convolve_stock(
      x, kernel, (stride, stride), padding, feature_group_count=5
    )

  def ours(x, kernel):
    return layers.depthwise(x, kernel, stride, padding)

  def slopes(function):
    value, pull = jax.vjp(function, x, kernel)
    return value, pull(jnp.cos(value))

  expected, got = (
    jax.jit(functools.partial(slopes, f))() for f in (grouped, ours)
  )
  assert_close(got, expected, 1e-5)


def test_depthwise_of_half_precision_sums_in_float32():
  x, kernel = _images(1, 4, 4, 3).astype(jnp.bfloat16), _images(3, 3, 1, 3)
  got = jax.jit(layers.depthwise)(x, kernel)
  wide = jax.jit(layers.depthwise)(x.astype(jnp.float32), kernel)
  assert got.dtype == jnp.bfloat16
  assert (got == wide.astype(jnp.bfloat16)).all()


def _separable(params, image):
  """One block with everything that a mobile network has."""
  block = mobilenet.BlockV1(8, 2, POINTWISE)
  bound = Variables(params, {})._asdict()
  return block.apply(bound, image, True, mutable=['batch_stats'])[0]


def _made_block():
  image = _images(3, 6, 5, 4)
  block = mobilenet.BlockV1(8, 2, POINTWISE)
  params = jax.jit(functools.partial(block.init, train=True))(
    jax.random.key(0), image
  )['params']
  tangent = jax.tree.map(
    lambda p: 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params
  )
  return params, tangent, image


@pytest.mark.slow
def test_derivatives_of_every_kind():
  params, tangent, image = _made_block()
  f = functools.partial(_separable, image=image)

  pairs = torch_twin.quick(
    lambda params: torch_twin.derivative_pairs(f, params, tangent), params
  )
  for kind, (got, expected) in pairs.items():
    assert float(jnp.abs(jnp.asarray(expected)).max()) > 0, kind
    assert_close(got, expected, 1e-3)


def test_gradient_inside_a_loop_is_no_grouped_convolution():
  params, _, image = _made_block()

  def step(_, params):
    gradient = jax.grad(lambda p: jnp.sum(_separable(p, image)))(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

  loop = jax.jit(lambda p: jax.lax.fori_loop(0, 2, step, p)).lower(params)
  groups = re.findall(r'(?:batch|feature)_group_count = (\d+)', loop.as_text())
  assert groups and set(groups) == {'1'}
