"""A group of shadow models: training, unlearning, signals, and its arrays."""

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
  Network,
  PRNGKey,
  Variables,
)
from cmu_jax.training import segment, train

# Prefix of the weights among the arrays of a group's file.
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
  """The arrays of a part of all groups, by signal; {} without such arrays."""
  prefix = f'{name}/'
  return {
    key.removeprefix(prefix): np.concatenate([group[key] for group in groups])
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
  """The arrays without the weights."""
  return {
    key: value
    for key, value in arrays.items()
    if not key.startswith(f'{_WEIGHTS}/')
  }


def restore_weights(
  groups: list[store.NamedArrays], template: PyTree
) -> PyTree:
  """The weights of all groups, stacked, in the structure of a model."""
  arrays = join_part(groups, _WEIGHTS)
  # By name: a file need not have the order of the tree.
  values = [arrays[key] for key in checkpoint.leaves_by_key(template)]
  return jax.tree.unflatten(jax.tree.structure(template), values)


def pad_models(values: np.ndarray, size: int) -> np.ndarray:
  """Pads the first axis to `size` by repeating the last model."""
  index = np.minimum(np.arange(size), len(values) - 1)
  return values[index]


def even_group_size(count: int, max_models: int, block: int) -> int:
  """The size of a group in whole blocks, with groups as even as possible.

  Args:
    count: number of all models.
    max_models: limit by memory, a block or more.
    block: number of models in a program.
  """
  # -(-a // b) rounds up.
  blocks = -(-count // block)
  groups = -(-blocks // (max_models // block))
  return -(-blocks // groups) * block


class ShadowJob(NamedTuple):
  """Everything that the groups of a call share; see `training.train`."""

  key: PRNGKey
  network: Network
  data: Batch
  fit: ShadowTraining
  plan: Plan
  recipe: segment.SegmentSpec
  rows: Int[np.ndarray, 'k m']
  inside: Bool[np.ndarray, 'k n']
  devices: tuple[jax.Device, ...]
  strategy: vectorize.Strategy
  block: int
  threads: int
  data_digest: str
  signals: program.Signals = ()
  weights: bool = False
  forget: Bool[np.ndarray, 'k n'] | None = None
  unlearn: Unlearn | None = None


@functools.lru_cache(maxsize=16)
def _initializer(network: Network) -> Callable:
  """(key, numbers, image[:1]) -> keys of the trainings and first weights."""

  def draw(key, numbers, image):
    pixels = network.inputs.eval(image, None)

    def initialize(number):
      model_key = jax.random.fold_in(key, number)
      variables = network.model.init(rng.fold_in(model_key, 'init'), pixels)
      return rng.fold_in(model_key, 'train'), variables

    return jax.vmap(initialize)(numbers)

  return jit.compile_cheaply(draw)


def _initialize(
  job: ShadowJob, numbers: range, size: int
) -> tuple[Any, Variables]:
  """Keys of the trainings and first weights, stacked over models."""
  # Numbers, not positions: a model is the same in every group.
  index = pad_models(np.arange(numbers.start, numbers.stop), size)
  key = rng.fold_in(job.key, 'model')
  draw = _initializer(job.network)
  return draw(key, index, job.data.image[:1])


class GroupStart(NamedTuple):
  """A group before its first step.

  Attributes:
    state: of all its models, padding last.
    run: (state, start, stop) -> state, compiled; donates its state.
    size: number of models with padding.
  """

  state: segment.TrainState
  run: Callable
  size: int


def start_group(job: ShadowJob, numbers: range) -> GroupStart:
  """Initializes the models with these numbers, and compiles their training."""
  size = -(-len(numbers) // job.block) * job.block
  # Padded models repeat the last one: whole blocks share a program.
  keys, start = _initialize(job, numbers, size)
  rows = pad_models(job.rows[numbers.start : numbers.stop], size)
  # The state is donated step by step, so it is made only here.
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

  def advance(state, start, stop):
    # A state that was restored from a checkpoint lies on the first device.
    state = program.place_on_devices(state, job.devices)
    return run(keys, state, rows, job.data, start, stop)

  return GroupStart(state, advance, size)


def _train_models(job: ShadowJob, numbers: range, name: str) -> Variables:
  """Trains a group; its models are stacked on the device, padding last."""
  group, plan = start_group(job, numbers), job.plan
  saving = (
    store.npz_checkpoint(plan.folder, name, plan.save_seconds)
    if plan.folder
    else None
  )
  return train.run_segments(
    group.run,
    group.state,
    job.fit.steps,
    group.size * job.recipe.batch_size,
    train.Session(
      f'{plan.title} {numbers[0]} to {numbers[-1]} of {len(job.rows)}', saving
    ),
  ).variables


def _measure_signals(
  job: ShadowJob, stacked: Variables
) -> dict[str, Shaped[np.ndarray, 'k n']]:
  """The signals of every model at every point."""
  count = job.data.label.shape[0]
  measure = program.in_blocks(
    program.statistics_program(
      job.network,
      job.signals,
      min(job.plan.images_at_once, count),
      job.strategy,
      job.devices,
    ),
    1,
    job.block,
    job.threads,
  )
  values = measure(program.place_on_devices(stacked, job.devices), job.data)
  return {name: np.asarray(array) for name, array in values.items()}


def _unlearn_models(
  job: ShadowJob, numbers: range, stacked: Variables
) -> Variables:
  """Makes each model of the group forget, sequentially."""
  models = []
  assert job.unlearn is not None and job.forget is not None
  # Methods of unlearning are no stacked programs.
  title = f'{job.plan.title}: unlearning'
  with progress.bar(title, len(numbers), 'models') as advance, progress.mute():
    for position, number in enumerate(numbers):
      key = rng.fold_in(job.key, 'unlearn', number)
      forget = np.flatnonzero(job.forget[number])
      retain = np.flatnonzero(job.inside[number] & ~job.forget[number])
      model = tree.index(stacked, position)
      models.append(job.unlearn(key, model, retain, forget))
      advance()
  # The compiled programs take whole blocks of models.
  models += models[-1:] * (-len(models) % job.block)
  return tree.stack(models)


def train_group(job: ShadowJob, numbers: range, name: str) -> store.NamedArrays:
  """Trains a group and measures its signals.

  Args:
    job: shared by all groups.
    numbers: of its models.
    name: of the checkpoint of its training.

  Returns:
    The arrays of its file.
  """
  count = len(numbers)
  stacked = _train_models(job, numbers, name)
  # Padding repeats the last model; only `count` are new.
  arrays = name_statistics(_measure_signals(job, stacked), 'trained', count)
  return arrays | (name_weights(stacked, count) if job.weights else {})


def unlearn_group(
  job: ShadowJob, numbers: range, models: Variables
) -> store.NamedArrays:
  """Makes a group forget and measures its signals.

  Args:
    job: shared by all groups.
    numbers: of its models.
    models: trained models, stacked.

  Returns:
    The arrays of its file.
  """
  count = len(numbers)
  # Weights come from a file, as arrays of the host.
  stacked = _unlearn_models(job, numbers, jax.tree.map(jnp.asarray, models))
  arrays = name_statistics(_measure_signals(job, stacked), 'unlearned', count)
  return arrays | (name_weights(stacked, count) if job.weights else {})
