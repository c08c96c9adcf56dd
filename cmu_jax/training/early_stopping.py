"""Early stopping: the best epoch of a training, and rules that end it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cmu_jax.core import jit
from cmu_jax.core.types import Batch, Network, Variables
from cmu_jax.training import metrics, segment

RunSegment = Callable[[segment.TrainState, int, int], segment.TrainState]


class BestEpoch(NamedTuple):
  """The static settings of a search for the best epoch.

  After each epoch the network is evaluated on images with true labels. The
  first network with the highest accuracy is the result of the training.

  Attributes:
    network: the model and its input step.
    interval: steps between two evaluations; the last step is evaluated, too.
    batch_size: images of an evaluation at a time.

  References:
    The code of Corrective Machine Unlearning (arXiv 2402.14015), which
    evaluates on the test split.
  """

  network: Network
  interval: int
  batch_size: int = 1024


class TrackedState(NamedTuple):
  """The state of a training, and its best network so far.

  Attributes:
    state: of the training alone.
    best: the first network with the highest accuracy.
    accuracy: of the best network; -1 before the first evaluation.
    step: number of steps that led to the best network.
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


class StopRule(NamedTuple):
  """A rule that ends a training before its last step.

  Attributes:
    interval: steps between two checks, such as an epoch. The result depends on
      the interval alone, not on the cuts of the training.
    is_met: the history of all steps so far, [*s, t, c], such as loss and
      accuracy -> whether the training ends here.
  """

  interval: int
  is_met: Callable[[Float[np.ndarray, '*s t c']], bool]


@functools.lru_cache(maxsize=32)
def _comparison(selection: BestEpoch, size: int) -> Callable:
  """A jitted function that keeps the better of two networks."""
  predict = metrics.predictor(selection.network, size)

  def compare(state, best, accuracy, step, images, current_step):
    current = jnp.mean(predict(state.variables, images) == images.label)
    # Strictly better, so that the earliest of several equal epochs wins.
    better = current > accuracy
    winner = jax.tree.map(
      lambda new, old: jnp.where(better, new, old), state.variables, best
    )
    return (
      winner,
      jnp.where(better, current, accuracy),
      jnp.where(better, current_step, step),
    )

  return jit.compile_loop(compare)


def begin_tracking(state: segment.TrainState) -> TrackedState:
  """Returns the tracked state before step 0."""
  # A copy, because segments donate their state.
  copied = jax.tree.map(jnp.copy, state.variables)
  return TrackedState(state, copied, jnp.float32(-1), jnp.int32(0))


def keep_best(
  run: RunSegment, selection: BestEpoch, images: Batch, steps: int
) -> Callable[[TrackedState, int, int], TrackedState]:
  """Wraps a training so that it keeps its best epoch.

  Args:
    run: (state, start, stop) -> state, donating its state.
    selection: settings of the evaluations.
    images: with true labels, at least one image.
    steps: of the whole training.
  """
  compare = _comparison(
    selection, min(selection.batch_size, images.label.shape[0])
  )

  def run_tracked(tracked: TrackedState, start: int, stop: int) -> TrackedState:
    # Cuts at every evaluation, so that the host's segments do not matter.
    while start < stop:
      end = min(stop, (start // selection.interval + 1) * selection.interval)
      tracked = tracked._replace(state=run(tracked.state, start, end))
      if end % selection.interval == 0 or end == steps:
        best = compare(*tracked, images, jnp.int32(end))
        tracked = TrackedState(tracked.state, *best)
      start = end
    return tracked

  return run_tracked


def should_stop(
  rule: StopRule | None, history: Float[Array | np.ndarray, '...'], step: int
) -> bool:
  """Returns whether a training ends after `step` steps.

  Args:
    rule: None for no early end.
    history: of all steps, also of future steps, [*s, t, c].
    step: number of completed steps.
  """
  if rule is None or step == 0 or step % rule.interval:
    return False
  return bool(rule.is_met(np.asarray(history)[..., :step, :]))


def next_check(rule: StopRule | None, step: int, stop: int) -> int:
  """Returns the end of a segment [step, stop), at a check at the latest."""
  if rule is None:
    return stop
  return min(stop, (step // rule.interval + 1) * rule.interval)
