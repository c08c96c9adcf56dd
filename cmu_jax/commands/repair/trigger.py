"""Finds a painted trigger by comparing bad samples with ordinary pictures."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from cmu_jax.core.types import Trigger

# In steps of 255: how much a trigger's pixel may vary (JPEG does that), and how
# far ordinary pictures must be from it on average.
_STEADY, _APART = 10.0, 20.0
_LARGEST = 0.25


def locate(
  bad: UInt8[np.ndarray, 'n h w c'], ordinary: UInt8[np.ndarray, 'm h w c']
) -> Trigger | None:
  """The pixels that are the same in all bad samples and not in other pictures.

  Finds what is painted at one place with one look (BadNets), not what is
  blended into the picture or moves.

  Args:
    bad: samples with the trigger.
    ordinary: pictures without it.

  Returns:
    The trigger, a pattern of the bad samples' medians; None where no pixel
    qualifies, or more than a quarter do.
  """
  steady = bad.std(axis=0, dtype=np.float64).max(-1) <= _STEADY
  look = np.median(bad, axis=0)
  apart = np.abs(ordinary - look).mean(axis=0).max(-1) >= _APART
  mask = steady & apart
  if not mask.any() or mask.mean() > _LARGEST:
    return None
  return Trigger(jnp.asarray(mask), jnp.asarray(look, jnp.float32))
