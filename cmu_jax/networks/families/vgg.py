"""VGG-19 (arXiv 1409.1556) as torchvision builds it, without dropout."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, conv, layers
from cmu_jax.networks.layers import Features, Images, Maps

# Convolutions of each stage and, times the width, their channels.
_STAGE_CONVS = (2, 2, 4, 4, 4)
_STAGE_FACTORS = (1, 2, 4, 8, 8)
# Five halvings of a smaller image leave no pixel.
_SMALLEST = 32
_GRID = 7

_dense = functools.partial(
  layers.Dense,
  kernel_init=nn.initializers.normal(0.01),
  bias_init=nn.initializers.zeros,
)


class Body(layers.StemTrunk):
  """Five stages of 3x3 convolutions with max-pooling after each.

  Attributes:
    width: channels of the first stage.
    batch_norm: True for BatchNorm after every convolution.
    hidden: width of the two linear layers; 0 for the mean over the image in
      their place.
    dtype: of the linear layers.
  """

  # torchvision has dropout between the linear layers. Training here is a
  # function of parameters and images alone, and in evaluation mode the two
  # networks agree.
  width: int
  batch_norm: bool
  hidden: int
  layer: Callable[..., layers.Conv]
  dtype: Any

  def setup(self) -> None:
    # Modules are named by their positions in torchvision's two sequences,
    # which count ReLUs and poolings too: features_0, classifier_3.
    stages, position = [], 0
    for count, factor in zip(_STAGE_CONVS, _STAGE_FACTORS, strict=True):
      stage = []
      for _ in range(count):
        stage.append(self._conv_and_norm(factor * self.width, position))
        position += 3 if self.batch_norm else 2
      stages.append(stage)
      position += 1
    self.stages = stages
    self.linears = [
      _dense(self.hidden, dtype=self.dtype, name=f'classifier_{index}')
      for index in ((0, 3) if self.hidden else ())
    ]

  def _conv_and_norm(self, features: int, position: int) -> list[nn.Module]:
    convolution = self.layer(features, name=f'features_{position}')
    if not self.batch_norm:
      return [convolution]
    return [convolution, layers.BatchNorm(name=f'features_{position + 1}')]

  def stem(self, image: Images) -> Maps:
    """The first convolution with its bias."""
    return self.stages[0][0][0](image)

  def trunk(self, x: Images, train: bool) -> Features:
    """Computes the last hidden layer from the first convolution's output."""
    for number, stage in enumerate(self.stages):
      for index, (convolution, *norm) in enumerate(stage):
        x = convolution(x) if number or index else x
        x = nn.relu(norm[0](x, train) if norm else x)
      x = layers.max_pool(x)
    if not self.linears:
      return jnp.mean(x, (1, 2), dtype=jnp.float32)
    # PyTorch flattens channels first, and the linear weights are in its order.
    x = jnp.transpose(adaptive_mean(x, _GRID), (0, 3, 1, 2))
    x = x.reshape(len(x), -1)
    for linear in self.linears:
      x = nn.relu(linear(x))
    return x


def adaptive_mean(x: Images, size: int) -> Float[Array, 'n size size c']:
  """Means over a grid of windows, as PyTorch's AdaptiveAvgPool2d.

  Args:
    x: images.
    size: windows along both axes.
  """
  rows, columns = (
    _mean_matrix(length, size, x.dtype) for length in x.shape[1:3]
  )
  # Without this a GPU or TPU may take the means at reduced precision.
  exact = jax.lax.Precision.HIGHEST
  return jnp.einsum('ih,jw,nhwc->nijc', rows, columns, x, precision=exact)


def _mean_matrix(
  length: int, size: int, dtype: Any
) -> Float[Array, 'size length']:
  """The matrix of the means along one axis."""
  # Window i spans floor(i length / size) to ceil((i + 1) length / size), so
  # that a smaller image is repeated.
  index = np.arange(size)
  start, stop = index * length // size, -(-(index + 1) * length // size)
  position = np.arange(length)
  inside = (position >= start[:, None]) & (position < stop[:, None])
  return jnp.asarray(inside / (stop - start)[:, None], dtype)


def factory(batch_norm: bool) -> Callable[..., classifier.Classifier]:
  """The factory of VGG-19 with or without BatchNorm.

  Its options are `width`, the channels of the first stage, and `hidden`, the
  width of torchvision's two linear layers before the head. With hidden 0 the
  mean over the image replaces them, as is usual for small images. It raises a
  UserError for images below 32x32.

  Args:
    batch_norm: for RGB images and 1000 classes the network has 143,678,248
      parameters with it and 143,667,240 without; with hidden 0 and 10 classes
      20,040,522 and 20,029,514.
  """

  def make(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    width: int = 64,
    hidden: int = 4096,
    dtype: str = 'float32',
    convolve: Callable = conv.convolve,
  ) -> classifier.Classifier:
    height, breadth, _ = image_shape
    errors.check(
      min(height, breadth) >= _SMALLEST,
      f'vgg19: images of {height}x{breadth} are too small; resize to '
      f"{_SMALLEST}x{_SMALLEST} or more, or choose model 'resnet18'",
    )
    errors.check(hidden >= 0, f'vgg19: hidden {hidden} must be 0 or more')
    layer = layers.convolution(
      dtype,
      convolve,
      kernel_init=layers.kaiming_fan_out,
      bias_init=nn.initializers.zeros,
    )
    body = Body(width, batch_norm, hidden, layer, jnp.dtype(dtype))
    return classifier.Classifier(body, num_classes, dense=_dense)

  return make


def torch_name(module: str) -> str:
  """Renames 'body/features_3' to torchvision's 'features.3'."""
  if module == 'head':
    return 'classifier.6'
  return module.removeprefix('body/').replace('_', '.')
