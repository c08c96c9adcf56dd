"""MobileNetV1 (arXiv 1704.04861), symmetric padding as in PyTorch.

MobileNetV2 (arXiv 1801.04381) in torchvision's layout.
"""

import re
from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers

STEMS = {'cifar': 1, 'imagenet': 2}
# Table 1 of the paper: (channels, stride of the first block, blocks).
_STAGES_V1 = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 2, 6), (1024, 2, 2))
_TORCH_V1 = {
  'conv1': 'conv_stem',
  'depthwise': 'conv_dw',
  'pointwise': 'conv_pw',
}


class BlockV1(nn.Module):
  """Depthwise 3x3 and pointwise convolution, BatchNorm and ReLU6 after each.

  Attributes:
    features: output channels.
    stride: of the depthwise convolution.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  features: int
  stride: int
  dtype: Any
  convolve: Callable

  def setup(self) -> None:
    self.depthwise = layers.Depthwise(stride=self.stride, dtype=self.dtype)
    self.norm1 = layers.BatchNorm()
    self.pointwise = layers.Conv(
      self.features,
      size=1,
      kernel_init=layers.kaiming_fan_out,
      dtype=self.dtype,
      convolve=self.convolve,
    )
    self.norm2 = layers.BatchNorm()

  def __call__(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h2 w2 d']:
    x = layers.relu6(self.norm1(self.depthwise(x), train))
    return layers.relu6(self.norm2(self.pointwise(x), train))


def scale_channels(count: int, width: int | float) -> int:
  """`count` times `width`, to a multiple of 8 that loses at most a tenth."""
  wanted = count * width
  nearest = max(8, int(wanted + 4) // 8 * 8)
  return nearest + 8 if nearest < 0.9 * wanted else nearest


class BodyV1(layers.StemTrunk):
  """A 3x3 convolution, 13 blocks and the mean over the image.

  Attributes:
    width: factor on the number of channels.
    stride: of the first convolution.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  width: int | float
  stride: int
  dtype: Any
  convolve: Callable

  def setup(self) -> None:
    self.conv1 = layers.Conv(
      scale_channels(32, self.width),
      stride=self.stride,
      kernel_init=layers.kaiming_fan_out,
      dtype=self.dtype,
      convolve=self.convolve,
    )
    self.norm1 = layers.BatchNorm()
    self.blocks = [
      BlockV1(
        scale_channels(features, self.width),
        1 if index else stride,
        self.dtype,
        self.convolve,
        name=f'stage{stage + 1}_block{index + 1}',
      )
      for stage, (features, stride, count) in enumerate(_STAGES_V1)
      for index in range(count)
    ]

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 d']:
    """The first convolution; it has no bias."""
    return self.conv1(image)

  def trunk(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first convolution, to the mean over the image."""
    x = layers.relu6(self.norm1(x, train))
    for block in self.blocks:
      x = block(x, train)
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def mobilenet_v1(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  width: int | float = 1.0,
  stem: str = 'imagenet',
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
) -> classifier.Classifier:
  """MobileNetV1; 4,231,976 parameters for RGB, 1000 classes and width 1.

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
  stride = first_stride('mobilenet_v1', stem, width)
  body = BodyV1(width, stride, jnp.dtype(dtype), convolve)
  return classifier.Classifier(body, num_classes)


def first_stride(model: str, stem: str, width: int | float) -> int:
  """The stride of the first convolution; UserError for bad options."""
  if stem not in STEMS:
    raise errors.unknown_name(f'stem of model {model}', stem, STEMS)
  errors.check(
    width > 0, f'{model}: width {width} is not positive; use for example 0.5'
  )
  return STEMS[stem]


def torch_name_v1(module: str) -> str:
  """A module's path here to its name in timm's mobilenetv1 networks.

  Args:
    module: for example 'body/stage2_block1/depthwise'.

  Returns:
    For example 'blocks.1.0.conv_dw'.
  """
  if module == 'head':
    return 'classifier'
  parts = module.split('/')[1:]
  found = re.fullmatch(r'stage(\d+)_block(\d+)', parts[0])
  block = [f'blocks.{int(found[1]) - 1}.{int(found[2]) - 1}'] if found else []
  inner = _TORCH_V1.get(parts[-1]) or parts[-1].replace('norm', 'bn')
  return '.'.join([*block, inner])


# Table 2 of the paper: (expansion, channels, blocks, stride of the first).
_STAGES_V2 = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)
_NUM_BLOCKS_V2 = sum(stage[2] for stage in _STAGES_V2)
_TORCH_V2 = {
  'conv1': 'features.0.0',
  'norm1': 'features.0.1',
  'conv2': f'features.{_NUM_BLOCKS_V2 + 1}.0',
  'norm2': f'features.{_NUM_BLOCKS_V2 + 1}.1',
}
# The steps of a block; the first block has no expansion.
_STEPS_V2 = ('expand', 'depthwise', 'project')


class BlockV2(nn.Module):
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
      y = layers.relu6(layers.BatchNorm(name='expand_norm')(y, train))
    y = layers.Depthwise(
      stride=self.stride, dtype=self.dtype, name='depthwise'
    )(y)
    y = layers.relu6(layers.BatchNorm(name='depthwise_norm')(y, train))
    y = pointwise(self.features, 'project')(y)
    y = layers.BatchNorm(name='project_norm')(y, train)
    same = self.stride == 1 and x.shape[-1] == self.features
    return x + y if same else y


class BodyV2(layers.StemTrunk):
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

    self.conv1 = layer(scale_channels(32, self.width), 3, self.stride)
    self.norm1 = layers.BatchNorm()
    steps = [
      (expansion, scale_channels(features, self.width), stride, index)
      for expansion, features, count, stride in _STAGES_V2
      for index in range(count)
    ]
    self.blocks = [
      BlockV2(
        features,
        1 if index else stride,
        expansion,
        self.dtype,
        self.convolve,
        name=f'block{position + 1}',
      )
      for position, (expansion, features, stride, index) in enumerate(steps)
    ]
    self.conv2 = layer(scale_channels(1280, max(1.0, self.width)), 1, 1)
    self.norm2 = layers.BatchNorm()

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 d']:
    """The first convolution; it has no bias."""
    return self.conv1(image)

  def trunk(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first convolution, to the mean over the image."""
    x = layers.relu6(self.norm1(x, train))
    for block in self.blocks:
      x = block(x, train)
    x = layers.relu6(self.norm2(self.conv2(x), train))
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
  stride = first_stride('mobilenet_v2', stem, width)
  body = BodyV2(width, stride, jnp.dtype(dtype), convolve)
  return classifier.Classifier(body, num_classes)


def torch_name_v2(module: str) -> str:
  """A module's path here to its name in torchvision's MobileNetV2.

  Args:
    module: for example 'body/block2/depthwise_norm'.

  Returns:
    For example 'features.2.conv.1.1'.
  """
  if module == 'head':
    return 'classifier.1'
  parts = module.split('/')[1:]
  if parts[0] in _TORCH_V2:
    return _TORCH_V2[parts[0]]
  number = int(re.sub(r'\D', '', parts[0]))
  step = parts[1].removesuffix('_norm')
  index = _STEPS_V2.index(step) - (number == 1)
  norm = int(parts[1].endswith('_norm'))
  # Convolution and norm of a projection are not nested one level deeper.
  inner = str(index + norm) if step == 'project' else f'{index}.{norm}'
  return f'features.{number}.conv.{inner}'
