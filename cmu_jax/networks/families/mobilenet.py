"""MobileNetV1 (arXiv 1704.04861), symmetric padding as in PyTorch."""

import re
from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers
from cmu_jax.networks.families import mobile

STEMS = {'cifar': 1, 'imagenet': 2}
# Table 1 of the paper: (channels, stride of the first block, blocks).
_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 2, 6), (1024, 2, 2))
_TORCH = {'conv1': 'conv_stem', 'depthwise': 'conv_dw', 'pointwise': 'conv_pw'}


class Block(nn.Module):
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
    self.depthwise = mobile.Depthwise(stride=self.stride, dtype=self.dtype)
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
    x = mobile.relu6(self.norm1(self.depthwise(x), train))
    return mobile.relu6(self.norm2(self.pointwise(x), train))


class Body(layers.Stemmed):
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
      mobile.channels(32, self.width),
      stride=self.stride,
      kernel_init=layers.kaiming_fan_out,
      dtype=self.dtype,
      convolve=self.convolve,
    )
    self.norm1 = layers.BatchNorm()
    self.blocks = [
      Block(
        mobile.channels(features, self.width),
        1 if index else stride,
        self.dtype,
        self.convolve,
        name=f'stage{stage + 1}_block{index + 1}',
      )
      for stage, (features, stride, count) in enumerate(_STAGES)
      for index in range(count)
    ]

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
  body = Body(width, stride, jnp.dtype(dtype), convolve)
  return classifier.Classifier(body, num_classes)


def first_stride(model: str, stem: str, width: int | float) -> int:
  """The stride of the first convolution; UserError for bad options."""
  if stem not in STEMS:
    raise errors.unknown(f'stem of model {model}', stem, STEMS)
  errors.check(
    width > 0, f'{model}: width {width} is not positive; use for example 0.5'
  )
  return STEMS[stem]


def torch_name(module: str) -> str:
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
  inner = _TORCH.get(parts[-1]) or parts[-1].replace('norm', 'bn')
  return '.'.join([*block, inner])
