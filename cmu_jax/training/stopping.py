"""When a training ends before its last step: asked after every pass."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float


class Until(NamedTuple):
  """When a training has seen enough.

  Attributes:
    every: steps between two looks, such as those of a pass over the data.
      The result depends on them alone, not on how the training is cut.
    done: the history of all steps so far, [*s, t, c], such as their loss and
      accuracy -> whether to end here.
  """

  every: int
  done: Callable[[Float[np.ndarray, '*s t c']], bool]


def reached(
  until: Until | None, history: Float[Array | np.ndarray, '...'], step: int
) -> bool:
  """Whether a training ends after this step.

  Args:
    until: the rule; None for none.
    history: of all steps, also those that are to come, [*s, t, c].
    step: how many were made.
  """
  if until is None or step == 0 or step % until.every:
    return False
  return bool(until.done(np.asarray(history)[..., :step, :]))


def next_look(until: Until | None, step: int, stop: int) -> int:
  """Where a segment from `step` ends that should go to `stop`."""
  if until is None:
    return stop
  return min(stop, (step // until.every + 1) * until.every)
