"""ResNet-9 of the corrective unlearning benchmark (arXiv 2402.14015)."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import numpy as jnp

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers
from cmu_jax.networks.layers import Features, Images, Maps

_CELU = 0.075
# The last convolution has no padding: three halvings must leave 3x3 pixels.
_SMALLEST = 11


class Block(nn.Module):
  """Convolution with bias, BatchNorm, CELU with alpha 0.075.

  Attributes:
    features: output channels.
    size, stride, padding: see `layers.Conv`.
  """

  features: int
  layer: Callable[..., layers.Conv]
  size: int = 3
  stride: int = 1
  padding: int | None = None

  def setup(self) -> None:
    self.conv = self.layer(self.features, self.size, self.stride, self.padding)
    self.bias = self.param(
      'bias', nn.initializers.zeros, (self.features,), jnp.float32
    )
    self.norm = layers.BatchNorm()

  def __call__(self, x: Images, train: bool) -> Maps:
    # BatchNorm takes the bias as its offset, which saves a pass in training.
    # The bias is kept because the benchmark's convolutions have one.
    y = self.norm(self.conv(x), train, self.bias)
    return layers.celu(y, _CELU)

  def linear(self, x: Images) -> Maps:
    """The convolution with its bias."""
    y = self.conv(x)
    return y + self.bias.astype(y.dtype)[None, None, None, :]

  def activate(self, x: Images, train: bool) -> Images:
    """Applies BatchNorm and CELU to an output of `linear`."""
    return layers.celu(self.norm(x, train), _CELU)


class Body(nn.Module):
  """Four convolutions and two residual pairs, to the global maximum.

  Attributes:
    width: channels of the first convolution.
  """

  width: int
  layer: Callable[..., layers.Conv]

  def setup(self) -> None:
    def block(factor: int, **options: Any) -> Block:
      return Block(factor * self.width, self.layer, **options)

    self.conv1 = block(1)
    self.conv2 = block(2, size=5, stride=2)
    self.res1 = [block(2), block(2)]
    self.conv3 = block(4)
    self.res2 = [block(4), block(4)]
    self.conv4 = block(2, padding=0)

  # Unlike trunk(stem(image)), a plain call hands the bias of the first
  # convolution to BatchNorm.
  def __call__(self, image: Images, train: bool) -> Features:
    return self.tail(self.conv1(image, train), train)

  def stem(self, image: Images) -> Maps:
    """The first convolution with its bias, before the BatchNorm."""
    return self.conv1.linear(image)

  def trunk(self, x: Images, train: bool) -> Features:
    return self.tail(self.conv1.activate(x, train), train)

  def tail(self, x: Images, train: bool) -> Features:
    """Computes the features from the first block's output."""
    x = self.conv2(x, train)
    x = x + self.res1[1](self.res1[0](x, train), train)
    x = layers.max_pool(self.conv3(x, train))
    x = x + self.res2[1](self.res2[0](x, train), train)
    return jnp.max(self.conv4(x, train), (1, 2))


def resnet9(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  width: int = 64,
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
) -> classifier.Classifier:
  """ResNet-9; 2,276,224 parameters for RGB images, 10 classes and width 64.

  Images have at least 11x11 pixels.

  Args:
    width: channels of the first convolution.
  """
  height, breadth, _ = image_shape
  errors.check(
    min(height, breadth) >= _SMALLEST,
    f'resnet9: images of {height}x{breadth} are too small; resize to '
    f"{_SMALLEST}x{_SMALLEST} or more, or choose model 'convnet'",
  )
  layer = layers.convolution(dtype, convolve)
  body = Body(width, layer)
  return classifier.Classifier(body, num_classes, head_bias=False)


def layer_modules(**options: Any) -> tuple[tuple[str, ...], ...]:
  """The modules of each layer, for all options.

  Of the last k layers, k = 2 starts at conv4, 4 at res2, 5 at conv3, 7 at res1
  and 8 at conv2, the cuts of the corrective unlearning benchmark; 3 and 6 cut
  a residual pair in two.
  """
  del options
  names = 'conv1 conv2 res1_0 res1_1 conv3 res2_0 res2_1 conv4'
  return (*((f'body/{name}',) for name in names.split()), ('head',))
