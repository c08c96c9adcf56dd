"""ResNet-9 of the corrective unlearning benchmark (arXiv 2402.14015)."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers

_CELU = 0.075
_SMALLEST = 11


class Block(nn.Module):
  """Convolution with bias, BatchNorm, CELU with alpha 0.075.

  BatchNorm takes the bias as its offset, which saves a pass in training.

  Attributes:
    features, size, stride, padding, dtype, convolve: see `layers.Conv`.
  """

  features: int
  size: int = 3
  stride: int = 1
  padding: int | None = None
  dtype: Any = jnp.float32
  convolve: Callable = conv.convolve

  def setup(self) -> None:
    self.conv = layers.Conv(
      self.features,
      self.size,
      self.stride,
      self.padding,
      dtype=self.dtype,
      convolve=self.convolve,
    )
    self.bias = self.param('bias', nn.initializers.zeros, (self.features,))
    self.norm = layers.BatchNorm()

  def __call__(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h2 w2 d']:
    y = self.norm(self.conv(x), train, self.bias)
    return layers.celu(y, _CELU)

  def linear(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 d']:
    """The convolution with its bias."""
    y = self.conv(x)
    return y + self.bias.astype(y.dtype)[None, None, None, :]

  def rest(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h w c']:
    """BatchNorm and CELU of what `linear` returned."""
    return layers.celu(self.norm(x, train), _CELU)


class Body(nn.Module):
  """Four convolutions and two residual pairs, to the global maximum.

  Attributes:
    width: channels of the first convolution.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  width: int
  dtype: Any
  convolve: Callable

  def setup(self) -> None:
    def block(factor: int, **options: Any) -> Block:
      return Block(
        factor * self.width,
        dtype=self.dtype,
        convolve=self.convolve,
        **options,
      )

    self.conv1 = block(1)
    self.conv2 = block(2, size=5, stride=2)
    self.res1 = [block(2), block(2)]
    self.conv3 = block(4)
    self.res2 = [block(4), block(4)]
    self.conv4 = block(2, padding=0)

  def __call__(
    self, image: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    return self.tail(self.conv1(image, train), train)

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n h w d']:
    """The first convolution with its bias, before the BatchNorm."""
    return self.conv1.linear(image)

  def trunk(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first convolution."""
    return self.tail(self.conv1.rest(x, train), train)

  def tail(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first block."""
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

  Args:
    num_classes: k.
    image_shape: (h, w, c) of at least 11x11.
    width: channels of the first convolution.
    dtype: 'float32' or 'bfloat16', what the body computes in.
    convolve: the convolution, see `conv.convolve`.

  Raises:
    UserError: the image is too small for the last convolution.
  """
  height, breadth, _ = image_shape
  errors.check(
    min(height, breadth) >= _SMALLEST,
    f'resnet9: images of {height}x{breadth} are too small; resize to '
    f"{_SMALLEST}x{_SMALLEST} or more, or choose model 'convnet'",
  )
  body = Body(width, jnp.dtype(dtype), convolve)
  return classifier.Classifier(body, num_classes, head_bias=False)


def layer_modules(**options: Any) -> tuple[tuple[str, ...], ...]:
  """The modules of each layer, from first to last, whatever the options.

  Of the last k layers, k = 2 starts at conv4, 4 at res2, 5 at conv3, 7 at res1
  and 8 at conv2, the cuts of the corrective unlearning benchmark; 3 and 6 cut
  a residual pair in two.
  """
  del options
  names = 'conv1 conv2 res1_0 res1_1 conv3 res2_0 res2_1 conv4'
  return (*((f'body/{name}',) for name in names.split()), ('head',))
