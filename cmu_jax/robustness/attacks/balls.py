"""Norm balls around images: projection, steepest directions, random points.

Norms are 'linf' and 'l2', over all pixels and channels of an image. A radius is
one number, or one number for each image.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey

NORMS = ('linf', 'l2')
Image = Float[Array, 'n h w c']
Radius = float | Float[Array, ''] | Float[Array, 'n']


def check_norm(norm: str) -> None:
  """Raises UserError unless `norm` is one of NORMS."""
  if norm not in NORMS:
    raise errors.unknown_name('norm', str(norm), NORMS)


def diameter(norm: str, shape: tuple[int, ...]) -> float:
  """The largest distance in [0, 1]^d: 1 in linf, sqrt(d) in l2."""
  return 1.0 if norm == 'linf' else math.sqrt(math.prod(shape))


def expand_to_pixels(values: Any) -> Array:
  """Reshapes one value, or one for each image, to broadcast over pixels."""
  return jnp.asarray(values).reshape(-1, 1, 1, 1)


def image_norms(delta: Image, norm: str) -> Float[Array, 'n']:
  """The norm of each image."""
  largest = jnp.abs(delta).max((1, 2, 3))
  if norm == 'linf':
    return largest
  # Scaled, because squares of 1e-23 are 0 in float32.
  scale = jnp.where(largest > 0, largest, 1.0)
  scaled = delta / expand_to_pixels(scale)
  return scale * jnp.sqrt(jnp.sum(scaled**2, (1, 2, 3)))


def project(delta: Image, radius: Radius, norm: str) -> Image:
  """Returns the nearest point of the ball around 0."""
  limit = expand_to_pixels(radius)
  if norm == 'linf':
    return jnp.clip(delta, -limit, limit)
  length = image_norms(delta, norm)
  inverse = 1 / jnp.where(length > 0, length, 1.0)
  return delta * jnp.minimum(1.0, limit * expand_to_pixels(inverse))


def _rounding_slack(norm: str, shape: tuple[int, ...]) -> float:
  """The largest error of a sum of float32 pixels in [0, 1]."""
  pixel = 2.0**-24
  return pixel if norm == 'linf' else pixel * math.sqrt(math.prod(shape))


def project_images(
  image: Image, moved: Image, radius: Radius, norm: str
) -> Image:
  """Projects `moved` on the ball around `image`, then on [0, 1]."""
  # A ball that is narrower by the rounding error keeps the result inside the
  # wanted ball to the last digit.
  slack = _rounding_slack(norm, image.shape[1:])
  inner = jnp.maximum(jnp.asarray(radius) * (1 - 2.0**-21) - slack, 0.0)
  # Clipping comes last: it only shortens, because `image` lies in [0, 1].
  return jnp.clip(image + project(moved - image, inner, norm), 0.0, 1.0)


def steepest_direction(gradient: Image, norm: str) -> Image:
  """The unit step along which a linear function rises most; 0 for 0."""
  if norm == 'linf':
    return jnp.sign(gradient)
  length = image_norms(gradient, norm)
  return gradient * expand_to_pixels(1 / jnp.where(length > 0, length, 1.0))


def draw_start(key: PRNGKey, image: Image, radius: Radius, norm: str) -> Image:
  """Draws a uniform point of the ball around each image, clipped to [0, 1]."""
  if norm == 'linf':
    delta = jax.random.uniform(
      key, image.shape, jnp.float32, minval=-1.0, maxval=1.0
    )
  else:
    direction_key, length_key = jax.random.split(key)
    noise = jax.random.normal(direction_key, image.shape, jnp.float32)
    unit = steepest_direction(noise, norm)
    share = jax.random.uniform(length_key, image.shape[:1], jnp.float32)
    # The volume of a ball grows with the power d of its radius.
    exponent = 1 / math.prod(image.shape[1:])
    delta = unit * expand_to_pixels(share**exponent)
  moved = image + expand_to_pixels(radius) * delta
  return project_images(image, moved, radius, norm)
