"""ResNet-18 (arXiv 1512.03385) in torchvision's layout and initialisation."""

import re
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax import errors
from cmu_jax.models import classifier, conv, layers

_STEMS = ('cifar', 'imagenet')
_TORCH = {'shortcut': 'downsample.0', 'shortcut_norm': 'downsample.1'}


class Block(nn.Module):
  """Two 3x3 convolutions beside the identity or a strided 1x1 convolution.

  Attributes:
    features: output channels.
    stride: of the first convolution and of the shortcut.
    project: True where the shortcut is a convolution with BatchNorm.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  features: int
  stride: int
  project: bool
  dtype: Any
  convolve: Callable

  def setup(self) -> None:
    def layer(size: int, stride: int) -> layers.Conv:
      return layers.Conv(
        self.features,
        size,
        stride,
        kernel_init=layers.kaiming_fan_out,
        dtype=self.dtype,
        convolve=self.convolve,
      )

    self.conv1, self.norm1 = layer(3, self.stride), layers.BatchNorm()
    self.conv2, self.norm2 = layer(3, 1), layers.BatchNorm()
    if self.project:
      self.shortcut = layer(1, self.stride)
      self.shortcut_norm = layers.BatchNorm()

  def __call__(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h2 w2 d']:
    y = nn.relu(self.norm1(self.conv1(x), train))
    y = self.norm2(self.conv2(y), train)
    if self.project:
      x = self.shortcut_norm(self.shortcut(x), train)
    return nn.relu(x + y)


class Body(nn.Module):
  """The stem, four stages of two blocks, and the mean over the image.

  Attributes:
    width: channels of the stem and of the first stage.
    stem_kind: 'cifar' (3x3) or 'imagenet' (7x7 with stride 2, max-pooling).
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  width: int
  stem_kind: str
  dtype: Any
  convolve: Callable

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
    self.norm1 = layers.BatchNorm()
    self.blocks = [
      Block(
        self.width * 2**stage,
        2 if stage and not index else 1,
        bool(stage) and not index,
        self.dtype,
        self.convolve,
        name=f'stage{stage + 1}_block{index + 1}',
      )
      for stage in range(4)
      for index in range(2)
    ]

  def __call__(
    self, image: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    return self.trunk(self.stem(image), train)

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


def resnet18(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  width: int = 64,
  stem: str = 'cifar',
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
) -> classifier.Classifier:
  """ResNet-18 with either stem.

  For RGB images, 10 classes and width 64 it has 11,173,962 parameters with the
  'cifar' stem and 11,181,642 with the 'imagenet' one.

  Args:
    num_classes: k.
    image_shape: (h, w, c); any.
    width: channels of the stem.
    stem: 'cifar' for images of about 32x32, 'imagenet' for larger ones.
    dtype: 'float32' or 'bfloat16', what the body computes in.
    convolve: the convolution, see `conv.convolve`.

  Raises:
    UserError: unknown stem.
  """
  del image_shape
  if stem not in _STEMS:
    raise errors.unknown('stem of model resnet18', stem, _STEMS)
  body = Body(width, stem, jnp.dtype(dtype), convolve)
  return classifier.Classifier(body, num_classes)


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
