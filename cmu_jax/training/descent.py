"""The device loop of a fine-tuning that draws from several sets of samples.

Unlearning methods differ in what a step sees (the retained samples, the
identified ones, both) and in its objective; some alternate between phases.
Whatever the identified fraction, teacher or hyperparameter, one compilation
serves: counts are masks, and everything else is an argument.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from cmu_jax.core import jit, rng, store
from cmu_jax.core.types import Batch, InputStep, PRNGKey, Samples, Variables
from cmu_jax.data import splits
from cmu_jax.training import early_stopping, segment, train


class StreamBatch(NamedTuple):
  """What a step sees of one set of samples.

  Attributes:
    image: network input, augmented.
    label: as trained with.
    identified: which ones are of S_f.
  """

  image: Float[Array, 'b h w c']
  label: Int[Array, 'b']
  identified: Bool[Array, 'b']


class Phase(NamedTuple):
  """A kind of step.

  Attributes:
    objective: (variables, draws, context, hyper, time) -> (loss, batch_stats);
      draws by the names of the streams, time from 0 to 1.
    streams: the sets a step draws from, and how many samples of each.
  """

  objective: Callable[..., tuple[jax.Array, PyTree]]
  streams: tuple[tuple[str, int], ...]


class Recipe(NamedTuple):
  """The static part: what one compilation depends on.

  Attributes:
    phases: the kinds of steps.
    optimizer: one for all phases.
    inputs: raw pixels to network input.
    project: (tree like the parameters, context) -> its projection: of the
      gradient before the optimiser, and of the step after it, so that neither
      decay nor momentum leaves the subspace. None for no projection.
  """

  phases: tuple[Phase, ...]
  optimizer: optax.GradientTransformation
  inputs: InputStep
  project: Callable[[PyTree, Any], PyTree] | None = None


class StepPlan(NamedTuple):
  """What each step does.

  Attributes:
    phase: position of its phase in the recipe, [t].
    turn: how many steps of that phase came before it, [t].
  """

  phase: Int[Array, 't']
  turn: Int[Array, 't']


class _EpochOrders(NamedTuple):
  """The sample orders of an epoch of one stream and of the epoch after it."""

  epoch: Int[Array, '']
  order: Int[Array, '2 n']


def plan_steps(phases: np.ndarray) -> StepPlan:
  """The plan of a sequence of phases, [t]."""
  turn = np.zeros_like(phases)
  for phase in np.unique(phases):
    here = phases == phase
    turn[here] = np.arange(here.sum())
  return StepPlan(jnp.asarray(phases, jnp.int32), jnp.asarray(turn, jnp.int32))


def whole_batch(batch: Batch, fixed: Bool[Array, 'n'] | None = None) -> Samples:
  """All of a batch, none of it identified; `fixed` rows are not augmented."""
  shape = batch.label.shape
  return Samples(batch, jnp.zeros(shape, bool), jnp.ones(shape, bool), fixed)


def gather_samples(
  batch: Batch,
  index: Int[np.ndarray, 'm'],
  capacity: int,
  known: bool,
  fixed: Bool[Array, 'n'] | None = None,
) -> Samples:
  """The rows at `index`, as `capacity` rows of which the rest are copies.

  Args:
    batch: all images.
    index: of the rows to be seen, at least one.
    capacity: how many rows the result has, at least as many.
    known: whether they are identified.
    fixed: which rows of `batch` are not to be augmented; None for none.
  """
  rows = index[np.arange(capacity) % index.size]
  return Samples(
    splits.take(batch, rows),
    jnp.full(capacity, known),
    jnp.arange(capacity) < index.size,
    None if fixed is None else fixed[jnp.asarray(rows)],
  )


def join_samples(first: Samples, second: Samples) -> Samples:
  """Both sets of samples as one; stamps must be in both or in neither."""
  if (
    first.skip_augmentation is not None or second.skip_augmentation is not None
  ):
    first, second = (
      x
      if x.skip_augmentation is not None
      else x._replace(skip_augmentation=jnp.zeros_like(x.valid))
      for x in (first, second)
    )
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


def _draw_orders(
  key: PRNGKey, valid: Bool[Array, 'n'], epoch: Any
) -> _EpochOrders:
  """Random orders of the valid rows, which come first."""

  def draw(each):
    bits = jax.random.uniform(jax.random.fold_in(key, each), valid.shape)
    return jnp.argsort(jnp.where(valid, bits, 2.0)).astype(jnp.int32)

  return _EpochOrders(epoch, jax.vmap(draw)(epoch + jnp.arange(2)))


def _positions(
  orders: _EpochOrders, first: Any, size: int, count: Int[Array, '']
) -> Int[Array, 'b']:
  """Where samples `first`, first + 1, ... of the stream of epochs are.

  A step that needs more than two epochs of samples goes round the second one
  again: every sample still comes equally often, one time more or less.
  """
  place = first + jnp.arange(size)
  epoch = jnp.minimum(place // count - first // count, 1)
  return orders.order[epoch, place % count]


def _draw_batch(
  inputs: InputStep, key: PRNGKey, samples: Samples, positions: Int[Array, 'b']
) -> StreamBatch:
  batch = samples.batch
  stamp = None if batch.has_trigger is None else batch.has_trigger[positions]
  raw = batch.image[positions]
  image = inputs.train(key, raw, stamp)
  if samples.skip_augmentation is not None:
    keep = samples.skip_augmentation[positions][:, None, None, None]
    image = jnp.where(keep, inputs.eval(raw, stamp), image)
  return StreamBatch(
    image, batch.label[positions], samples.identified[positions]
  )


def _descent_step(
  recipe: Recipe,
  phase: Phase,
  key: PRNGKey,
  carry: tuple,
  streams: Mapping[str, Samples],
  turn: Any,
  step: Any,
  context: Any,
  hyper: Any,
) -> tuple:
  """One gradient step of one phase."""
  (state, orders), draws = carry, {}
  params = state.variables.params
  for name, size in phase.streams:
    count = jnp.maximum(streams[name].valid.sum(), 1)
    first = turn * size
    # What is carried is redrawn at every new epoch only.
    found = jax.lax.cond(
      orders[name].epoch == first // count,
      lambda old, *_: old,
      lambda _, k, v, e: _draw_orders(k, v, e),
      orders[name],
      rng.fold_in(key, 'order', name),
      streams[name].valid,
      first // count,
    )
    orders = {**orders, name: found}
    augment = jax.random.fold_in(rng.fold_in(key, 'augment', name), step)
    places = _positions(found, first, size, count)
    draws[name] = _draw_batch(recipe.inputs, augment, streams[name], places)
  time = step / state.history.shape[0]

  def objective(params):
    variables = Variables(params, state.variables.batch_stats)
    return phase.objective(variables, draws, context, hyper, time)

  (loss, stats), gradient = jax.value_and_grad(objective, has_aux=True)(params)
  if recipe.project is not None:
    gradient = recipe.project(gradient, context)
  updates, opt_state = recipe.optimizer.update(
    gradient, state.opt_state, params
  )
  if recipe.project is not None:
    updates = recipe.project(updates, context)
  if isinstance(hyper, Mapping) and 'learning_rate' in hyper:
    updates = jax.tree.map(lambda x: hyper['learning_rate'] * x, updates)
  row = jnp.stack([loss, turn]).astype(jnp.float32)
  history = jax.lax.dynamic_update_slice(state.history, row[None, :], (step, 0))
  updated = Variables(optax.apply_updates(params, updates), stats)
  return segment.TrainState(updated, opt_state, history), orders


@functools.lru_cache(maxsize=64)
def _compile_steps(recipe: Recipe) -> Callable:
  """Steps [start, stop) as one program, cached by the recipe's functions."""
  used = sorted({name for phase in recipe.phases for name, _ in phase.streams})

  def run(key, state, streams, steps, context, hyper, start, stop):
    def body(step, carry):
      branches = [
        functools.partial(_descent_step, recipe, phase, key)
        for phase in recipe.phases
      ]
      arguments = carry, streams, steps.turn[step], step, context, hyper
      if len(branches) == 1:
        return branches[0](*arguments)
      return jax.lax.switch(steps.phase[step], branches, *arguments)

    orders = {
      name: _EpochOrders(
        jnp.int32(-1), jnp.zeros((2, streams[name].valid.shape[0]), jnp.int32)
      )
      for name in used
    }
    return jax.lax.fori_loop(start, stop, body, (state, orders))[0]

  return jit.compile_loop(run, donate_argnums=1)


def descend(
  key: PRNGKey,
  recipe: Recipe,
  variables: Variables,
  streams: Mapping[str, Samples],
  steps: int | np.ndarray,
  *,
  context: Any = None,
  hyper: Any = None,
  title: str = 'unlearning',
  watch: tuple[early_stopping.BestEpoch, Batch] | None = None,
  checkpoint: store.Checkpoint | None = None,
) -> tuple[Variables, int]:
  """Fine-tunes a network on streams of samples.

  Args:
    key: of sample order and augmentation.
    recipe: phases, optimiser and input step; equal objects compile once.
    variables: where to start.
    streams: the sets of samples by the names that the phases use.
    steps: how many, or the phase of each one, [t].
    context: a pytree of arrays for the objectives, such as a teacher.
    hyper: numbers for the objectives; 'learning_rate' multiplies all steps.
    title: what the progress bar and errors call this.
    watch: as in `train.fit`.
    checkpoint: where to save and to continue from, or None.

  Returns:
    The network, and how many gradients of single images it took.

  Raises:
    Diverged: the loss is not finite; names the first such step.
  """
  phases = np.zeros(steps, int) if isinstance(steps, int) else steps
  chosen = plan_steps(phases)
  sizes = [sum(size for _, size in phase.streams) for phase in recipe.phases]
  run, numbers = _compile_steps(recipe), jax.tree.map(jnp.float32, hyper)
  go = lambda state, start, stop: run(
    key, state, dict(streams), chosen, context, numbers, start, stop
  )
  begin = train.initial_state(recipe.optimizer, variables, len(phases))
  driven = train.track_best_epoch(go, begin, len(phases), watch)
  fitted = train.run_segments(
    *driven, len(phases), max(sizes), checkpoint, title
  )
  return fitted.variables, int(np.asarray(sizes)[phases].sum())
