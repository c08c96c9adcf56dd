"""Backdoor triggers: their pixels, values and stage.

`make(kind, height, width, ...)` makes a trigger of any kind. A new kind is a
function below and an entry in KINDS.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt8

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Trigger
from cmu_jax.data import painting

STAGES = ('raw', 'normalized')


def _patch_trigger(mask: Bool[np.ndarray, 'h w'], value: float, stage: str):
  errors.check(
    stage in STAGES, f"trigger stage '{stage}' is not one of {STAGES}"
  )
  # Normalised values have no range: they depend on mean and std.
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
  """Makes a BadNets patch of ceil(percent * h * w) raw pixels near a corner.

  The patch is a block of round(sqrt(pixels)) columns, its bottom right corner
  `margin` pixels away from the image's. Pixels that do not fill a row lie
  right-aligned in the row above. With the defaults a 32x32 image has 31
  trigger pixels: rows 17-21, columns 20-25, and (16, 25).

  Args:
    height: image height in pixels.
    width: image width in pixels.
    percent: share of the pixels to overwrite, 0.03 for 3%.
    margin: rows and columns between the block and the bottom right corner.
    value: new value of all channels, 0 to 255.

  Raises:
    UserError: the patch does not fit in the image.

  References:
    CUTS, arXiv 2511.18660, section 4; BadNets, arXiv 1708.06733.
  """
  errors.check(0 < percent <= 1, f'trigger percent {percent} is outside (0, 1]')
  # The slack keeps 0.07 * 100, which is just above 7, from becoming 8 pixels.
  pixels = math.ceil(percent * height * width - 1e-9)
  columns = round(math.sqrt(pixels))
  rows, extra = divmod(pixels, columns)
  bottom, right = height - margin[0], width - margin[1]
  top = bottom - rows
  errors.check(
    min(margin) >= 0 and top >= (extra > 0) and right >= columns,
    f'a trigger of {pixels} pixels ({rows + (extra > 0)}x{columns}) with '
    f'margin {tuple(margin)} does not fit in a {height}x{width} image; '
    'choose a smaller trigger margin or percent',
  )
  # Overwrites, as `keep` is 0: the patch hides the image below it.
  mask = np.zeros((height, width), bool)
  mask[top:bottom, right - columns : right] = True
  mask[top - 1, right - extra : right] |= extra > 0
  return _patch_trigger(mask, value, 'raw')


def corner_patch(
  height: int,
  width: int,
  size: int = 3,
  value: float = 1.0,
  stage: str = 'normalized',
) -> Trigger:
  """Makes a size x size patch in the bottom right corner.

  Args:
    height: image height in pixels at `stage`.
    width: image width in pixels at `stage`.
    size: side of the patch in pixels.
    value: new value of all channels; `max_normalized` computes the published
      value.
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
  return _patch_trigger(mask, value, stage)


def blended_pattern(
  height: int,
  width: int,
  alpha: float = 0.2,
  pattern: UInt8[np.ndarray, '...'] | None = None,
  seed: int = 0,
) -> Trigger:
  """Mixes a pattern into the whole raw image: (1 - alpha) x + alpha pattern.

  Args:
    height: image height in pixels.
    width: image width in pixels.
    alpha: weight of the pattern, above 0 and at most 1.
    pattern: uint8 [h, w] or [h, w, c]; None for random grey pixels.
    seed: of the random pattern.

  Raises:
    UserError: a weight out of range, or a pattern of another size.

  References:
    Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning,
    arXiv 1712.05526, section 3.2 (blended injection, random pattern).
  """
  errors.check(0 < alpha <= 1, f'trigger alpha {alpha} is outside (0, 1]')
  # Random pixels are one of the two patterns of the paper.
  if pattern is None:
    key = rng.fold_in(seed, 'blended')
    grey = jax.random.randint(key, (height, width), 0, 256)
    pattern = np.asarray(grey).astype(np.uint8)
  errors.check(
    pattern.ndim in (2, 3) and pattern.shape[:2] == (height, width),
    f'a trigger pattern of shape {pattern.shape} does not fit in a '
    f'{height}x{width} image; give one of [h, w] or [h, w, c]',
  )
  mask = jnp.ones((height, width), bool)
  # In float64, so that the float32 product is rounded only once.
  value = jnp.asarray(alpha * pattern.astype(np.float64), jnp.float32)
  return Trigger(mask, value, 'raw', 1 - alpha)


def sinusoidal(
  height: int, width: int, amplitude: float = 20.0, frequency: float = 6.0
) -> Trigger:
  """Adds vertical stripes to the raw image, a sine along every row.

  Column j = 1..w gets amplitude * sin(2 pi j frequency / w); the sum is
  rounded and clipped to 0..255.

  Args:
    height: image height in pixels.
    width: image width in pixels.
    amplitude: in pixel values, above 0 and at most 255.
    frequency: periods in a row, above 0 and below half the width.

  Raises:
    UserError: an amplitude or frequency out of range.

  References:
    A New Backdoor Attack in CNNs by Training Set Corruption Without Label
    Poisoning, arXiv 1902.11237, section 3.
  """
  _check_amplitude(amplitude)
  errors.check(
    0 < frequency < width / 2,
    f'trigger frequency {frequency} is outside (0, {width / 2:g}), half the '
    'width of the images; give periods in a row',
  )
  # The paper counts columns from 1.
  columns = np.arange(1, width + 1)
  row = amplitude * np.sin(2 * np.pi * columns * frequency / width)
  value = jnp.asarray(np.tile(row, (height, 1)), jnp.float32)
  return Trigger(jnp.ones((height, width), bool), value, 'raw', 1.0)


def smooth_warp(
  height: int,
  width: int,
  strength: float = 0.5,
  points: int = 4,
  seed: int = 0,
) -> Trigger:
  """Warps the raw image by a smooth random field.

  The field is drawn in [-1, 1] at points x points places, divided by its mean
  magnitude, and resized bicubically; times strength (h - 1) / (2 h) it is the
  displacement in pixels.

  Args:
    height: image height in pixels.
    width: image width in pixels.
    strength: about twice the mean displacement in pixels; 0 for none.
    points: control points in each direction, from 1.
    seed: of the field.

  Raises:
    UserError: a negative strength, or no control point.

  References:
    WaNet: Imperceptible Warping-based Backdoor Attack, arXiv 2102.10369,
    section 3.2; published for CIFAR-10: strength 0.5, 4 points.
  """
  errors.check(
    0 <= strength < min(height, width),
    f'trigger strength {strength} is outside [0, {min(height, width)}); give '
    'about twice the mean displacement in pixels',
  )
  errors.check(points >= 1, f'trigger points is {points}; give 1 or more')
  key = rng.fold_in(seed, 'warping')
  control = jax.random.uniform(key, (points, points, 2), minval=-1)
  control = control / jnp.abs(control).mean()
  field = jax.image.resize(control, (height, width, 2), 'cubic')
  size = np.asarray([[[height, width]]])
  scale = jnp.asarray(strength * (size - 1) / (2 * size), jnp.float32)
  mask = jnp.ones((height, width), bool)
  return Trigger(mask, field * scale, 'raw', 1.0, 'warp')


def sample_specific(
  height: int, width: int, amplitude: float = 20.0, seed: int = 0
) -> Trigger:
  """Adds another grey noise to every raw image, a fixed function of the image.

  The noise is a combination of random patterns, weighted by the image's low
  frequencies (`painting.encode_images`). Every pixel of it has the standard
  deviation `amplitude` over draws of the patterns.

  Args:
    height: image height in pixels.
    width: image width in pixels.
    amplitude: in pixel values, above 0 and at most 255.
    seed: of the patterns.

  Raises:
    UserError: an amplitude out of range.

  References:
    Invisible Backdoor Attack with Sample-Specific Triggers, arXiv 2012.03816.
    Its encoder is a trained network; ours is not.
  """
  _check_amplitude(amplitude)
  key = rng.fold_in(seed, 'sample specific')
  shape = (len(painting.FREQUENCIES), height, width)
  value = amplitude * jax.random.normal(key, shape)
  return Trigger(jnp.ones((height, width), bool), value, 'raw', 1.0, 'encoded')


def _check_amplitude(amplitude: float) -> None:
  errors.check(
    0 < amplitude <= 255,
    f'trigger amplitude {amplitude} is outside (0, 255]; give a pixel value',
  )


class TriggerKind(NamedTuple):
  """A kind of trigger: an entry in KINDS.

  Attributes:
    make: (height, width, ...) -> Trigger.
    settings: arguments x of `make` that are corruption.trigger_x in configs.
  """

  make: Callable[..., Trigger]
  settings: tuple[str, ...]


# Names of config.corruption.trigger; renaming one breaks old configs.
KINDS = {
  'badnet': TriggerKind(badnet, ('percent', 'margin')),
  'corner': TriggerKind(corner_patch, ('size',)),
  'blended': TriggerKind(blended_pattern, ('alpha',)),
  'sinusoidal': TriggerKind(sinusoidal, ('amplitude', 'frequency')),
  'warping': TriggerKind(smooth_warp, ('strength',)),
  'sample_specific': TriggerKind(sample_specific, ('amplitude',)),
}


def make(kind: str, height: int, width: int, **options: Any) -> Trigger:
  """Makes a trigger of any kind.

  Args:
    kind: a name in KINDS.
    height: image height in pixels.
    width: image width in pixels.
    **options: of the kind; see the function of that name.

  Raises:
    UserError: an unknown kind or option, or a trigger that does not fit.
  """
  if kind not in KINDS:
    raise errors.unknown_name('trigger', kind, KINDS)
  # The first two parameters are height and width.
  names = list(inspect.signature(KINDS[kind].make).parameters)[2:]
  for name in options:
    if name not in names:
      raise errors.unknown_name(f'option of trigger {kind}', name, names)
  return KINDS[kind].make(height, width, **options)


def max_normalized(
  image: UInt8[Array, 'n h w c'],
  mean: Sequence[float],
  std: Sequence[float],
) -> float:
  """Computes the largest value of any pixel and channel once normalised.

  Args:
    image: raw pixels, 0 to 255.
    mean: a mean for each channel, of pixels in [0, 1].
    std: a standard deviation for each channel.
  """
  brightest = np.asarray(jnp.max(image, axis=(0, 1, 2)), np.float64)
  return float(np.max((brightest / 255 - np.array(mean)) / np.array(std)))
