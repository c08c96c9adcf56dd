"""The device loop of a training: many steps in one compiled program.

A segment runs steps [start, stop) inside one `fori_loop` with traced bounds:
one compilation serves segments of every length, and the result does not depend
on the cuts. Batch t takes positions [t B, (t + 1) B) of the concatenated epoch
permutations, so every batch is full and every epoch shows every sample once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cmu_jax.core import jit, rng, vectorize
from cmu_jax.core.types import Batch, Network, PRNGKey, Variables

Loss = Callable[[jax.Array, jax.Array], jax.Array]


class TrainState(NamedTuple):
  """The state that one step hands to the next.

  Attributes:
    variables: parameters and BatchNorm statistics.
    opt_state: the optimizer's state.
    history: loss and accuracy of each step so far (training batch), [t, 2].
  """

  variables: Variables
  opt_state: Any
  history: Float[Array, '*s t 2']


class SegmentSpec(NamedTuple):
  """The static part of a training, on which a compilation depends."""

  network: Network
  loss: Loss
  optimizer: optax.GradientTransformation
  batch_size: int


def _epoch_orders(key: PRNGKey, epoch: Any, size: int) -> Int[Array, '2 n']:
  """Draws the sample orders of an epoch and of the next epoch."""
  draw = lambda e: jax.random.permutation(jax.random.fold_in(key, e), size)
  return jax.vmap(draw)(epoch + jnp.arange(2)).astype(jnp.int32)


def _train_step(
  spec: SegmentSpec,
  key: PRNGKey,
  step: Any,
  state: TrainState,
  batch: Batch,
  positions: Int[Array, 'b'],
) -> TrainState:
  """Makes one gradient step on the samples at `positions`."""
  label = batch.label[positions]
  stamp = None if batch.has_trigger is None else batch.has_trigger[positions]
  image = spec.network.inputs.train(
    jax.random.fold_in(key, step), batch.image[positions], stamp
  )

  def objective(params):
    logits, stats = spec.network.model.update(
      Variables(params, state.variables.batch_stats), image
    )
    return jnp.mean(spec.loss(logits, label)), (logits, stats)

  (loss, (logits, stats)), gradient = jax.value_and_grad(
    objective, has_aux=True
  )(state.variables.params)
  updates, opt_state = spec.optimizer.update(
    gradient, state.opt_state, state.variables.params
  )
  params = optax.apply_updates(state.variables.params, updates)
  accuracy = jnp.mean(jnp.argmax(logits, -1) == label)
  # Kept on the device, so that no step waits for the host.
  row = jnp.stack([loss, accuracy]).astype(jnp.float32)
  history = jax.lax.dynamic_update_slice(state.history, row[None, :], (step, 0))
  return TrainState(Variables(params, stats), opt_state, history)


def run_segment(
  spec: SegmentSpec,
  key: PRNGKey,
  state: TrainState,
  batch: Batch,
  start: Any,
  stop: Any,
  rows: Int[Array, 'm'] | None = None,
) -> TrainState:
  """Runs steps [start, stop) on the device.

  Args:
    spec: the static part.
    key: of sample order and augmentation.
    state: before step `start`.
    batch: n raw images and labels.
    start: the first step; may be traced.
    stop: the step after the last one; may be traced.
    rows: training images, at least a batch of them; None for all. Networks
      with different rows share one copy of the images.
  """
  size = (batch.label if rows is None else rows).shape[0]
  count = spec.batch_size
  order_key, augment_key = (
    rng.fold_in(key, 'order'),
    rng.fold_in(key, 'augment'),
  )

  def body(step, carry):
    state, orders = carry
    position = step * count
    epoch = position // size
    # A permutation costs more than a small step, so orders are drawn only in
    # a new epoch, and at the start of a segment, which carries none.
    orders = jax.lax.cond(
      (step == start) | (epoch != (position - count) // size),
      lambda _: _epoch_orders(order_key, epoch, size),
      lambda old: old,
      orders,
    )
    # The two orders in a row let a batch cross the end of an epoch.
    offset = position - epoch * size
    positions = jax.lax.dynamic_slice(orders.reshape(-1), (offset,), (count,))
    positions = positions if rows is None else rows[positions]
    state = _train_step(spec, augment_key, step, state, batch, positions)
    return state, orders

  orders = jnp.zeros((2, size), jnp.int32)
  return jax.lax.fori_loop(start, stop, body, (state, orders))[0]


# Keyed by the identity of the spec's functions: seeds and stages that share
# these functions share one compilation.
@functools.lru_cache(maxsize=32)
def compile_segment(spec: SegmentSpec, strategy: str | None) -> Callable:
  """Compiles a segment; `strategy` drives a leading axis, None for none."""
  single = functools.partial(run_segment, spec)

  def run_members(key, state, batch, start, stop):
    member = lambda k, s, b: single(k, s, b, start, stop)
    return vectorize.map_members(member, strategy)(key, state, batch)

  return jit.compile_loop(
    single if strategy is None else run_members, donate_argnums=1
  )
