"""Mean and standard deviation of pixels: mistakes that give no error by itself.

A network with a wrong normalisation runs and answers nonsense. Statistics of
pixels from 0 to 255 in place of 0 to 1 show by their size. A mean and a
standard deviation in each other's place show where no picture can have them:
pixels from 0 to 1 of mean m have a variance of at most m (1 - m).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from cmu_jax.core import errors

# Largest value of a pixel as files store it.
_WHITE = 255
# Pictures whose pixels are measured.
_MEASURED = 256
# How much nearer the exchanged values must be to the measured ones.
_NEARER = 3.0
# And how far the given ones, where pictures may have them.
_FAR = 0.25
# Flags or fields of mean and standard deviation, for messages.
Names = tuple[str, str]


def _text(values: Float[np.ndarray, 'c']) -> str:
  return ','.join(f'{value:.4g}' for value in values)


def check_range(
  mean: Sequence[float], std: Sequence[float], names: Names = ('mean', 'std')
) -> None:
  """Refuses statistics that are not of pixels from 0 to 1.

  A mean of 0 with a deviation of 1 passes (no normalisation), and so does 0
  with 1/255 (a network that takes pixels from 0 to 255).

  Args:
    mean: of each channel, or of all.
    std: likewise.
    names: of both, for the message.

  Raises:
    UserError: a value outside 0 to 1; the remedy has values divided by 255.
  """
  m, s = np.asarray(mean, np.float64), np.asarray(std, np.float64)
  given = f'{names[0]}={_text(m)} and {names[1]}={_text(s)}'
  # Not a number is refused elsewhere.
  large_mean, large_std = (np.nanmax(x, initial=0) > 1 for x in (m, s))
  errors.check(
    not np.nanmin(m, initial=0) < 0,
    f'{given}: pixels lie between 0 and 1, so their mean is not negative',
  )
  if not (large_mean or large_std):
    return
  # A deviation of 1 beside a mean of 123.7 subtracts the mean alone.
  divides_std = large_std or np.nanmin(s, initial=1) >= 1
  remedy = (
    f'{names[0]}={_text(m / _WHITE if large_mean else m)} '
    f'{names[1]}={_text(s / _WHITE if divides_std else s)}'
  )
  raise errors.UserError(
    f'{given}: pixels lie between 0 and 1, so neither is above 1; if they are '
    f'of pixels from 0 to 255, give {remedy}'
  )


def _is_possible(
  mean: Float[np.ndarray, 'c'], std: Float[np.ndarray, 'c']
) -> bool:
  """Tests whether pixels from 0 to 1 can have these statistics."""
  return bool((std**2 <= mean * (1 - mean) + 1e-6).all())


def check_exchange(
  mean: Sequence[float],
  std: Sequence[float],
  image: UInt8[Any, 'n h w c'],
  names: Names = ('mean', 'std'),
) -> None:
  """Compares statistics with pictures, to find both in each other's place.

  Args:
    mean: of each channel, or of all.
    std: likewise.
    image: raw pixels, 0 to 255.
    names: of both, for the message.

  Raises:
    UserError: no picture can have these statistics, the exchanged ones are
      possible, and these pictures have nearly those. If pictures can have
      them, it is a remark.
  """
  m, s = np.asarray(mean, np.float64), np.asarray(std, np.float64)
  # 0 and 1 are no statistics: they switch a normalisation off.
  if not ((m > 0) & (s > 0) & (m < 1) & (s < 1)).all() or m.size != s.size:
    return
  few = np.asarray(image[:: max(1, len(image) // _MEASURED)]) / _WHITE
  axes = (0, 1, 2) if m.size > 1 else None
  measured_mean, measured_std = few.mean(axes), few.std(axes)
  distance = np.abs(m - measured_mean).mean() + np.abs(s - measured_std).mean()
  other = np.abs(s - measured_mean).mean() + np.abs(m - measured_std).mean()
  if distance < _NEARER * other or not _is_possible(s, m):
    return
  sentence = (
    f'{names[0]}={_text(m)} and {names[1]}={_text(s)} are in each other’s '
    f'place: the pictures have mean {_text(np.atleast_1d(measured_mean))} and '
    f'standard deviation {_text(np.atleast_1d(measured_std))}'
  )
  errors.check(_is_possible(m, s), f'{sentence}; exchange them')
  if distance > _FAR:
    errors.remark(f'Warning: perhaps {sentence}.')
