"""The device loop of a fine-tuning on several streams of samples.

Unlearning methods differ in the samples of a step (retained, identified, both)
and in its objective; some alternate between phases. One compilation serves
every identified fraction, teacher and hyperparameter, because counts are masks
and everything else is an argument.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from cmu_jax.core import array_checks, jit, rng
from cmu_jax.core.types import Batch, InputStep, PRNGKey, Samples, Variables
from cmu_jax.data import splits
from cmu_jax.training import segment, train

_UNLEARNING = train.Session('unlearning')


class StreamBatch(NamedTuple):
  """The samples of one stream in one step.

  Attributes:
    image: network input, augmented.
    label: the training label.
    identified: true for samples of S_f.
  """

  image: Float[Array, 'b h w c']
  label: Int[Array, 'b']
  identified: Bool[Array, 'b']


class Phase(NamedTuple):
  """A kind of step.

  Attributes:
    objective: (variables, draws, context, hyper, time) -> (loss, batch_stats);
      draws by the names of the streams, time from 0 to 1.
    streams: the names of the streams, and the samples that a step draws.
  """

  objective: Callable[..., tuple[jax.Array, PyTree]]
  streams: tuple[tuple[str, int], ...]


class Recipe(NamedTuple):
  """The static part of a fine-tuning, on which a compilation depends.

  Attributes:
    phases: the kinds of steps.
    optimizer: of all phases together.
    inputs: raw pixels to network input.
    project: (tree like the parameters, context) -> its projection on a
      subspace; None for no projection.
    constrain: (parameters, context) -> the nearest allowed parameters, after
      every step; None where all are allowed.
  """

  phases: tuple[Phase, ...]
  optimizer: optax.GradientTransformation
  inputs: InputStep
  project: Callable[[PyTree, Any], PyTree] | None = None
  constrain: Callable[[PyTree, Any], PyTree] | None = None


class Start(NamedTuple):
  """The start of a fine-tuning.

  Attributes:
    variables: initial variables.
    streams: the sets of samples by the names that the phases use.
    steps: number of steps, or the phase of each step, [t].
    context: a pytree of arrays for the objectives, such as a teacher or a mask.
    spent: gradients of single images that went into the context.
  """

  variables: Variables
  streams: Mapping[str, Samples]
  steps: int | np.ndarray
  context: Any = None
  spent: int = 0


class StepPlan(NamedTuple):
  """The schedule of phases.

  Attributes:
    phase: position in the recipe of each step's phase, [t].
    turn: number of earlier steps of the same phase, [t].
  """

  phase: Int[Array, 't']
  turn: Int[Array, 't']


class _Arguments(NamedTuple):
  """The traced arguments that all steps share; see `descend`."""

  streams: dict[str, Samples]
  context: Any
  hyper: Any


class _EpochOrders(NamedTuple):
  """The sample orders of an epoch of one stream and of the next epoch."""

  epoch: Int[Array, '']
  order: Int[Array, '2 n']


def plan_steps(phases: np.ndarray) -> StepPlan:
  """Returns the plan of a sequence of phases, [t]."""
  turn = np.zeros_like(phases)
  for phase in np.unique(phases):
    mask = phases == phase
    turn[mask] = np.arange(mask.sum())
  return StepPlan(jnp.asarray(phases, jnp.int32), jnp.asarray(turn, jnp.int32))


def blank_batch(image: Any, has_trigger: bool | None = None) -> Batch:
  """Returns unlabelled pictures as a batch, whose labels nobody reads.

  Args:
    image: raw pixels, uint8 [n, h, w, c].
    has_trigger: whether the input step paints the trigger on all of them; None
      for pictures without a trigger.
  """
  pixels = jnp.asarray(image)
  count = pixels.shape[0]
  flags = None if has_trigger is None else jnp.full(count, has_trigger)
  return Batch(pixels, jnp.zeros(count, jnp.int32), flags)


def whole_batch(
  batch: Batch, skip_augmentation: Bool[Array, 'n'] | None = None
) -> Samples:
  """Returns all samples of a batch as not identified."""
  array_checks.check_type('batch', batch, Batch)
  shape = batch.label.shape
  return Samples(
    batch, jnp.zeros(shape, bool), jnp.ones(shape, bool), skip_augmentation
  )


def gather_samples(
  batch: Batch,
  index: Int[np.ndarray, 'm'],
  capacity: int,
  identified: bool,
  skip_augmentation: Bool[Array, 'n'] | None = None,
) -> Samples:
  """Returns the rows at `index`, padded with copies to `capacity` rows.

  Args:
    index: of the selected rows, at least one.
    capacity: number of rows of the result, at least as many.
    identified: whether the rows are identified.
    skip_augmentation: rows of `batch` without augmentation; None for no row.
  """
  rows = index[np.arange(capacity) % index.size]
  return Samples(
    splits.take(batch, rows),
    jnp.full(capacity, identified),
    jnp.arange(capacity) < index.size,
    None if skip_augmentation is None else skip_augmentation[jnp.asarray(rows)],
  )


def join_samples(left: Samples, right: Samples) -> Samples:
  """Concatenates two sets; both or neither must have trigger flags."""
  pair = [left, right]
  # Concatenation needs the same leaves on both sides.
  if any(x.skip_augmentation is not None for x in pair):
    pair = [
      x
      if x.skip_augmentation is not None
      else x._replace(skip_augmentation=jnp.zeros_like(x.valid))
      for x in pair
    ]
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *pair)


def _draw_orders(
  key: PRNGKey, valid: Bool[Array, 'n'], epoch: Any
) -> _EpochOrders:
  """Draws random orders in which the valid rows come first."""

  def draw(index):
    bits = jax.random.uniform(
      jax.random.fold_in(key, index), valid.shape, jnp.float32
    )
    # Padding sorts behind every uniform number.
    return jnp.argsort(jnp.where(valid, bits, 2.0)).astype(jnp.int32)

  return _EpochOrders(epoch, jax.vmap(draw)(epoch + jnp.arange(2)))


def _positions(
  orders: _EpochOrders, start: Any, size: int, count: Int[Array, '']
) -> Int[Array, 'b']:
  """Returns the rows of samples `start`, start + 1, ... of the stream."""
  position = start + jnp.arange(size)
  # A step that needs more than two epochs of samples repeats the second epoch:
  # every sample still comes equally often, up to one time.
  epoch = jnp.minimum(position // count - start // count, 1)
  return orders.order[epoch, position % count]


def _draw_batch(
  inputs: InputStep, key: PRNGKey, samples: Samples, positions: Int[Array, 'b']
) -> StreamBatch:
  """Reads and augments the samples at `positions`."""
  batch = samples.batch
  stamp = None if batch.has_trigger is None else batch.has_trigger[positions]
  raw = batch.image[positions]
  image = inputs.train(key, raw, stamp)
  if samples.skip_augmentation is not None:
    # Both versions are computed, because rows of a batch may differ.
    plain = samples.skip_augmentation[positions][:, None, None, None]
    image = jnp.where(plain, inputs.eval(raw, stamp), image)
  return StreamBatch(
    image, batch.label[positions], samples.identified[positions]
  )


def _descent_step(
  recipe: Recipe,
  phase: Phase,
  key: PRNGKey,
  carry: tuple,
  arguments: _Arguments,
  turn: Any,
  step: Any,
) -> tuple:
  """Makes one gradient step of one phase."""
  (state, orders), draws = carry, {}
  streams, context, hyper = arguments
  params = state.variables.params
  for name, size in phase.streams:
    count = jnp.maximum(streams[name].valid.sum(dtype=jnp.int32), 1)
    start = turn * size
    # Sorting costs more than a small step, so orders wait for a new epoch.
    current = jax.lax.cond(
      orders[name].epoch == start // count,
      lambda old, *_: old,
      lambda _, k, v, e: _draw_orders(k, v, e),
      orders[name],
      rng.fold_in(key, 'order', name),
      streams[name].valid,
      start // count,
    )
    orders = {**orders, name: current}
    augment = jax.random.fold_in(rng.fold_in(key, 'augment', name), step)
    positions = _positions(current, start, size, count)
    draws[name] = _draw_batch(recipe.inputs, augment, streams[name], positions)
  time = step / state.history.shape[0]

  def objective(params):
    variables = Variables(params, state.variables.batch_stats)
    return phase.objective(variables, draws, context, hyper, time)

  (loss, stats), gradient = jax.value_and_grad(objective, has_aux=True)(params)
  # Both the gradient and the update are projected: otherwise weight decay and
  # momentum would leave the subspace.
  if recipe.project is not None:
    gradient = recipe.project(gradient, context)
  updates, opt_state = recipe.optimizer.update(
    gradient, state.opt_state, params
  )
  if recipe.project is not None:
    updates = recipe.project(updates, context)
  # As an argument the learning rate can vary over a grid without compiling.
  if isinstance(hyper, Mapping) and 'learning_rate' in hyper:
    updates = jax.tree.map(lambda x: hyper['learning_rate'] * x, updates)
  row = jnp.stack([loss, turn]).astype(jnp.float32)
  history = jax.lax.dynamic_update_slice(state.history, row[None, :], (step, 0))
  moved = optax.apply_updates(params, updates)
  # On parameters, not updates: the allowed set is no subspace.
  if recipe.constrain is not None:
    moved = recipe.constrain(moved, context)
  updated = Variables(moved, stats)
  return segment.TrainState(updated, opt_state, history), orders


# Keyed by the identity of the recipe's functions.
@functools.lru_cache(maxsize=64)
def _compile_steps(recipe: Recipe) -> Callable:
  """Compiles steps [start, stop) as one program."""
  names = sorted({name for phase in recipe.phases for name, _ in phase.streams})

  def run(key, state, arguments, plan, start, stop):
    def body(step, carry):
      branches = [
        functools.partial(_descent_step, recipe, phase, key)
        for phase in recipe.phases
      ]
      operands = carry, arguments, plan.turn[step], step
      # A switch of one branch would still compile as a conditional.
      if len(branches) == 1:
        return branches[0](*operands)
      return jax.lax.switch(plan.phase[step], branches, *operands)

    # No epoch is -1: the first step of a segment draws its orders.
    orders = {
      name: _EpochOrders(
        jnp.int32(-1),
        jnp.zeros((2, arguments.streams[name].valid.shape[0]), jnp.int32),
      )
      for name in names
    }
    return jax.lax.fori_loop(start, stop, body, (state, orders))[0]

  return jit.compile_loop(run, donate_argnums=1)


def descend(
  key: PRNGKey,
  recipe: Recipe,
  start: Start,
  *,
  hyper: Any = None,
  session: train.Session = _UNLEARNING,
) -> tuple[Variables, int]:
  """Fine-tunes a network on streams of samples.

  Args:
    key: of sample order and augmentation.
    recipe: phases, optimizer and input step; equal objects compile once.
    start: network, samples and number of steps.
    hyper: numbers for the objectives; 'learning_rate' multiplies all steps.
    session: title, checkpoint, early end and selection of an epoch.

  Returns:
    The network, and the number of gradients of single images.

  Raises:
    Diverged: the loss is not finite; names the first such step.
  """
  steps = start.steps
  sizes = [sum(size for _, size in phase.streams) for phase in recipe.phases]
  # Before an array has a row for each step.
  length = len(steps) if isinstance(steps, np.ndarray) else steps
  train.check_length(session.title, length, max(sizes))
  phases = np.zeros(steps, int) if isinstance(steps, int) else steps
  plan = plan_steps(phases)
  # float32 arrays: Python numbers of several types would compile anew.
  run, numbers = _compile_steps(recipe), jax.tree.map(jnp.float32, hyper)
  arguments = _Arguments(dict(start.streams), start.context, numbers)
  fitted = train.run_segments(
    lambda state, begin, stop: run(key, state, arguments, plan, begin, stop),
    train.initial_state(recipe.optimizer, start.variables, len(phases)),
    len(phases),
    max(sizes),
    session,
  )
  # A mask or a search costs gradients as well; comparisons count them.
  cost = start.spent + int(np.asarray(sizes)[phases].sum())
  return fitted.variables, cost
