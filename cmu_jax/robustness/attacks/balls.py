"""Balls about images: size, projection, steepest directions, random points.

Norms are 'linf' and 'l2', of all pixels and channels of one image. Radii are
one number, or one for each image.
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
  """One value, or one for each image, in the shape to meet their pixels."""
  return jnp.asarray(values).reshape(-1, 1, 1, 1)


def _max_abs(delta: Image) -> Float[Array, 'n']:
  return jnp.abs(delta).max((1, 2, 3))


def image_norms(delta: Image, norm: str) -> Float[Array, 'n']:
  """The norm of each image; scaled, as squares of 1e-23 are 0 in float32."""
  largest = _max_abs(delta)
  if norm == 'linf':
    return largest
  scale = jnp.where(largest > 0, largest, 1.0)
  return scale * jnp.sqrt(
    jnp.sum((delta / expand_to_pixels(scale)) ** 2, (1, 2, 3))
  )


def project(delta: Image, radius: Radius, norm: str) -> Image:
  """The nearest point of the ball about 0."""
  each = expand_to_pixels(radius)
  if norm == 'linf':
    return jnp.clip(delta, -each, each)
  length = image_norms(delta, norm)
  inverse = 1 / jnp.where(length > 0, length, 1.0)
  return delta * jnp.minimum(1.0, each * expand_to_pixels(inverse))


def _rounding_slack(norm: str, shape: tuple[int, ...]) -> float:
  """How far float32 pixels in [0, 1] together can be from their sum."""
  pixel = 2.0**-24
  return pixel if norm == 'linf' else pixel * math.sqrt(math.prod(shape))


def project_images(
  image: Image, moved: Image, radius: Radius, norm: str
) -> Image:
  """`moved` put back into the ball about `image`, then into [0, 1].

  The ball is narrowed by what rounding can add, so that the result is inside of
  it to the last digit. Clipping to [0, 1] comes last: as `image` lies in there,
  it only shortens.
  """
  slack = _rounding_slack(norm, image.shape[1:])
  inner = jnp.maximum(jnp.asarray(radius) * (1 - 2.0**-21) - slack, 0.0)
  return jnp.clip(image + project(moved - image, inner, norm), 0.0, 1.0)


def steepest_direction(gradient: Image, norm: str) -> Image:
  """The unit step along which a linear function rises most; 0 where it is 0."""
  if norm == 'linf':
    return jnp.sign(gradient)
  length = image_norms(gradient, norm)
  return gradient * expand_to_pixels(1 / jnp.where(length > 0, length, 1.0))


def draw_start(key: PRNGKey, image: Image, radius: Radius, norm: str) -> Image:
  """A uniform point of the ball about each image, clipped to [0, 1]."""
  if norm == 'linf':
    delta = jax.random.uniform(key, image.shape, minval=-1.0, maxval=1.0)
  else:
    where, far = jax.random.split(key)
    unit = steepest_direction(jax.random.normal(where, image.shape), norm)
    share = jax.random.uniform(far, image.shape[:1])
    delta = unit * expand_to_pixels(share ** (1 / math.prod(image.shape[1:])))
  return project_images(
    image, image + expand_to_pixels(radius) * delta, radius, norm
  )
