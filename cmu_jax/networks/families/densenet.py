"""DenseNet-121 (arXiv 1608.06993) as torchvision builds it."""

import re
from collections.abc import Callable

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers
from cmu_jax.networks.layers import Features, Images, Maps

# Dense layers of each block.
_BLOCK_LAYERS = (6, 12, 24, 16)
# Channels of the 1x1 convolution of a dense layer, in units of the growth.
_BOTTLENECK = 4
# The side of the smallest image of which three halvings leave something.
_SMALLEST = {'cifar': 8, 'imagenet': 29}


class Layer(nn.Module):
  """1x1 and 3x3 convolutions, each after BatchNorm and ReLU.

  Attributes:
    growth: output channels.
  """

  growth: int
  layer: Callable[..., layers.Conv]

  def setup(self) -> None:
    self.norm1 = layers.BatchNorm()
    self.conv1 = self.layer(_BOTTLENECK * self.growth, size=1)
    self.norm2 = layers.BatchNorm()
    self.conv2 = self.layer(self.growth)

  def __call__(self, x: Images, train: bool) -> Maps:
    """Computes the new channels alone."""
    # The body concatenates them to x, whose channels many layers share.
    y = self.conv1(nn.relu(self.norm1(x, train)))
    return self.conv2(nn.relu(self.norm2(y, train)))


class Transition(nn.Module):
  """BatchNorm, ReLU, a 1x1 convolution and 2x2 means.

  Attributes:
    features: output channels.
  """

  features: int
  layer: Callable[..., layers.Conv]

  def setup(self) -> None:
    self.norm = layers.BatchNorm()
    self.conv = self.layer(self.features, size=1)

  def __call__(self, x: Images, train: bool) -> Maps:
    return mean_pool(self.conv(nn.relu(self.norm(x, train))))


class Body(layers.StemTrunk):
  """The stem, dense blocks with transitions between them, and the mean.

  Attributes:
    block_layers: number of layers of each dense block.
    width: channels of the stem.
    growth: channels that each layer adds.
    stem_kind: 'cifar' (3x3) or 'imagenet' (7x7 with stride 2, max-pooling).
  """

  block_layers: tuple[int, ...]
  width: int
  growth: int
  stem_kind: str
  layer: Callable[..., layers.Conv]

  # Modules are numbered as in torchvision: norm0 belongs to the stem, norms 1
  # to 4 to the blocks and transitions, norm5 ends the network.
  def setup(self) -> None:
    size, stride = (3, 1) if self.stem_kind == 'cifar' else (7, 2)
    self.conv0 = self.layer(self.width, size=size, stride=stride)
    self.norm0 = layers.BatchNorm()
    blocks, transitions, channels = [], [], self.width
    for block, count in enumerate(self.block_layers, start=1):
      blocks.append(
        [
          Layer(self.growth, self.layer, name=f'block{block}_layer{index + 1}')
          for index in range(count)
        ]
      )
      channels += count * self.growth
      if block < len(self.block_layers):
        channels //= 2
        name = f'transition{block}'
        transitions.append(Transition(channels, self.layer, name=name))
    self.blocks, self.transitions = blocks, transitions
    self.norm5 = layers.BatchNorm()

  def stem(self, image: Images) -> Maps:
    return self.conv0(image)

  def trunk(self, x: Images, train: bool) -> Features:
    x = nn.relu(self.norm0(x, train))
    if self.stem_kind == 'imagenet':
      x = layers.max_pool3(x)
    for index, block in enumerate(self.blocks):
      for layer in block:
        x = jnp.concatenate([x, layer(x, train)], axis=-1)
      if index < len(self.transitions):
        x = self.transitions[index](x, train)
    x = nn.relu(self.norm5(x, train))
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def mean_pool(x: Images) -> Float[Array, 'n h2 w2 c']:
  """2x2 means with stride 2; an odd last row or column is dropped."""
  n, h, w, c = x.shape
  even = x[:, : h // 2 * 2, : w // 2 * 2]
  return jnp.mean(even.reshape(n, h // 2, 2, w // 2, 2, c), (2, 4))


def densenet121(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  width: int = 64,
  growth: int = 32,
  stem: str = 'cifar',
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
) -> classifier.Classifier:
  """DenseNet-121 with either stem.

  For RGB images and 10 classes it has 6,964,106 parameters with the 'imagenet'
  stem, torchvision's, and 7,680 fewer with the 'cifar' stem.

  Args:
    width: channels of the stem.
    growth: channels that each layer adds.
    stem: 'cifar' for images of about 32x32, 'imagenet' for larger images, of
      at least 29x29.
  """
  if stem not in _SMALLEST:
    raise errors.unknown_name('stem of model densenet121', stem, _SMALLEST)
  (height, breadth, _), least = image_shape, _SMALLEST[stem]
  errors.check(
    min(height, breadth) >= least,
    f'densenet121: images of {height}x{breadth} are too small for the stem '
    f"'{stem}'; resize to {least}x{least} or more",
  )
  layer = layers.convolution(dtype, convolve, kernel_init=layers.kaiming_fan_in)
  body = Body(_BLOCK_LAYERS, width, growth, stem, layer)
  return classifier.Classifier(body, num_classes, dense=layers.dense_zero_bias)


def torch_name(module: str) -> str:
  """Renames 'body/norm5' to torchvision's 'features.norm5'."""
  if module == 'head':
    return 'classifier'
  outer, *inner = module.split('/')[1:]
  outer = re.sub(r'block(\d+)_layer(\d+)', r'denseblock\1.denselayer\2', outer)
  return '.'.join(['features', outer, *inner])
