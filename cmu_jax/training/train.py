"""Training loops: compiled segments of steps, driven from the host."""

import functools
import sys
import time
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from cmu_jax import networks
from cmu_jax.core import array_checks, errors, jit, progress, tree, vectorize
from cmu_jax.core.store import Checkpoint
from cmu_jax.core.types import Batch, Network, Training, Variables
from cmu_jax.training import early_stopping, metrics, segment

# Long enough to hide the dispatch, short enough for a lively progress bar.
_SEGMENT_SECONDS = 2.0
# Beyond, a training would last for days.
_MAX_STEPS = 10_000_000


class Diverged(errors.UserError):
  """The loss is no longer finite; the message names the step."""


class Session(NamedTuple):
  """The host's side of a training.

  Attributes:
    title: of the progress bar and of errors.
    checkpoint: saves the state and restores it; None to keep nothing.
    until: ends the training early; None for all steps.
    watch: settings and images that select the best epoch as the result; None
      for the last iterate. For one network only.
  """

  title: str = 'train'
  checkpoint: Checkpoint | None = None
  until: early_stopping.StopRule | None = None
  watch: tuple[early_stopping.BestEpoch, Batch] | None = None


_PLAIN = Session()


class Fit(NamedTuple):
  """The result of a training.

  Attributes:
    variables: the last iterate, or the best epoch if the training tracks it.
    history: loss and accuracy of every completed step, [t, 2].
    images_per_second: throughput of this process; None without a timed step.
  """

  variables: Variables
  history: Float[Array, '*s t 2']
  images_per_second: float | None


def check_length(title: str, steps: Any, count: int) -> None:
  """Refuses a training that is too long to be meant.

  Args:
    title: of the training, or the setting that says its length.
    steps: number of steps.
    count: images of a step.

  Raises:
    UserError: more than ten million steps, or 2^31 images, a negative number,
      or one that is no integer.
  """
  for number, noun, least in ((steps, 'steps', 0), (count, 'images', 1)):
    errors.check(
      isinstance(number, int | np.integer) and number >= least,
      f'{title}: {number} {noun}{" a step" * least}; give an integer of at '
      f'least {least}',
    )
  # Sample positions are int32 on the device.
  limit = min(_MAX_STEPS, 2**31 // count - 2)
  errors.check(
    steps <= limit,
    f'{title}: {steps:,} steps of {count} images; at most {limit:,} can be '
    'made: train for fewer steps or epochs',
  )


def check_training(training: Any) -> None:
  """Refuses settings that are no `Training`, or an optimizer that is none.

  Raises:
    UserError: names the argument and the remedy.
  """
  array_checks.check_type('training', training, Training)
  # By its methods, because optax has transformations of several types.
  optimizer = training.optimizer
  errors.check(
    callable(getattr(optimizer, 'init', None))
    and callable(getattr(optimizer, 'update', None)),
    f'optimizer of the training is {errors.describe_value(optimizer)}; '
    'give an optax transformation, such as optax.sgd(0.1)',
  )
  size = training.batch_size
  errors.check(
    isinstance(size, int | np.integer),
    f'batch_size of the training is {errors.describe_value(size)}; give an '
    'integer',
  )


def _check_session(session: Any) -> None:
  array_checks.check_type('session', session, Session)
  if session.checkpoint is not None:
    array_checks.check_type('checkpoint', session.checkpoint, Checkpoint)


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
  """A jitted function from variables to the state before step 0."""
  init = jax.vmap(optimizer.init) if stacked else optimizer.init

  def initialize(start):
    members = jax.tree.leaves(start)[0].shape[:1] if stacked else ()
    history = jnp.zeros((*members, steps, 2), jnp.float32)
    # Segments donate their state, which must not be the caller's buffers.
    copied = jax.tree.map(jnp.copy, start)
    return segment.TrainState(copied, init(start.params), history)

  return jit.compile_cheaply(initialize)


def initial_state(
  optimizer: optax.GradientTransformation,
  variables: Variables,
  steps: int,
  stacked: bool = False,
) -> segment.TrainState:
  """Returns the state before step 0, as a copy of the variables."""
  return _state_initializer(optimizer, steps, stacked)(variables)


def run_segments(
  run: Callable,
  start_state: segment.TrainState,
  steps: int,
  images_per_step: int,
  session: Session = _PLAIN,
) -> Fit:
  """Runs segments up to `steps`, with progress, checks and checkpoints.

  Args:
    run: (state, start, stop) -> state, compiled; donates its state.
    start_state: before step 0.
    steps: of the whole training.
    images_per_step: for the throughput.
    session: title, checkpoint, early end and selection of an epoch.

  Raises:
    Diverged: the loss is not finite; names the first such step.
  """
  title, checkpoint, until, watch = session
  state: Any = start_state
  if watch is not None:
    run = early_stopping.keep_best(run, *watch, steps)
    state = early_stopping.begin_tracking(start_state)
  restored = checkpoint.restore(state) if checkpoint else None
  state, start = restored if restored else (state, 0)
  if 0 < start < steps:
    print(f'{title}: continues at step {start} of {steps}', file=sys.stderr)
  progress.report_images(start * images_per_step, None)
  # One step first, because nothing is known about its duration.
  step, length, busy, timed = start, 1, 0.0, 0
  saved = time.monotonic()
  ended = early_stopping.should_stop(until, state.history, step)
  with progress.bar(title, steps, start=start) as advance:
    while step < steps and not ended:
      stop = early_stopping.next_check(until, step, min(steps, step + length))
      began = time.monotonic()
      state = run(state, step, stop)
      # Reading the history also waits for the device, so the time is real.
      _check_finite(np.asarray(state.history)[..., step:stop, :], step, title)
      seconds = time.monotonic() - began
      # The first segment compiles and would spoil the throughput.
      if step > start:
        busy, timed = busy + seconds, timed + stop - step
      progress.report_images(
        images_per_step * (stop - step), seconds if step > start else None
      )
      rate = images_per_step * timed / busy if timed else 0.0
      advance(stop - step, f'{rate:,.0f} images/s' if timed else '')
      # At most 8 times longer: one fast segment may be an accident.
      length = int(
        np.clip(_SEGMENT_SECONDS / (seconds / (stop - step)), 1, 8 * length)
      )
      step, ended = stop, early_stopping.should_stop(until, state.history, stop)
      due = time.monotonic() - saved > checkpoint.seconds if checkpoint else 0
      # The last state is always saved, so a finished run is never repeated.
      if checkpoint and (due or ended or step == steps):
        checkpoint.save(state, step)
        saved = time.monotonic()
  throughput = images_per_step * timed / busy if timed else None
  # Rows after an early end are zeros, not losses.
  history = state.history[..., :step, :] if ended else state.history
  return Fit(state.variables, history, throughput)


def _check_batch(
  network: Network,
  variables: Variables,
  batch: Batch,
  loss: segment.Loss,
  stacked: bool,
) -> None:
  """Refuses images that are no raw pixels, and labels that are no classes."""
  array_checks.check_image_axes(
    'training images', batch.image.shape, int(stacked)
  )
  array_checks.check_pixels('training images', batch.image)
  array_checks.check_pairs(
    'training images', batch.image, batch.label, int(stacked)
  )
  image = batch.image
  if stacked:
    variables, image = jax.eval_shape(
      lambda v: tree.index(v, 0), (variables, image)
    )
  # Shapes alone: nothing is computed or compiled.
  classes = metrics.count_classes(network, variables, image)
  # Other losses may read labels as positions of their targets.
  if loss is metrics.cross_entropy:
    label = np.asarray(batch.label).reshape(-1)
    array_checks.check_labels('training labels', label, classes)


def fit(
  key: Key[Array, '*s'],
  network: Network,
  variables: Variables | Mapping[str, Any],
  batch: Batch,
  training: Training,
  session: Session = _PLAIN,
  *,
  loss: segment.Loss = metrics.cross_entropy,
  strategy: vectorize.Strategy | None = None,
) -> Fit:
  """Trains a network on a device-resident split.

  Args:
    key: random key of sample order and augmentation; keys [s] with `strategy`.
    network: its model may be a linen module, see `networks.as_model`.
    variables: initial variables, also as a module's `init` makes them; with
      `strategy`, stacked along an axis s.
    batch: n raw images and labels; with `strategy`, stacked likewise.
    training: optimizer, steps and batch size, of which at most n are used.
    session: title, checkpoint, early end and selection of an epoch.
    loss: (logits, label) -> one value a sample.
    strategy: None for one network; else the way to drive s networks, 'map' or
      'vmap', see `vectorize.map_members`.

  Returns:
    The network, the loss and accuracy of each step, and the throughput.

  Raises:
    Diverged: the loss is not finite; names the first such step.
    UserError: an empty batch, or images or labels that do not fit.
  """
  network, variables = networks.as_network('fit', network, variables)
  check_training(training)
  _check_session(session)
  array_checks.check_type('batch', batch, Batch)
  array_checks.check_array('image of the batch', batch.image)
  array_checks.check_array('label of the batch', batch.label)
  array_checks.check_callable('loss', loss, 'a function (logits, label)')
  # Any text would select vmap.
  if strategy not in (None, *typing.get_args(vectorize.Strategy)):
    raise errors.unknown_name(
      'strategy', strategy, typing.get_args(vectorize.Strategy)
    )
  title, stacked = session.title, strategy is not None
  array_checks.check_key(key, int(stacked))
  size = batch.image.shape[int(stacked)]
  errors.check(size > 0, f'{title}: no training images')
  _check_batch(network, variables, batch, loss, stacked)
  steps, count = training.steps, min(training.batch_size, size)
  check_length(title, steps, count)
  run = segment.compile_segment(
    segment.SegmentSpec(network, loss, training.optimizer, count), strategy
  )
  return run_segments(
    lambda state, start, stop: run(key, state, batch, start, stop),
    initial_state(training.optimizer, variables, steps, stacked),
    steps,
    count * (batch.label.shape[0] if stacked else 1),
    session,
  )


def steps_per_epoch(size: int, batch_size: int) -> int:
  """Returns ceil(size / batch size), the unit of schedules in epochs."""
  return -(-size // min(batch_size, size))
