"""ResNet-20/32/44/56 for 32x32 images, as in section 4.2 of arXiv 1512.03385.

Three stages of n blocks, depth 6 n + 2. The shortcut of a block that changes
the size takes every second pixel and pads channels with zeros (option A), so
it has no parameters.
"""

import re
from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers


class Block(nn.Module):
  """Two 3x3 convolutions beside an identity, thinned and padded if need be.

  Attributes:
    features: output channels.
    stride: of the first convolution.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  features: int
  stride: int
  dtype: Any
  convolve: Callable

  def setup(self) -> None:
    def layer(stride: int) -> layers.Conv:
      return layers.Conv(
        self.features,
        stride=stride,
        kernel_init=layers.kaiming_fan_out,
        dtype=self.dtype,
        convolve=self.convolve,
      )

    self.conv1, self.norm1 = layer(self.stride), layers.BatchNorm()
    self.conv2, self.norm2 = layer(1), layers.BatchNorm()

  def __call__(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h2 w2 d']:
    y = nn.relu(self.norm1(self.conv1(x), train))
    y = self.norm2(self.conv2(y), train)
    if self.stride > 1:
      more = (self.features - x.shape[-1]) // 2
      thinned = x[:, :: self.stride, :: self.stride, :]
      x = jnp.pad(thinned, ((0, 0), (0, 0), (0, 0), (more, more)))
    return nn.relu(x + y)


class Body(layers.StemTrunk):
  """A 3x3 convolution, three stages of `blocks` blocks, the mean.

  Attributes:
    blocks: a stage.
    width: channels of the first stage; doubled by each of the others.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  blocks: int
  width: int
  dtype: Any
  convolve: Callable

  def setup(self) -> None:
    self.conv1 = layers.Conv(
      self.width,
      kernel_init=layers.kaiming_fan_out,
      dtype=self.dtype,
      convolve=self.convolve,
    )
    self.norm1 = layers.BatchNorm()
    self.stages = [
      Block(
        self.width * 2**stage,
        2 if stage and not index else 1,
        self.dtype,
        self.convolve,
        name=f'stage{stage + 1}_block{index + 1}',
      )
      for stage in range(3)
      for index in range(self.blocks)
    ]

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n h w d']:
    """The first convolution; it has no bias."""
    return self.conv1(image)

  def trunk(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first convolution, to the mean over the image."""
    x = nn.relu(self.norm1(x, train))
    for block in self.stages:
      x = block(x, train)
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def factory(depth: int) -> Callable[..., classifier.Classifier]:
  """The factory of one depth, 6 n + 2.

  Args:
    depth: 20, 32, 44 or 56; with 10 classes and width 16 they have 269,722,
      464,154, 658,586 and 853,018 parameters.
  """

  def make(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    width: int = 16,
    dtype: str = 'float32',
    convolve: Callable = conv.convolve,
  ) -> classifier.Classifier:
    del image_shape
    errors.check(
      width >= 2 and width % 2 == 0,
      f'resnet{depth}: width {width} must be even, for the padded shortcut',
    )
    body = Body((depth - 2) // 6, width, jnp.dtype(dtype), convolve)
    return classifier.Classifier(body, num_classes)

  return make


def torch_name(module: str) -> str:
  """A module's path here to the usual PyTorch name of CIFAR ResNets.

  Args:
    module: for example 'body/stage2_block1/norm2'.

  Returns:
    For example 'layer2.0.bn2'.
  """
  if module == 'head':
    return 'linear'
  parts = module.split('/')[1:]
  found = re.fullmatch(r'stage(\d+)_block(\d+)', parts[0])
  layer = [f'layer{found[1]}', str(int(found[2]) - 1)] if found else []
  return '.'.join([*layer, parts[-1].replace('norm', 'bn')])
