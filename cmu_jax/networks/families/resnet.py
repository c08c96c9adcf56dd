"""ResNet-18, -34 and -50 (arXiv 1512.03385) as torchvision builds them.

Layout and initialisation are torchvision's: the stride of a bottleneck block
is that of its 3x3 convolution.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers

_STEMS = ('cifar', 'imagenet')
_TORCH = {'shortcut': 'downsample.0', 'shortcut_norm': 'downsample.1'}
_STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_BOTTLENECK = (50,)
_EXPANSION = 4


class Block(nn.Module):
  """Convolutions beside the identity or a strided 1x1 convolution.

  Two 3x3 ones, or as a bottleneck 1x1, 3x3 and 1x1 with four times the
  channels.

  Attributes:
    features: channels of the 3x3 convolutions.
    stride: of the first 3x3 convolution and of the shortcut.
    bottleneck: which of the two kinds.
    project: True where the shortcut is a convolution with BatchNorm.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
    norm: 'batch', or 'none' for no BatchNorm.
    halve: True to halve the sum of the two branches.
  """

  features: int
  stride: int
  bottleneck: bool
  project: bool
  dtype: Any
  convolve: Callable
  norm: str = 'batch'
  halve: bool = False

  def setup(self) -> None:
    def layer(features: int, size: int, stride: int, name: str) -> layers.Conv:
      return layers.Conv(
        features,
        size,
        stride,
        kernel_init=layers.kaiming_fan_out,
        dtype=self.dtype,
        convolve=self.convolve,
        name=name,
      )

    thin, stride = self.features, self.stride
    plan = [(thin, 3, stride), (thin, 3, 1)]
    if self.bottleneck:
      wide = thin * _EXPANSION
      plan = [(thin, 1, 1), (thin, 3, stride), (wide, 1, 1)]
    self.convs = [
      layer(*shape, f'conv{i}') for i, shape in enumerate(plan, start=1)
    ]
    norm = layers.NORMS[self.norm]
    self.norms = [norm(name=f'norm{i}') for i in range(1, len(plan) + 1)]
    if self.project:
      self.shortcut = layer(plan[-1][0], 1, stride, 'shortcut')
      self.shortcut_norm = norm()

  def __call__(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h2 w2 d']:
    y = x
    for layer, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
      y = nn.relu(norm(layer(y), train))
    y = self.norms[-1](self.convs[-1](y), train)
    if self.project:
      x = self.shortcut_norm(self.shortcut(x), train)
    return nn.relu((x + y) / 2 if self.halve else x + y)


class Body(layers.StemTrunk):
  """The stem, four stages of blocks, and the mean over the image.

  Attributes:
    sizes: how many blocks each stage has.
    bottleneck: which kind of block.
    width: channels of the stem and of the first stage.
    stem_kind: 'cifar' (3x3) or 'imagenet' (7x7 with stride 2, max-pooling).
    dtype: what is computed in.
    convolve: see `conv.convolve`.
    norm: 'batch', or 'none' for no BatchNorm.
    halve_projections: see `of_depth`.
  """

  sizes: tuple[int, ...]
  bottleneck: bool
  width: int
  stem_kind: str
  dtype: Any
  convolve: Callable
  norm: str = 'batch'
  halve_projections: bool = False

  def setup(self) -> None:
    size, stride = (3, 1) if self.stem_kind == 'cifar' else (7, 2)
    self.conv1 = layers.Conv(
      self.width,
      size,
      stride,
      kernel_init=layers.kaiming_fan_out,
      dtype=self.dtype,
      convolve=self.convolve,
    )
    self.norm1 = layers.NORMS[self.norm]()
    self.blocks = [
      self._block(stage, index)
      for stage, count in enumerate(self.sizes)
      for index in range(count)
    ]

  def _block(self, stage: int, index: int) -> Block:
    project = index == 0 and (self.bottleneck or stage > 0)
    return Block(
      self.width * 2**stage,
      2 if stage and not index else 1,
      self.bottleneck,
      project,
      self.dtype,
      self.convolve,
      self.norm,
      project and self.halve_projections,
      name=f'stage{stage + 1}_block{index + 1}',
    )

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 d']:
    """The first convolution; it has no bias."""
    return self.conv1(image)

  def trunk(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first convolution, to the mean over the image."""
    x = nn.relu(self.norm1(x, train))
    if self.stem_kind == 'imagenet':
      x = max_pool3(x)
    for block in self.blocks:
      x = block(x, train)
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def max_pool3(x: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 c']:
  """3x3 max-pooling with stride 2 and padding 1 of a non-negative x.

  Maxima of shifted slices, one axis after the other, so that derivatives of
  every order exist. Zeros may pad because x comes from a ReLU.
  """
  for axis in (1, 2):
    out = (x.shape[axis] + 1) // 2
    edges = [(0, 0)] * 4
    edges[axis] = (1, 1)
    wide = jnp.pad(x, edges)
    parts = [
      jax.lax.slice_in_dim(wide, first, first + 2 * out - 1, 2, axis)
      for first in range(3)
    ]
    x = jnp.maximum(jnp.maximum(parts[0], parts[1]), parts[2])
  return x


def factory(depth: int) -> Callable[..., classifier.Classifier]:
  """The factory of one depth.

  Its options: `width`, channels of the stem; `stem`, 'cifar' for images of
  about 32x32 or 'imagenet' for larger ones; `dtype`, 'float32' or 'bfloat16',
  what the body computes in; `convolve`, see `conv.convolve`; `norm`, 'batch' or
  'none' for a network without BatchNorm; `halve_projections`, True to halve the
  sum of both branches where the shortcut is a convolution, so that a block of
  convolutions of norm 1 has norm 1. It raises a UserError for an unknown stem
  or norm.

  Args:
    depth: 18, 34 or 50. For RGB images, 10 classes and width 64 they have
      11,173,962, 21,282,122 and 23,520,842 parameters with the 'cifar' stem;
      the 'imagenet' stem has 7,680 more.
  """

  def make(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    width: int = 64,
    stem: str = 'cifar',
    dtype: str = 'float32',
    convolve: Callable = conv.convolve,
    norm: str = 'batch',
    halve_projections: bool = False,
  ) -> classifier.Classifier:
    del image_shape
    if stem not in _STEMS:
      raise errors.unknown_name(f'stem of model resnet{depth}', stem, _STEMS)
    if norm not in layers.NORMS:
      raise errors.unknown_name(
        f'norm of model resnet{depth}', norm, layers.NORMS
      )
    body = Body(
      _STAGE_BLOCKS[depth],
      depth in _BOTTLENECK,
      width,
      stem,
      jnp.dtype(dtype),
      convolve,
      norm,
      halve_projections,
    )
    return classifier.Classifier(body, num_classes)

  return make


def torch_name(module: str) -> str:
  """A module's path here to its name in torchvision's ResNets.

  Args:
    module: for example 'body/stage2_block1/shortcut_norm'.

  Returns:
    For example 'layer2.0.downsample.1'.
  """
  if module == 'head':
    return 'fc'
  parts = module.split('/')[1:]
  found = re.fullmatch(r'stage(\d+)_block(\d+)', parts[0])
  layer = [f'layer{found[1]}', str(int(found[2]) - 1)] if found else []
  inner = _TORCH.get(parts[-1]) or parts[-1].replace('norm', 'bn')
  return '.'.join([*layer, inner])
