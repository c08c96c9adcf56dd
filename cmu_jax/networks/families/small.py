"""FC1: the one-hidden-layer network of CUTS (arXiv 2511.18660), and deeper."""

from typing import Any

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.networks import classifier, layers


class Body(layers.Stemmed):
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
  body = Body(width, depth, jnp.dtype(dtype))
  return classifier.Classifier(body, num_classes)


def layers_of(*, depth: int = 1, **options: Any) -> tuple[tuple[str, ...], ...]:
  """The modules of each layer, from first to last; options are those of fc."""
  del options
  return (*((f'body/hidden_{i}',) for i in range(depth)), ('head',))
