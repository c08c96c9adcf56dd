"""Training: compiled segments of steps, driven from the host.

The host picks the length of a segment so that its progress bar moves and its
checkpoints are recent; the result does not depend on it.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from cmu_jax.core import errors, jit, progress, store, tree, vectorize
from cmu_jax.core.types import Batch, InputStep, Model, Variables
from cmu_jax.training import early_stopping, metrics, segment

_SEGMENT_SECONDS = 2.0


class Diverged(errors.UserError):
  """The loss stopped being finite; the message names the step."""


class Fit(NamedTuple):
  """The result of a training.

  Attributes:
    variables: the last iterate, or the best epoch where that is kept.
    history: loss and accuracy of every step that was made, [t, 2].
    images_per_second: throughput of this process; None if nothing was run.
  """

  variables: Variables
  history: Float[Array, '*s t 2']
  images_per_second: float | None


def _check_finite(history: np.ndarray, start: int, title: str) -> None:
  """Raises Diverged if a loss from step `start` on is not finite."""
  bad = ~np.isfinite(history[..., 0])
  bad = bad.any(axis=0) if bad.ndim == 2 else bad
  if bad.any():
    raise Diverged(
      f'{title}: the loss is not finite at step {start + int(bad.argmax())}; '
      'lower the learning rate or check the pixels'
    )


@functools.lru_cache(maxsize=64)
def _state_initializer(
  optimizer: optax.GradientTransformation, steps: int, stacked: bool
) -> Callable[[Variables], segment.TrainState]:
  """Cached by the optimiser: short trainings are many, and alike."""
  init = jax.vmap(optimizer.init) if stacked else optimizer.init

  def make(start):
    lead = jax.tree.leaves(start)[0].shape[:1] if stacked else ()
    history = jnp.zeros((*lead, steps, 2), jnp.float32)
    copied = jax.tree.map(jnp.copy, start)
    return segment.TrainState(copied, init(start.params), history)

  return jit.compile_cheaply(make)


def initial_state(
  optimizer: optax.GradientTransformation,
  variables: Variables,
  steps: int,
  stacked: bool = False,
) -> segment.TrainState:
  """The state before step 0; copies, because segments donate their state."""
  return _state_initializer(optimizer, steps, stacked)(variables)


def run_segments(
  run: Callable,
  state: segment.TrainState | early_stopping.TrackedState,
  steps: int,
  images_per_step: int,
  checkpoint: store.Checkpoint | None = None,
  title: str = 'train',
  until: early_stopping.StopRule | None = None,
) -> Fit:
  """Runs segments until `steps`, with progress, checks and checkpoints.

  Args:
    run: (state, start, stop) -> state, compiled; donates its state.
    state: before step 0.
    steps: how many.
    images_per_step: for the throughput.
    checkpoint: where to save and from where to continue.
    title: what the progress bar and errors call this training.
    until: when to end before that; None for never.

  Raises:
    Diverged: the loss is not finite; names the first such step.
  """
  found = checkpoint.restore(state) if checkpoint else None
  state, start = found if found else (state, 0)
  if 0 < start < steps:
    print(f'{title}: continues at step {start} of {steps}', file=sys.stderr)
  step, length, busy, timed = start, 1, 0.0, 0
  saved = time.monotonic()
  over = early_stopping.should_stop(until, state.history, step)
  with progress.bar(title, steps, start=start) as advance:
    while step < steps and not over:
      stop = early_stopping.next_check(until, step, min(steps, step + length))
      began = time.monotonic()
      state = run(state, step, stop)
      _check_finite(np.asarray(state.history)[..., step:stop, :], step, title)
      seconds = time.monotonic() - began
      if step > start:  # The first segment compiles.
        busy, timed = busy + seconds, timed + stop - step
      rate = images_per_step * timed / busy if timed else 0.0
      advance(stop - step, f'{rate:,.0f} images/s' if timed else '')
      length = int(
        np.clip(_SEGMENT_SECONDS / (seconds / (stop - step)), 1, 8 * length)
      )
      step, over = stop, early_stopping.should_stop(until, state.history, stop)
      due = time.monotonic() - saved > checkpoint.seconds if checkpoint else 0
      if checkpoint and (due or over or step == steps):
        checkpoint.save(state, step)
        saved = time.monotonic()
  throughput = images_per_step * timed / busy if timed else None
  history = state.history[..., :step, :] if over else state.history
  return Fit(state.variables, history, throughput)


def fit(
  key: Key[Array, '*s'],
  model: Model,
  variables: Variables,
  batch: Batch,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  inputs: InputStep,
  loss: segment.Loss = metrics.cross_entropy,
  strategy: vectorize.Strategy | None = None,
  checkpoint: store.Checkpoint | None = None,
  title: str = 'train',
  watch: tuple[early_stopping.BestEpoch, Batch] | None = None,
  until: early_stopping.StopRule | None = None,
) -> Fit:
  """Trains a network on a device-resident split.

  Args:
    key: random key of sample order and augmentation; or, with `strategy`, keys
      [s].
    model: the network.
    variables: where to start; with `strategy`, stacked along a leading axis s.
    batch: n raw images and labels; with `strategy`, stacked likewise.
    optimizer: an optax transformation; its schedule counts these steps.
    steps: optimiser steps.
    batch_size: samples a step; at most n are used.
    inputs: raw pixels to network input.
    loss: (logits, label) -> one value a sample.
    strategy: None for one network; else how s networks are driven, see
      `vectorize.over` ('map', 'vmap' or 'loop'); a 'loop' takes none of
      `checkpoint`, `watch` and `until`.
    checkpoint: where to save and from where to continue.
    title: what the progress bar and errors call this training.
    watch: how to find the best epoch, and on which images, to return that one;
      None for the last iterate. Of one network only.
    until: when to end before the last step.

  Returns:
    The last iterate, the loss and accuracy of each step, the throughput.

  Raises:
    Diverged: the loss is not finite; names the first such step.
    UserError: an empty batch.
    ValueError: an option that a 'loop' does not take.
  """
  if strategy == 'loop':
    if checkpoint or watch or until:
      raise ValueError("how='loop' takes no checkpoint, watch or until")
    return _fit_sequentially(
      key,
      model,
      variables,
      batch,
      optimizer=optimizer,
      steps=steps,
      batch_size=batch_size,
      inputs=inputs,
      loss=loss,
      title=title,
    )
  stacked = strategy is not None
  size = batch.label.shape[-1]
  errors.check(size > 0, f'{title}: no training images')
  count = min(batch_size, size)
  errors.check(
    (steps + 1) * count < 2**31,
    f'{title}: {steps} steps of {count} '
    'images exceed 2^31 images; train for fewer steps',
  )
  run = segment.compile_segment(
    segment.SegmentSpec(model, loss, optimizer, inputs, count), strategy
  )
  members = batch.label.shape[0] if stacked else 1
  bound = lambda state, start, stop: run(key, state, batch, start, stop)
  state = initial_state(optimizer, variables, steps, stacked)
  return run_segments(
    *track_best_epoch(bound, state, steps, watch),
    steps,
    count * members,
    checkpoint,
    title,
    until,
  )


def track_best_epoch(
  run: Callable,
  state: segment.TrainState,
  steps: int,
  watch: tuple[early_stopping.BestEpoch, Batch] | None,
) -> tuple[Callable, segment.TrainState | early_stopping.TrackedState]:
  """What to drive, so that the best epoch is kept if that is asked for.

  Args:
    run: (state, start, stop) -> state.
    state: before step 0.
    steps: how many.
    watch: how to find the best epoch, and on which images; None for neither.
  """
  if watch is None:
    return run, state
  keep, images = watch
  return early_stopping.keep_best(
    run, keep, images, steps
  ), early_stopping.begin_tracking(state)


def _fit_sequentially(
  keys: Key[Array, 's'],
  model: Model,
  variables: Variables,
  batch: Batch,
  *,
  title: str,
  **options: Any,
) -> Fit:
  """Members of a stack trained one after another with one compilation."""
  fits = [
    fit(
      keys[i],
      model,
      tree.index(variables, i),
      tree.index(batch, i),
      title=f'{title} {i}',
      **options,
    )
    for i in range(batch.label.shape[0])
  ]
  rates = [f.images_per_second for f in fits if f.images_per_second]
  return Fit(
    tree.stack([f.variables for f in fits]),
    jnp.stack([f.history for f in fits]),
    sum(rates) / len(rates) if rates else None,
  )


def steps_per_epoch(size: int, batch_size: int) -> int:
  """ceil(size / batch size), the unit of schedules that count epochs."""
  return -(-size // min(batch_size, size))
