"""VGG-19 (arXiv 1409.1556) as torchvision builds it, without dropout.

Training here is a function of parameters and images alone, so the dropout
between the linear layers of the published network is left out; in evaluation
mode there is no difference.
"""

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

# Convolutions of each stage and, times the width, their channels.
_SIZES = (2, 2, 4, 4, 4)
_FACTORS = (1, 2, 4, 8, 8)
_SMALLEST = 32
_GRID = 7

_dense = functools.partial(
  layers.Dense,
  kernel_init=nn.initializers.normal(0.01),
  bias_init=nn.initializers.zeros,
)


class Body(layers.StemTrunk):
  """Five stages of 3x3 convolutions with max-pooling after each.

  Modules are called features_0, features_1 and so on and classifier_0 and
  classifier_3, by their place in torchvision's two sequences.

  Attributes:
    width: channels of the first stage.
    batch_norm: True for BatchNorm after every convolution.
    hidden: width of the two linear layers; 0 for the mean over the image in
      their place.
    dtype: what is computed in.
    convolve: see `conv.convolve`.
  """

  width: int
  batch_norm: bool
  hidden: int
  dtype: Any
  convolve: Callable

  def setup(self) -> None:
    stages, place = [], 0
    for size, factor in zip(_SIZES, _FACTORS, strict=True):
      stage = []
      for _ in range(size):
        stage.append(self._pair(factor * self.width, place))
        place += 3 if self.batch_norm else 2
      stages.append(stage)
      place += 1
    self.stages = stages
    self.linears = [
      _dense(self.hidden, dtype=self.dtype, name=f'classifier_{place}')
      for place in ((0, 3) if self.hidden else ())
    ]

  def _pair(self, features: int, place: int) -> list[nn.Module]:
    """A convolution and, where there is one, its BatchNorm."""
    convolution = layers.Conv(
      features,
      kernel_init=layers.kaiming_fan_out,
      bias_init=nn.initializers.zeros,
      dtype=self.dtype,
      convolve=self.convolve,
      name=f'features_{place}',
    )
    if not self.batch_norm:
      return [convolution]
    return [convolution, layers.BatchNorm(name=f'features_{place + 1}')]

  def stem(self, image: Float[Array, 'n h w c']) -> Float[Array, 'n h w d']:
    """The first convolution with its bias."""
    return self.stages[0][0][0](image)

  def trunk(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    """Everything after the first convolution, to the last hidden layer."""
    for number, stage in enumerate(self.stages):
      for index, (convolution, *norm) in enumerate(stage):
        x = convolution(x) if number or index else x
        x = nn.relu(norm[0](x, train) if norm else x)
      x = layers.max_pool(x)
    if not self.linears:
      return jnp.mean(x, (1, 2), dtype=jnp.float32)
    # PyTorch flattens channels first.
    x = jnp.transpose(adaptive_mean(x, _GRID), (0, 3, 1, 2))
    x = x.reshape(len(x), -1)
    for linear in self.linears:
      x = nn.relu(linear(x))
    return x


def adaptive_mean(
  x: Float[Array, 'n h w c'], size: int
) -> Float[Array, 'n size size c']:
  """Means over a grid of windows, as PyTorch's AdaptiveAvgPool2d.

  Window i of an axis of length l spans floor(i l / size) to
  ceil((i + 1) l / size), so that a smaller image is repeated.

  Args:
    x: images.
    size: windows along both axes.
  """
  rows, columns = (
    _mean_matrix(length, size, x.dtype) for length in x.shape[1:3]
  )
  exact = jax.lax.Precision.HIGHEST
  return jnp.einsum('ih,jw,nhwc->nijc', rows, columns, x, precision=exact)


def _mean_matrix(
  length: int, size: int, dtype: Any
) -> Float[Array, 'size length']:
  """The matrix of the means along one axis."""
  index = np.arange(size)
  first, last = index * length // size, -(-(index + 1) * length // size)
  place = np.arange(length)
  inside = (place >= first[:, None]) & (place < last[:, None])
  return jnp.asarray(inside / (last - first)[:, None], dtype)


def factory(batch_norm: bool) -> Callable[..., classifier.Classifier]:
  """The factory of VGG-19 with or without BatchNorm.

  Its options: `width`, channels of the first stage; `hidden`, width of
  torchvision's two linear layers before the head, or 0 for the mean over the
  image and the head alone, as is usual for small images; `dtype`, 'float32' or
  'bfloat16', what the body computes in; `convolve`, see `conv.convolve`. It
  raises a UserError for images below 32x32.

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
    body = Body(width, batch_norm, hidden, jnp.dtype(dtype), convolve)
    return classifier.Classifier(body, num_classes, dense=_dense)

  return make


def torch_name(module: str) -> str:
  """A module's path here to its name in torchvision's VGGs.

  Args:
    module: for example 'body/features_3'.

  Returns:
    For example 'features.3'.
  """
  if module == 'head':
    return 'classifier.6'
  return module.removeprefix('body/').replace('_', '.')
