"""Backdoor triggers: which pixels, what value, at which stage."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt8

from cmu_jax import errors
from cmu_jax.types import Trigger

STAGES = ('raw', 'normalized')


def _trigger(mask: Bool[np.ndarray, 'h w'], value: float, stage: str):
  errors.check(
    stage in STAGES, f"trigger stage '{stage}' is not one of {STAGES}"
  )
  errors.check(
    stage == 'normalized' or 0 <= value <= 255,
    f'raw trigger value {value} is outside 0..255; give a pixel value',
  )
  return Trigger(jnp.asarray(mask), jnp.float32(value), stage)


def badnet(
  height: int,
  width: int,
  percent: float = 0.03,
  margin: tuple[int, int] = (10, 6),
  value: float = 255.0,
) -> Trigger:
  """A BadNets patch of ceil(percent * h * w) raw pixels near a corner.

  The patch is a block of round(sqrt(pixels)) columns, its bottom right corner
  `margin` pixels away from the image's; pixels that do not fill a row lie
  right-aligned in the row above. With the defaults a 32x32 image has 31
  trigger pixels: rows 17-21, columns 20-25, and (16, 25).

  Args:
    height: image height in pixels.
    width: image width in pixels.
    percent: share of the pixels to overwrite, 0.03 for 3%.
    margin: rows and columns between the block and the bottom right corner.
    value: what all channels become, 0 to 255.

  Raises:
    UserError: the patch does not fit in the image.

  References:
    CUTS, arXiv 2511.18660, section 4; BadNets, arXiv 1708.06733.
  """
  errors.check(0 < percent <= 1, f'trigger percent {percent} is outside (0, 1]')
  pixels = math.ceil(percent * height * width - 1e-9)
  columns = round(math.sqrt(pixels))
  rows, left = divmod(pixels, columns)
  bottom, right = height - margin[0], width - margin[1]
  top = bottom - rows
  errors.check(
    min(margin) >= 0 and top >= (left > 0) and right >= columns,
    f'a trigger of {pixels} pixels ({rows + (left > 0)}x{columns}) with '
    f'margin {tuple(margin)} does not fit in a {height}x{width} image; '
    'choose a smaller trigger margin or percent',
  )
  mask = np.zeros((height, width), bool)
  mask[top:bottom, right - columns : right] = True
  mask[top - 1, right - left : right] |= left > 0
  return _trigger(mask, value, 'raw')


def corner_patch(
  height: int,
  width: int,
  size: int = 3,
  value: float = 1.0,
  stage: str = 'normalized',
) -> Trigger:
  """A size x size patch flush with the bottom right corner.

  Args:
    height: image height in pixels at `stage`.
    width: image width in pixels at `stage`.
    size: side of the patch in pixels.
    value: what all channels become; `max_normalized` gives the published one.
    stage: 'normalized' (after augmentation, so never cropped or mirrored) or
      'raw'.

  Raises:
    UserError: the patch does not fit in the image, or an unknown stage.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 4.
  """
  errors.check(
    1 <= size <= min(height, width),
    f'a trigger patch of {size}x{size} does not fit in a {height}x{width} '
    'image; choose a trigger size from 1 to the shorter side',
  )
  mask = np.zeros((height, width), bool)
  mask[height - size :, width - size :] = True
  return _trigger(mask, value, stage)


def max_normalized(
  image: UInt8[Array, 'n h w c'],
  mean: Sequence[float],
  std: Sequence[float],
) -> float:
  """The largest value of any pixel and channel after normalisation.

  Args:
    image: raw pixels, 0 to 255.
    mean: a mean for each channel, of pixels in [0, 1].
    std: a standard deviation for each channel.
  """
  brightest = np.asarray(jnp.max(image, axis=(0, 1, 2)), np.float64)
  return float(np.max((brightest / 255 - np.array(mean)) / np.array(std)))
