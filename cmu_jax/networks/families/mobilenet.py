"""MobileNetV1 (arXiv 1704.04861) and MobileNetV2 (arXiv 1801.04381).

Padding is symmetric as in PyTorch; V2 has torchvision's layout.
"""

import functools
import re
from collections.abc import Callable

from flax import linen as nn
from jax import numpy as jnp

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers
from cmu_jax.networks.layers import Features, Images, Maps

# Strides of the first convolution.
_STEMS = {'cifar': 1, 'imagenet': 2}
# Table 1 of the V1 paper: (channels, blocks, stride of the first block).
_STAGES_V1 = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
# Table 2 of the V2 paper: (expansion, channels, blocks, stride of the first).
_STAGES_V2 = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)
_LAST_V2 = sum(stage[2] for stage in _STAGES_V2) + 1
_TORCH_V1 = {
  'conv1': 'conv_stem',
  'depthwise': 'conv_dw',
  'pointwise': 'conv_pw',
}
_TORCH_V2 = {
  'head': 'classifier.1',
  'body/conv1': 'features.0.0',
  'body/norm1': 'features.0.1',
  'body/conv2': f'features.{_LAST_V2}.0',
  'body/norm2': f'features.{_LAST_V2}.1',
}
# The steps of a V2 block, in order.
_STEPS_V2 = ('expand', 'depthwise', 'project')


def scale_channels(count: int, width: int | float) -> int:
  """Rounds `count` times `width` to a multiple of 8."""
  scaled = count * width
  nearest = max(8, int(scaled + 4) // 8 * 8)
  # As in the reference code: rounding down must not lose more than a tenth.
  return nearest + 8 if nearest < 0.9 * scaled else nearest


class BlockV1(nn.Module):
  """Depthwise 3x3 and pointwise convolution, BatchNorm and ReLU6 after each.

  Attributes:
    features: output channels.
    stride: of the depthwise convolution.
  """

  features: int
  stride: int
  layer: Callable[..., layers.Conv]

  def setup(self) -> None:
    self.depthwise = layers.Depthwise(stride=self.stride)
    self.norm1 = layers.BatchNorm()
    self.pointwise = self.layer(self.features, size=1)
    self.norm2 = layers.BatchNorm()

  def __call__(self, x: Images, train: bool) -> Maps:
    x = layers.relu6(self.norm1(self.depthwise(x), train))
    return layers.relu6(self.norm2(self.pointwise(x), train))


class BlockV2(nn.Module):
  """1x1 expansion, depthwise 3x3 and linear 1x1 projection.

  The input is added where it has the shape of the output.

  Attributes:
    features: output channels.
    stride: of the depthwise convolution.
    expansion: factor on the input channels; 1 leaves out the 1x1 expansion.
  """

  features: int
  stride: int
  expansion: int
  layer: Callable[..., layers.Conv]

  @nn.compact
  def __call__(self, x: Images, train: bool) -> Maps:
    pointwise = functools.partial(self.layer, size=1)
    y = x
    if self.expansion > 1:
      y = pointwise(self.expansion * x.shape[-1], name='expand')(y)
      y = layers.relu6(layers.BatchNorm(name='expand_norm')(y, train))
    y = layers.Depthwise(stride=self.stride, name='depthwise')(y)
    y = layers.relu6(layers.BatchNorm(name='depthwise_norm')(y, train))
    # No activation here: ReLU would lose information in the thin layer.
    y = pointwise(self.features, name='project')(y)
    y = layers.BatchNorm(name='project_norm')(y, train)
    same_shape = self.stride == 1 and x.shape[-1] == self.features
    return x + y if same_shape else y


class Body(layers.StemTrunk):
  """A 3x3 convolution, blocks, in V2 a 1x1 convolution, and the mean.

  Attributes:
    version: 1 or 2.
    width: factor on the number of channels.
    stride: of the first convolution.
  """

  version: int
  width: int | float
  stride: int
  layer: Callable[..., layers.Conv]

  def setup(self) -> None:
    self.conv1 = self.layer(scale_channels(32, self.width), 3, self.stride)
    self.norm1 = layers.BatchNorm()
    self.blocks = self._blocks_v1() if self.version == 1 else self._blocks_v2()
    if self.version == 2:
      # The paper widens the last layer but never thins it.
      features = scale_channels(1280, max(1.0, self.width))
      self.conv2 = self.layer(features, 1, 1)
      self.norm2 = layers.BatchNorm()

  def _blocks_v1(self) -> list[nn.Module]:
    return [
      BlockV1(
        scale_channels(features, self.width),
        1 if index else stride,
        self.layer,
        name=f'stage{stage}_block{index + 1}',
      )
      for stage, (features, count, stride) in enumerate(_STAGES_V1, 1)
      for index in range(count)
    ]

  def _blocks_v2(self) -> list[nn.Module]:
    steps = [
      (features, 1 if index else stride, expansion)
      for expansion, features, count, stride in _STAGES_V2
      for index in range(count)
    ]
    return [
      BlockV2(
        scale_channels(features, self.width),
        stride,
        expansion,
        self.layer,
        name=f'block{number}',
      )
      for number, (features, stride, expansion) in enumerate(steps, 1)
    ]

  def stem(self, image: Images) -> Maps:
    return self.conv1(image)

  def trunk(self, x: Images, train: bool) -> Features:
    x = layers.relu6(self.norm1(x, train))
    for block in self.blocks:
      x = block(x, train)
    if self.version == 2:
      x = layers.relu6(self.norm2(self.conv2(x), train))
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def factory(version: int) -> Callable[..., classifier.Classifier]:
  """The factory of a MobileNet.

  Its options are `width`, a factor on the number of channels, and `stem`:
  'imagenet' divides the image by 32, 'cifar' (a first convolution without
  stride, for images of about 32x32) by 16. It raises a UserError for an unknown
  stem or a width that is not positive.

  Args:
    version: 1 or 2, with 4,231,976 and 3,504,872 parameters for RGB images,
      1000 classes and width 1.
  """
  name = f'mobilenet_v{version}'

  # torchvision has dropout before the head of V2; see `vgg.Body` for the
  # reason why it is left out.
  def make(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    width: int | float = 1.0,
    stem: str = 'imagenet',
    dtype: str = 'float32',
    convolve: Callable = conv.convolve,
  ) -> classifier.Classifier:
    del image_shape
    if stem not in _STEMS:
      raise errors.unknown_name(f'stem of model {name}', stem, _STEMS)
    errors.check(
      width > 0, f'{name}: width {width} is not positive; use for example 0.5'
    )
    layer = layers.convolution(
      dtype, convolve, kernel_init=layers.kaiming_fan_out
    )
    body = Body(version, width, _STEMS[stem], layer)
    return classifier.Classifier(body, num_classes)

  return make


def torch_name_v1(module: str) -> str:
  """Renames 'body/stage2_block1/depthwise' to timm's 'blocks.1.0.conv_dw'."""
  if module == 'head':
    return 'classifier'
  return layers.torch_path(module, 'blocks.{stage_index}.{index}', _TORCH_V1)


def torch_name_v2(module: str) -> str:
  """Renames 'body/block2/project' to torchvision's 'features.2.conv.2'."""
  if module in _TORCH_V2:
    return _TORCH_V2[module]
  _, block, leaf = module.split('/')
  number = int(re.sub(r'\D', '', block))
  step = leaf.removesuffix('_norm')
  # The first block has no expansion, so that its steps count from depthwise.
  index = _STEPS_V2.index(step) - (number == 1)
  norm = int(leaf.endswith('_norm'))
  # Convolution and norm of a projection are not nested one level deeper.
  inner = str(index + norm) if step == 'project' else f'{index}.{norm}'
  return f'features.{number}.conv.{inner}'
