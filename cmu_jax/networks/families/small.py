"""FC1: the one-hidden-layer network of CUTS (arXiv 2511.18660), and deeper.

A small strided convolutional network: quick to train on a CPU.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers


class DenseBody(layers.StemTrunk):
  """`depth` dense layers of `width` units, ReLU after each.

  Attributes:
    width: units of a hidden layer.
    depth: hidden layers.
    dtype: what is computed in.
  """

  width: int
  depth: int
  dtype: Any

  def setup(self) -> None:
    self.hidden = [
      layers.Dense(self.width, dtype=self.dtype) for _ in range(self.depth)
    ]

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n d']:
    """The first dense layer with its bias, before the ReLU."""
    return self.hidden[0](image.reshape(image.shape[0], -1))

  def trunk(self, x: Float[Array, 'n d'], train: bool) -> Float[Array, 'n d']:
    """ReLU, then the other hidden layers."""
    del train
    for layer in self.hidden[1:]:
      x = layer(nn.relu(x))
    return nn.relu(x)


def fc(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  width: int = 32768,
  depth: int = 1,
  dtype: str = 'float32',
) -> classifier.Classifier:
  """FC1; 26,050,570 parameters for 28x28x1 images and 10 classes.

  Args:
    num_classes: k.
    image_shape: (h, w, c); any.
    width: units of a hidden layer.
    depth: hidden layers.
    dtype: 'float32' or 'bfloat16', what the body computes in.

  Raises:
    UserError: no hidden layer asked for.
  """
  del image_shape
  errors.check(depth >= 1, f'fc: depth {depth} is below 1; use depth=1 or more')
  body = DenseBody(width, depth, jnp.dtype(dtype))
  return classifier.Classifier(body, num_classes)


def fc_layer_modules(
  *, depth: int = 1, **options: Any
) -> tuple[tuple[str, ...], ...]:
  """The modules of each layer, from first to last; options are those of fc."""
  del options
  return (*((f'body/hidden_{i}',) for i in range(depth)), ('head',))


class ConvBody(layers.StemTrunk):
  """Three stride-2 3x3 convolutions with BatchNorm and ReLU, then the mean.

  Attributes:
    channels: output channels of the three convolutions.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
    norm: 'batch', or 'none' for no BatchNorm.
  """

  channels: tuple[int, int, int]
  dtype: Any
  convolve: Callable
  norm: str = 'batch'

  def setup(self) -> None:
    self.convs = [
      layers.Conv(c, stride=2, dtype=self.dtype, convolve=self.convolve)
      for c in self.channels
    ]
    self.norms = [layers.NORMS[self.norm]() for _ in self.channels]

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 d']:
    """The first convolution; it has no bias."""
    return self.convs[0](image)

  def trunk(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first convolution, to the mean over the image."""
    for layer, norm in zip(self.convs[1:], self.norms[:2], strict=True):
      x = layer(nn.relu(norm(x, train)))
    x = nn.relu(self.norms[2](x, train))
    return jnp.mean(x, (1, 2), dtype=jnp.float32)


def convnet(
  num_classes: int,
  image_shape: tuple[int, int, int],
  *,
  width: int = 1,
  dtype: str = 'float32',
  convolve: Callable = conv.convolve,
  norm: str = 'batch',
) -> classifier.Classifier:
  """The strided network with 16, 32 and 64 channels, times `width`.

  Args:
    num_classes: k.
    image_shape: (h, w, c); any.
    width: factor on the number of channels.
    dtype: 'float32' or 'bfloat16', what the body computes in.
    convolve: the convolution, see `conv.convolve`.
    norm: 'batch', or 'none' for a network without BatchNorm.

  Raises:
    UserError: an unknown norm.
  """
  del image_shape
  if norm not in layers.NORMS:
    raise errors.unknown_name('norm of model convnet', norm, layers.NORMS)
  channels = (16 * width, 32 * width, 64 * width)
  body = ConvBody(channels, jnp.dtype(dtype), convolve, norm)
  return classifier.Classifier(body, num_classes)


def convnet_layer_modules(**options: Any) -> tuple[tuple[str, ...], ...]:
  """The modules of each layer, from first to last, whatever the options."""
  del options
  body = ((f'body/convs_{i}', f'body/norms_{i}') for i in range(3))
  return (*body, ('head',))
