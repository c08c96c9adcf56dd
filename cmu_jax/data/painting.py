"""The painting of a trigger on images, by its form.

  pattern   x becomes keep x + value
  warp      x at a pixel becomes x at the pixel displaced by value, bilinearly
  encoded   x becomes x + sum_i b_i(x) value_i, with the unit vector b(x) of the
            image's low frequencies: another pattern for every image

References:
  WaNet: Imperceptible Warping-based Backdoor Attack, arXiv 2102.10369.
  Invisible Backdoor Attack with Sample-Specific Triggers, arXiv 2012.03816. Its
  encoder is a trained network; ours is a fixed function of the image.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from cmu_jax.core import errors
from cmu_jax.core.types import Trigger

Image = Num[Array, 'n h w c']
TriggerFlags = Bool[Array, 'n'] | None
FORMS = ('pattern', 'warp', 'encoded')
# Cosines of 0 to 2 half periods in each direction, the constant left out.
FREQUENCIES = tuple((u, v) for u in range(3) for v in range(3) if u + v)


def paint(
  trigger: Trigger | None, stage: str, image: Image, has_trigger: TriggerFlags
) -> Image:
  """Paints the trigger on its images, if this is its stage.

  Args:
    trigger: None if no image has one.
    stage: of the images, 'raw' or 'normalized'.
    image: at that stage.
    has_trigger: marks the images to paint; None for none.

  Raises:
    UserError: flags without a trigger, or a trigger for images of another size.
  """
  if has_trigger is None:
    return image
  if trigger is None:
    raise errors.UserError(
      'images have a trigger but the input step has no trigger; pass trigger='
    )
  if trigger.stage != stage:
    return image
  errors.check(
    trigger.mask.shape == image.shape[1:3],
    f'a {stage} trigger of {trigger.mask.shape} pixels meets images of '
    f'{image.shape[1:3]}; make the trigger for that size',
  )
  # The form is static, so the compiled step has one branch.
  if trigger.form == 'warp':
    painted = warp_images(image, trigger.value)
  elif trigger.form == 'encoded':
    painted = image.astype(jnp.float32) + encode_images(image, trigger.value)
  else:
    painted = _paint_pattern(trigger, image)
  if stage == 'raw':
    painted = jnp.clip(jnp.round(painted), 0, 255)
  pixels = has_trigger[:, None, None, None] & trigger.mask[None, :, :, None]
  return jnp.where(pixels, painted.astype(image.dtype), image)


def _paint_pattern(trigger: Trigger, image: Image) -> jax.Array:
  errors.check(
    trigger.value.ndim < 3 or trigger.value.shape[2] == image.shape[3],
    f'a trigger pattern of shape {trigger.value.shape} meets images of '
    f'{image.shape[3]} channels; make it for one, or without channels',
  )
  shape = trigger.value.shape
  painted = trigger.value.reshape(1, *shape, *(1,) * (3 - len(shape)))
  # Without `keep` the image is not read: overwriting stays exact in uint8.
  if trigger.keep:
    painted = trigger.keep * image.astype(jnp.float32) + painted
  return painted


def warp_images(
  image: Image, displacement: Float[Array, 'h w 2']
) -> Float[Array, 'n h w c']:
  """Reads each pixel at a displaced position, bilinearly.

  Args:
    image: of any type of pixels.
    displacement: rows and columns to add; positions outside move to the edge.
  """
  h, w = image.shape[1:3]
  grid = jnp.stack(
    jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing='ij'), axis=-1
  )
  limit = jnp.asarray([[[h - 1, w - 1]]], jnp.float32)
  position = jnp.clip(grid + displacement, 0, limit)
  # The last row starts at the one above it, so that both corners exist.
  corner = jnp.minimum(jnp.floor(position), jnp.maximum(limit - 1, 0))
  weight = position - corner
  # Gathers of four corners cost less on a CPU than a resampling per image.
  row, column = jnp.moveaxis(corner.astype(jnp.int32), -1, 0)
  below, right = jnp.minimum(row + 1, h - 1), jnp.minimum(column + 1, w - 1)
  dy, dx = (weight[None, ..., i, None] for i in (0, 1))
  pixels = image.astype(jnp.float32)
  upper = (1 - dx) * pixels[:, row, column] + dx * pixels[:, row, right]
  lower = (1 - dx) * pixels[:, below, column] + dx * pixels[:, below, right]
  return (1 - dy) * upper + dy * lower


@functools.lru_cache(maxsize=8)
def cosine_modes(height: int, width: int) -> Float[np.ndarray, 'm h w']:
  """The low frequencies: products of cosines without a mean."""
  axes = [
    np.cos(np.pi * np.outer(np.arange(3), np.arange(size) + 0.5) / size)
    for size in (height, width)
  ]
  return np.stack([np.outer(axes[0][u], axes[1][v]) for u, v in FREQUENCIES])


def encode_images(
  image: Image, patterns: Float[Array, 'm h w']
) -> Float[Array, 'n h w 1']:
  """The pattern of each image, sum_i b_i(x) patterns_i.

  b(x) are the low frequencies of the grey image, scaled to length 1: neither
  brightness nor contrast changes the pattern. It is 0 for a plain image.

  Args:
    image: of any type of pixels.
    patterns: one for each of FREQUENCIES.
  """
  grey = image.astype(jnp.float32).mean(-1)
  modes = jnp.asarray(cosine_modes(*image.shape[1:3]), jnp.float32)
  # Means, because sums over many pixels would lose digits.
  code = jnp.einsum('nhw,mhw->nm', grey, modes) / modes[0].size
  length = jnp.linalg.norm(code, axis=-1, keepdims=True)
  # Rounding errors of a plain image are no code.
  unit = jnp.where(length > 1e-3, code / jnp.maximum(length, 1e-3), 0)
  return jnp.einsum('nm,mhw->nhw', unit, patterns)[..., None]
