"""The best epoch of a training, which published code keeps as its result.

After each epoch the network is looked at on images with true labels, and the
first one with the highest accuracy is kept beside the state of the training.
The code of Corrective Machine Unlearning (arXiv 2402.14015) does so on the test
split; everywhere else in this package the last iterate counts.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cmu_jax.core import jit
from cmu_jax.core.types import Batch, InputStep, Model, Variables
from cmu_jax.training import metrics, segment

Run = Callable[[segment.TrainState, int, int], segment.TrainState]


class Keep(NamedTuple):
  """How the best epoch is found: the static part.

  Attributes:
    model: the network.
    inputs: raw pixels to network input.
    epoch: steps between two looks; there is one after the last step, too.
    batch_size: images a step of the look.
  """

  model: Model
  inputs: InputStep
  epoch: int
  batch_size: int = 1024


class Watched(NamedTuple):
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
def _look(keep: Keep, size: int) -> Callable:
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

  return jit.looped(look)


def begin(state: segment.TrainState) -> Watched:
  """Before step 0; a copy, because segments donate their state."""
  copied = jax.tree.map(jnp.copy, state.variables)
  return Watched(state, copied, jnp.float32(-1), jnp.int32(0))


def watched(
  run: Run, keep: Keep, images: Batch, steps: int
) -> Callable[[Watched, int, int], Watched]:
  """A training that keeps its best epoch; the result depends on no cut.

  Args:
    run: (state, start, stop) -> state, donating its state.
    keep: how the best epoch is found.
    images: with true labels, at least one.
    steps: of the whole training.
  """
  look = _look(keep, min(keep.batch_size, images.label.shape[0]))

  def go(now: Watched, start: int, stop: int) -> Watched:
    while start < stop:
      end = min(stop, (start // keep.epoch + 1) * keep.epoch)
      now = now._replace(state=run(now.state, start, end))
      if end % keep.epoch == 0 or end == steps:
        found = look(*now, images, jnp.int32(end))
        now = Watched(now.state, *found)
      start = end
    return now

  return go
