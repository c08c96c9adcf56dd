"""Small networks: fully connected (FC1 of CUTS) and a strided ConvNet."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import numpy as jnp

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers
from cmu_jax.networks.layers import Features, Images, Maps


class DenseBody(layers.StemTrunk):
  """`depth` dense layers of `width` units, ReLU after each.

  Attributes:
    width: units of a hidden layer.
    depth: hidden layers.
    dtype: of the computation.
  """

  width: int
  depth: int
  dtype: Any

  def setup(self) -> None:
    self.hidden = [
      layers.Dense(self.width, dtype=self.dtype) for _ in range(self.depth)
    ]

  def stem(self, image: Images) -> Features:
    """The first dense layer with its bias, before the ReLU."""
    # Flattened here: a dense layer takes images of any shape.
    return self.hidden[0](image.reshape(image.shape[0], -1))

  def trunk(self, x: Features, train: bool) -> Features:
    """ReLU, then the other hidden layers."""
    del train
    for layer in self.hidden[1:]:
      x = layer(nn.relu(x))
    return nn.relu(x)


class ConvBody(layers.StemTrunk):
  """Three stride-2 3x3 convolutions with BatchNorm and ReLU, then the mean.

  Attributes:
    channels: output channels of the three convolutions.
    norm: 'batch', or 'none' for no BatchNorm.
  """

  channels: tuple[int, int, int]
  layer: Callable[..., layers.Conv]
  norm: str = 'batch'

  def setup(self) -> None:
    # Strides from the first layer on: this network is to train fast on a CPU.
    # As in the other families, BatchNorm would cancel a bias before it.
    self.convs = [self.layer(features, stride=2) for features in self.channels]
    self.norms = [layers.NORMS[self.norm]() for _ in self.channels]

  def stem(self, image: Images) -> Maps:
    return self.convs[0](image)

  def trunk(self, x: Images, train: bool) -> Features:
    for layer, norm in zip(self.convs[1:], self.norms[:2], strict=True):
      x = layer(nn.relu(norm(x, train)))
    x = nn.relu(self.norms[2](x, train))
    # bfloat16 keeps 8 bits: a mean over many pixels must sum in float32.
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def fc(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  width: int = 32768,
  depth: int = 1,
  dtype: str = 'float32',
) -> classifier.Classifier:
  """FC1 of CUTS (arXiv 2511.18660) for depth 1.

  It has 26,050,570 parameters for 28x28x1 images and 10 classes.

  Args:
    width: units of a hidden layer.
    depth: hidden layers.
  """
  del image_shape
  errors.check(depth >= 1, f'fc: depth {depth} is below 1; use depth=1 or more')
  body = DenseBody(width, depth, jnp.dtype(dtype))
  return classifier.Classifier(body, num_classes)


def fc_layer_modules(
  *, depth: int = 1, **options: Any
) -> tuple[tuple[str, ...], ...]:
  """The modules of each layer of `fc`."""
  del options
  return (*((f'body/hidden_{i}',) for i in range(depth)), ('head',))


def convnet(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  width: int = 1,
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
  norm: str = 'batch',
) -> classifier.Classifier:
  """A strided network of 16, 32 and 64 channels, times `width`.

  Args:
    width: factor on the number of channels.
    norm: 'batch', or 'none' for a network without BatchNorm.
  """
  del image_shape
  if norm not in layers.NORMS:
    raise errors.unknown_name('norm of model convnet', norm, layers.NORMS)
  layer = layers.convolution(dtype, convolve)
  body = ConvBody((16 * width, 32 * width, 64 * width), layer, norm)
  return classifier.Classifier(body, num_classes)


def convnet_layer_modules(**options: Any) -> tuple[tuple[str, ...], ...]:
  """The modules of each layer of `convnet`, for all options."""
  del options
  body = ((f'body/convs_{i}', f'body/norms_{i}') for i in range(3))
  return (*body, ('head',))
