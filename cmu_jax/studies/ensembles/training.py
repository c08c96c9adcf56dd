"""All members of an ensemble trained as one program, on the same batches."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from cmu_jax.core import jit, rng, store
from cmu_jax.core.types import Batch, InputStep, PRNGKey, Variables
from cmu_jax.studies.ensembles.members import Members, Regulariser
from cmu_jax.training import metrics, train
from cmu_jax.training.segment import TrainState

# Columns of the history.
LOSS, CROSS_ENTROPY, PENALTY, ACCURACY = range(4)


class Recipe(NamedTuple):
  """The static part of a training; one compilation depends on it."""

  members: Members
  regulariser: Regulariser  # the term that the loss adds to cross-entropy
  # Of one network; may take batch_stats, as spectral clipping does.
  optimizer: optax.GradientTransformation
  inputs: InputStep
  batch_size: int  # images a step, the same for all members


def _order(key: PRNGKey, epoch: Any, size: int) -> Int[Array, 'n']:
  return jax.random.permutation(jax.random.fold_in(key, epoch), size)


def compute_loss(
  recipe: Recipe,
  variables: Variables,
  carried: Any,
  image: Float[Array, 'b h w c'],
  label: Int[Array, 'b'],
) -> tuple[Float[Array, ''], tuple[Any, Float[Array, '4']]]:
  """Computes the joint loss, new statistics and the row of the history."""
  logits, stats = recipe.members.update(variables, image)
  losses = jax.vmap(lambda x: jnp.mean(metrics.cross_entropy(x, label)))(logits)
  extra = recipe.regulariser.value(variables, carried, image, label)
  # The released code of LOTOS adds cross-entropies up.
  reduce = jnp.sum if recipe.regulariser.total else jnp.mean
  loss = reduce(losses) + extra
  right = jnp.mean(jnp.argmax(logits, -1) == label[None])
  row = jnp.stack([loss, jnp.mean(losses), extra, right]).astype(jnp.float32)
  return loss, (stats, row)


def _step(
  recipe: Recipe,
  key: PRNGKey,
  state: TrainState,
  step: Any,
  image: jax.Array,
  label: Int[Array, 'b'],
) -> TrainState:
  inner, carried = state.opt_state
  # All members see the same augmentation.
  augmented = recipe.inputs.train(jax.random.fold_in(key, step), image, None)
  carried = recipe.regulariser.before(state.variables, carried)
  stats = state.variables.batch_stats

  def loss(params):
    current = Variables(params, stats)
    return compute_loss(recipe, current, carried, augmented, label)

  params = state.variables.params
  gradient, (stats, row) = jax.grad(loss, has_aux=True)(params)
  optimizer = recipe.members.optimizer(recipe.optimizer)
  updates, inner = optimizer.update(gradient, inner, params, batch_stats=stats)
  variables = Variables(optax.apply_updates(params, updates), stats)
  history = jax.lax.dynamic_update_slice(state.history, row[None, :], (step, 0))
  return TrainState(variables, (inner, carried), history)


@functools.lru_cache(maxsize=16)
def _compile_steps(recipe: Recipe) -> Callable:
  """Compiles steps [start, stop) as one program.

  An epoch is as many full batches as there are; the rest is left out, and
  another rest the next time.
  """

  def run(key, state, batch, start, stop):
    size, count = batch.label.shape[0], recipe.batch_size
    per_epoch = size // count
    # Keys by purpose: another augmentation leaves the order alone.
    keys = [rng.fold_in(key, name) for name in ('order', 'augment')]

    def body(step, carry):
      state, order = carry
      # Drawn anew after a restart too, from the number of the epoch.
      order = jax.lax.cond(
        (step == start) | (step % per_epoch == 0),
        lambda _: _order(keys[0], step // per_epoch, size),
        lambda order: order,
        order,
      )
      rows = jax.lax.dynamic_slice(order, (step % per_epoch * count,), (count,))
      image, label = batch.image[rows], batch.label[rows]
      return _step(recipe, keys[1], state, step, image, label), order

    order = jnp.zeros((size,), jnp.int32)
    return jax.lax.fori_loop(start, stop, body, (state, order))[0]

  return jit.compile_loop(run, donate_argnums=1)


@functools.lru_cache(maxsize=16)
def _compile_start(recipe: Recipe, steps: int) -> Callable:
  def start(key, variables):
    inner = recipe.members.optimizer(recipe.optimizer).init(variables.params)
    carried = recipe.regulariser.start(key, variables)
    state = TrainState(
      variables, (inner, carried), jnp.zeros((steps, 4), jnp.float32)
    )
    # Copies, because segments donate their state; of strong types, as segments
    # return them, or the second one would be compiled anew.
    return jax.tree.map(lambda x: jnp.array(x, x.dtype), state)

  return jit.compile_cheaply(start)


def fit(
  key: PRNGKey,
  recipe: Recipe,
  variables: Variables,
  batch: Batch,
  steps: int,
  checkpoint: store.Checkpoint | None = None,
  title: str = 'ensemble',
) -> train.Fit:
  """Trains an ensemble on a device-resident split.

  Args:
    key: of sample order, augmentation and singular vectors.
    recipe: the static part; equal objects compile once.
    variables: where to start, of all members.
    batch: n raw images and labels.
    steps: optimiser steps.
    checkpoint: where to save and from where to continue.
    title: what the progress bar and errors call this training.

  Returns:
    The last iterate; of every step the loss, the mean cross-entropy, the
    penalty and the mean accuracy, [t, 4]; the throughput.

  Raises:
    Diverged: the loss is not finite; names the first such step.
  """
  count = min(recipe.batch_size, batch.label.shape[0])
  train.check_length(title, steps, count)
  recipe = recipe._replace(batch_size=count)
  run = _compile_steps(recipe)
  state = _compile_start(recipe, steps)(rng.fold_in(key, 'vectors'), variables)
  return train.run_segments(
    lambda state, start, stop: run(key, state, batch, start, stop),
    state,
    steps,
    count * recipe.members.size,
    train.Session(title, checkpoint),
  )


def idle_epochs(history: Float[np.ndarray, 't 4'], per_epoch: int) -> list[int]:
  """Lists full epochs in which the penalty was 0 at every step."""
  epochs = len(history) // per_epoch
  penalty = np.asarray(history)[: epochs * per_epoch, PENALTY]
  idle = (penalty == 0).reshape(epochs, per_epoch).all(axis=1)
  return np.flatnonzero(idle).tolist()
