"""Files of finished groups, each written whole, and what their names say.

One group of shadow models: trained, made to forget, looked at.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, PyTree, Shaped

from cmu_jax.audits.shadow import program
from cmu_jax.audits.shadow.planning import Plan, ShadowTraining, Unlearn
from cmu_jax.core import checkpoint, jit, progress, rng, store, tree, vectorize
from cmu_jax.core.types import (
  Batch,
  Model,
  Network,
  PRNGKey,
  Variables,
)
from cmu_jax.training import segment, train

_WEIGHTS = 'weights'


def name_statistics(
  statistics: dict[str, Any], part: str, count: int
) -> store.NamedArrays:
  """Statistics of the first `count` models, by names within a file."""
  return {
    f'{part}/{name}': np.asarray(values)[:count]
    for name, values in statistics.items()
  }


def join_part(groups: list[store.NamedArrays], name: str) -> store.NamedArrays:
  """Statistics of all groups by signal; {} where there are none."""
  prefix = f'{name}/'
  return {
    key.removeprefix(prefix): np.concatenate([one[key] for one in groups])
    for key in groups[0]
    if key.startswith(prefix)
  }


def name_weights(variables: PyTree, count: int) -> store.NamedArrays:
  """The weights of the first `count` models, by names within a file."""
  return {
    f'{_WEIGHTS}/{key}': np.asarray(leaf)[:count]
    for key, leaf in checkpoint.leaves_by_key(variables).items()
  }


def drop_weights(arrays: store.NamedArrays) -> store.NamedArrays:
  """All but the weights."""
  return {
    key: value
    for key, value in arrays.items()
    if not key.startswith(f'{_WEIGHTS}/')
  }


def restore_weights(
  groups: list[store.NamedArrays], template: PyTree
) -> PyTree:
  """The weights of all groups, stacked, in the structure of one model."""
  found = join_part(groups, _WEIGHTS)
  values = [found[key] for key in checkpoint.leaves_by_key(template)]
  return jax.tree.unflatten(jax.tree.structure(template), values)


def pad_models(values: np.ndarray, size: int) -> np.ndarray:
  """The first axis made `size` long by repeating the last model."""
  index = np.minimum(np.arange(size), len(values) - 1)
  return values[index]


def even_group_size(count: int, max_models: int, block: int) -> int:
  """How many models a group holds: whole blocks, groups as even as they can be.

  Args:
    count: of all models.
    max_models: that fit into the memory, a block or more.
    block: models of a program.
  """
  blocks = -(-count // block)
  number = -(-blocks // (max_models // block))
  return -(-blocks // number) * block


class ShadowJob(NamedTuple):
  """All that a group of models needs."""

  key: PRNGKey
  model: Model
  data: Batch
  fit: ShadowTraining
  plan: Plan
  recipe: segment.SegmentSpec
  rows: Int[np.ndarray, 'k m']
  inside: Bool[np.ndarray, 'k n']
  forget: Bool[np.ndarray, 'k n'] | None
  unlearn: Unlearn | None
  signals: program.Signals
  devices: tuple[jax.Device, ...]
  strategy: vectorize.Strategy
  block: int
  threads: int
  weights: bool
  data_digest: str


@functools.lru_cache(maxsize=16)
def _initializer(network: Network) -> Callable:
  """(key, numbers, image[:1]) -> keys of the trainings and first weights."""

  def draw(key, numbers, image):
    seen = network.inputs.eval(image, None)

    def one(number):
      own = jax.random.fold_in(key, number)
      first = network.model.init(rng.fold_in(own, 'init'), seen)
      return rng.fold_in(own, 'train'), first

    return jax.vmap(one)(numbers)

  return jit.compile_cheaply(draw)


def _initialize(
  job: ShadowJob, numbers: range, size: int
) -> tuple[Any, Variables]:
  """Keys of the trainings and first weights, a model each."""
  index = pad_models(np.arange(numbers.start, numbers.stop), size)
  key = rng.fold_in(job.key, 'model')
  draw = _initializer(Network(job.model, job.fit.inputs))
  return draw(key, index, job.data.image[:1])


class GroupStart(NamedTuple):
  """A group before its first step.

  Attributes:
    state: of all its models, padding last.
    run: (state, start, stop) -> state, compiled; donates its state.
    size: models with padding.
  """

  state: segment.TrainState
  run: Callable
  size: int


def start_group(job: ShadowJob, numbers: range) -> GroupStart:
  """A group that is ready to be trained.

  Args:
    job: all that it needs.
    numbers: of its models.
  """
  size = -(-len(numbers) // job.block) * job.block
  keys, start = _initialize(job, numbers, size)
  rows = pad_models(job.rows[numbers.start : numbers.stop], size)
  state = train.initial_state(
    job.fit.optimizer, start, job.fit.steps, stacked=True
  )
  run = program.in_blocks(
    program.training_program(job.recipe, job.strategy, job.devices),
    3,
    job.block,
    job.threads,
  )
  keys, rows = program.place_on_devices((keys, jnp.asarray(rows)), job.devices)
  placed = lambda state: program.place_on_devices(state, job.devices)
  return GroupStart(
    state,
    lambda state, start, stop: run(
      keys, placed(state), rows, job.data, start, stop
    ),
    size,
  )


def _train_models(job: ShadowJob, numbers: range, name: str) -> Variables:
  """The trained models of a group, stacked on the device, padding last."""
  one, plan = start_group(job, numbers), job.plan
  saved = (
    store.npz_checkpoint(plan.folder, name, plan.save_seconds)
    if plan.folder
    else None
  )
  return train.run_segments(
    one.run,
    one.state,
    job.fit.steps,
    one.size * job.recipe.batch_size,
    saved,
    f'{plan.title} {numbers[0]} to {numbers[-1]} of {len(job.rows)}',
  ).variables


def _measure_signals(
  job: ShadowJob, stacked: Variables
) -> dict[str, Shaped[np.ndarray, 'k n']]:
  count = job.data.label.shape[0]
  see = program.in_blocks(
    program.statistics_program(
      Network(job.model, job.fit.inputs),
      job.signals,
      min(job.plan.images_at_once, count),
      job.strategy,
      job.devices,
    ),
    1,
    job.block,
    job.threads,
  )
  found = see(program.place_on_devices(stacked, job.devices), job.data)
  return {name: np.asarray(values) for name, values in found.items()}


def _unlearn_models(
  job: ShadowJob, numbers: range, stacked: Variables
) -> Variables:
  """Each model of the group made to forget, one after the other."""
  found = []
  assert job.unlearn is not None and job.forget is not None
  title = f'{job.plan.title}: unlearning'
  with progress.bar(title, len(numbers), 'models') as advance, progress.mute():
    for place, number in enumerate(numbers):
      key = rng.fold_in(job.key, 'unlearn', number)
      gone = job.forget[number]
      rest = np.flatnonzero(job.inside[number] & ~gone)
      found.append(
        job.unlearn(key, tree.index(stacked, place), rest, np.flatnonzero(gone))
      )
      advance()
  found += found[-1:] * (-len(found) % job.block)
  return tree.stack(found)


def train_group(job: ShadowJob, numbers: range, name: str) -> store.NamedArrays:
  """Trains a group, and looks at it.

  Args:
    job: all that it needs.
    numbers: of its models.
    name: of the checkpoint of its training.

  Returns:
    What is kept of it, by names within a file.
  """
  count = len(numbers)
  stacked = _train_models(job, numbers, name)
  arrays = name_statistics(_measure_signals(job, stacked), 'trained', count)
  return arrays | (name_weights(stacked, count) if job.weights else {})


def unlearn_group(
  job: ShadowJob, numbers: range, models: Variables
) -> store.NamedArrays:
  """Has a group forget, and looks at it.

  Args:
    job: all that it needs.
    numbers: of its models.
    models: as trained, stacked.

  Returns:
    What is kept of it, by names within a file.
  """
  count = len(numbers)
  stacked = _unlearn_models(job, numbers, jax.tree.map(jnp.asarray, models))
  arrays = name_statistics(_measure_signals(job, stacked), 'unlearned', count)
  return arrays | (name_weights(stacked, count) if job.weights else {})
