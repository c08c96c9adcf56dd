"""MobileNetV2 (arXiv 1801.04381) in torchvision's layout."""

import re
from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.networks import classifier, conv, layers
from cmu_jax.networks.families import mobile, mobilenet

# Table 2 of the paper: (expansion, channels, blocks, stride of the first).
_STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)
_COUNT = sum(stage[2] for stage in _STAGES)
_OUTER = {
  'conv1': 'features.0.0',
  'norm1': 'features.0.1',
  'conv2': f'features.{_COUNT + 1}.0',
  'norm2': f'features.{_COUNT + 1}.1',
}
# The steps of a block; the first block has no expansion.
_STEPS = ('expand', 'depthwise', 'project')


class Block(nn.Module):
  """1x1 expansion, depthwise 3x3 and linear 1x1 projection.

  The input is added where it has the shape of the output.

  Attributes:
    features: output channels.
    stride: of the depthwise convolution.
    expansion: factor on the input channels; 1 leaves the first 1x1 out.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  features: int
  stride: int
  expansion: int
  dtype: Any
  convolve: Callable

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h2 w2 d']:
    def pointwise(features: int, name: str) -> layers.Conv:
      return layers.Conv(
        features,
        size=1,
        kernel_init=layers.kaiming_fan_out,
        dtype=self.dtype,
        convolve=self.convolve,
        name=name,
      )

    y = x
    if self.expansion > 1:
      y = pointwise(self.expansion * x.shape[-1], 'expand')(y)
      y = mobile.relu6(layers.BatchNorm(name='expand_norm')(y, train))
    y = mobile.Depthwise(
      stride=self.stride, dtype=self.dtype, name='depthwise'
    )(y)
    y = mobile.relu6(layers.BatchNorm(name='depthwise_norm')(y, train))
    y = pointwise(self.features, 'project')(y)
    y = layers.BatchNorm(name='project_norm')(y, train)
    same = self.stride == 1 and x.shape[-1] == self.features
    return x + y if same else y


class Body(layers.Stemmed):
  """A 3x3 convolution, 17 blocks, a 1x1 convolution and the mean.

  Attributes:
    width: factor on the number of channels; the last are never fewer than
      those of width 1.
    stride: of the first convolution.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  width: int | float
  stride: int
  dtype: Any
  convolve: Callable

  def setup(self) -> None:
    def layer(features: int, size: int, stride: int) -> layers.Conv:
      return layers.Conv(
        features,
        size,
        stride,
        kernel_init=layers.kaiming_fan_out,
        dtype=self.dtype,
        convolve=self.convolve,
      )

    self.conv1 = layer(mobile.channels(32, self.width), 3, self.stride)
    self.norm1 = layers.BatchNorm()
    steps = [
      (expansion, mobile.channels(features, self.width), stride, index)
      for expansion, features, count, stride in _STAGES
      for index in range(count)
    ]
    self.blocks = [
      Block(
        features,
        1 if index else stride,
        expansion,
        self.dtype,
        self.convolve,
        name=f'block{position + 1}',
      )
      for position, (expansion, features, stride, index) in enumerate(steps)
    ]
    self.conv2 = layer(mobile.channels(1280, max(1.0, self.width)), 1, 1)
    self.norm2 = layers.BatchNorm()

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 d']:
    """The first convolution; it has no bias."""
    return self.conv1(image)

  def trunk(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first convolution, to the mean over the image."""
    x = mobile.relu6(self.norm1(x, train))
    for block in self.blocks:
      x = block(x, train)
    x = mobile.relu6(self.norm2(self.conv2(x), train))
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def mobilenet_v2(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  width: int | float = 1.0,
  stem: str = 'imagenet',
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
) -> classifier.Classifier:
  """MobileNetV2; 3,504,872 parameters for RGB, 1000 classes and width 1.

  The dropout that torchvision has before the head is left out.

  Args:
    num_classes: k.
    image_shape: (h, w, c); any.
    width: factor on the number of channels, rounded to multiples of 8.
    stem: 'imagenet' divides the image by 32, 'cifar' (a first convolution
      without stride, for images of about 32x32) by 16.
    dtype: 'float32' or 'bfloat16', what the body computes in.
    convolve: of the convolutions that are not depthwise, see `conv.convolve`.

  Raises:
    UserError: unknown stem, or a width that is not positive.
  """
  del image_shape
  stride = mobilenet.first_stride('mobilenet_v2', stem, width)
  body = Body(width, stride, jnp.dtype(dtype), convolve)
  return classifier.Classifier(body, num_classes)


def torch_name(module: str) -> str:
  """A module's path here to its name in torchvision's MobileNetV2.

  Args:
    module: for example 'body/block2/depthwise_norm'.

  Returns:
    For example 'features.2.conv.1.1'.
  """
  if module == 'head':
    return 'classifier.1'
  parts = module.split('/')[1:]
  if parts[0] in _OUTER:
    return _OUTER[parts[0]]
  number = int(re.sub(r'\D', '', parts[0]))
  step = parts[1].removesuffix('_norm')
  index = _STEPS.index(step) - (number == 1)
  norm = int(parts[1].endswith('_norm'))
  # Convolution and norm of a projection are not nested one level deeper.
  inner = str(index + norm) if step == 'project' else f'{index}.{norm}'
  return f'features.{number}.conv.{inner}'
