"""The best epoch of a training, which published code keeps as its result.

After each epoch the network is looked at on images with true labels, and the
first one with the highest accuracy is kept beside the state of the training.
The code of Corrective Machine Unlearning (arXiv 2402.14015) does so on the test
split; everywhere else in this package the last iterate counts.

When a training ends before its last step: asked after every pass.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cmu_jax.core import jit
from cmu_jax.core.types import Batch, InputStep, Model, Variables
from cmu_jax.training import metrics, segment

RunSegment = Callable[[segment.TrainState, int, int], segment.TrainState]


class BestEpoch(NamedTuple):
  """How the best epoch is found: the static part.

  Attributes:
    model: the network.
    inputs: raw pixels to network input.
    epoch: steps between two looks; there is one after the last step, too.
    batch_size: images a step of the look.
  """

  model: Model
  inputs: InputStep
  interval: int
  batch_size: int = 1024


class TrackedState(NamedTuple):
  """The state of a training, and the best network so far.

  Attributes:
    state: as of the training alone.
    best: the first network with the highest accuracy.
    accuracy: its accuracy; -1 before the first look.
    step: after how many steps it was found.
  """

  state: segment.TrainState
  best: Variables
  accuracy: Float[Array, '']
  step: Int[Array, '']

  @property
  def history(self) -> Float[Array, 't 2']:
    return self.state.history

  @property
  def variables(self) -> Variables:
    return self.best


@functools.lru_cache(maxsize=32)
def _comparison(keep: BestEpoch, size: int) -> Callable:
  """(state, best so far, images, step) -> the best of both, jitted."""
  predict = metrics.predictor(keep.model, keep.inputs, size)

  def look(state, best, accuracy, step, images, now):
    found = jnp.mean(predict(state.variables, images) == images.label)
    better = found > accuracy
    chosen = jax.tree.map(
      lambda new, old: jnp.where(better, new, old), state.variables, best
    )
    return (
      chosen,
      jnp.where(better, found, accuracy),
      jnp.where(better, now, step),
    )

  return jit.compile_loop(look)


def begin_tracking(state: segment.TrainState) -> TrackedState:
  """Before step 0; a copy, because segments donate their state."""
  copied = jax.tree.map(jnp.copy, state.variables)
  return TrackedState(state, copied, jnp.float32(-1), jnp.int32(0))


def keep_best(
  run: RunSegment, keep: BestEpoch, images: Batch, steps: int
) -> Callable[[TrackedState, int, int], TrackedState]:
  """A training that keeps its best epoch; the result depends on no cut.

  Args:
    run: (state, start, stop) -> state, donating its state.
    keep: how the best epoch is found.
    images: with true labels, at least one.
    steps: of the whole training.
  """
  look = _comparison(keep, min(keep.batch_size, images.label.shape[0]))

  def go(now: TrackedState, start: int, stop: int) -> TrackedState:
    while start < stop:
      end = min(stop, (start // keep.interval + 1) * keep.interval)
      now = now._replace(state=run(now.state, start, end))
      if end % keep.interval == 0 or end == steps:
        found = look(*now, images, jnp.int32(end))
        now = TrackedState(now.state, *found)
      start = end
    return now

  return go


class StopRule(NamedTuple):
  """When a training has seen enough.

  Attributes:
    every: steps between two looks, such as those of a pass over the data.
      The result depends on them alone, not on how the training is cut.
    done: the history of all steps so far, [*s, t, c], such as their loss and
      accuracy -> whether to end here.
  """

  interval: int
  is_met: Callable[[Float[np.ndarray, '*s t c']], bool]


def should_stop(
  until: StopRule | None, history: Float[Array | np.ndarray, '...'], step: int
) -> bool:
  """Whether a training ends after this step.

  Args:
    until: the rule; None for none.
    history: of all steps, also those that are to come, [*s, t, c].
    step: how many were made.
  """
  if until is None or step == 0 or step % until.interval:
    return False
  return bool(until.is_met(np.asarray(history)[..., :step, :]))


def next_check(until: StopRule | None, step: int, stop: int) -> int:
  """Where a segment from `step` ends that should go to `stop`."""
  if until is None:
    return stop
  return min(stop, (step // until.interval + 1) * until.interval)
