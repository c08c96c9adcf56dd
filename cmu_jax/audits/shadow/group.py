"""One group of shadow models: trained, made to forget, looked at."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, Shaped

from cmu_jax.audits.shadow import groups, program
from cmu_jax.audits.shadow.plan import Fit, Plan, Unlearn
from cmu_jax.core import jit, progress, rng, store, tree, vectorize
from cmu_jax.core.types import Batch, InputStep, Model, PRNGKey, Variables
from cmu_jax.training import segment, train


class Job(NamedTuple):
  """All that a group of models needs."""

  key: PRNGKey
  model: Model
  data: Batch
  fit: Fit
  plan: Plan
  recipe: segment.Recipe
  rows: Int[np.ndarray, 'k m']
  inside: Bool[np.ndarray, 'k n']
  forget: Bool[np.ndarray, 'k n'] | None
  unlearn: Unlearn | None
  signals: program.Signals
  devices: tuple[jax.Device, ...]
  how: vectorize.How
  block: int
  threads: int
  weights: bool


@functools.lru_cache(maxsize=16)
def _first(model: Model, inputs: InputStep) -> Callable:
  """(key, numbers, image[:1]) -> keys of the trainings and first weights."""

  def draw(key, numbers, image):
    seen = inputs.eval(image, None)

    def one(number):
      own = jax.random.fold_in(key, number)
      first = model.init(rng.named(own, 'init'), seen)
      return rng.named(own, 'train'), first

    return jax.vmap(one)(numbers)

  return jit.once(draw)


def _start(job: Job, numbers: range, size: int) -> tuple[Any, Variables]:
  """Keys of the trainings and first weights, a model each."""
  index = groups.padded(np.arange(numbers.start, numbers.stop), size)
  key = rng.named(job.key, 'model')
  draw = _first(job.model, job.fit.inputs)
  return draw(key, index, job.data.image[:1])


class Begun(NamedTuple):
  """A group before its first step.

  Attributes:
    state: of all its models, padding last.
    run: (state, start, stop) -> state, compiled; donates its state.
    size: models with padding.
  """

  state: segment.TrainState
  run: Callable
  size: int


def begun(job: Job, numbers: range) -> Begun:
  """A group that is ready to be trained.

  Args:
    job: all that it needs.
    numbers: of its models.
  """
  size = -(-len(numbers) // job.block) * job.block
  keys, start = _start(job, numbers, size)
  rows = groups.padded(job.rows[numbers.start : numbers.stop], size)
  state = train.initial(job.fit.optimizer, start, job.fit.steps, stacked=True)
  run = program.in_blocks(
    program.training(job.recipe, job.how, job.devices),
    3,
    job.block,
    job.threads,
  )
  keys, rows = program.placed((keys, jnp.asarray(rows)), job.devices)
  placed = lambda state: program.placed(state, job.devices)
  return Begun(
    state,
    lambda state, start, stop: run(
      keys, placed(state), rows, job.data, start, stop
    ),
    size,
  )


def _trained(job: Job, numbers: range, name: str) -> Variables:
  """The trained models of a group, stacked on the device, padding last."""
  one, plan = begun(job, numbers), job.plan
  saved = store.saving(plan.folder, name, plan.seconds) if plan.folder else None
  return train.drive(
    one.run,
    one.state,
    job.fit.steps,
    one.size * job.recipe.batch_size,
    saved,
    f'{plan.title} {numbers[0]} to {numbers[-1]} of {len(job.rows)}',
  ).variables


def _looked(
  job: Job, stacked: Variables
) -> dict[str, Shaped[np.ndarray, 'k n']]:
  count = job.data.label.shape[0]
  see = program.in_blocks(
    program.statistics(
      job.model,
      job.fit.inputs,
      job.signals,
      min(job.plan.images, count),
      job.how,
      job.devices,
    ),
    1,
    job.block,
    job.threads,
  )
  found = see(program.placed(stacked, job.devices), job.data)
  return {name: np.asarray(values) for name, values in found.items()}


def _unlearned(job: Job, numbers: range, stacked: Variables) -> Variables:
  """Each model of the group made to forget, one after the other."""
  found = []
  assert job.unlearn is not None and job.forget is not None
  title = f'{job.plan.title}: unlearning'
  with progress.bar(title, len(numbers), 'models') as advance, progress.muted():
    for place, number in enumerate(numbers):
      key = rng.named(job.key, 'unlearn', number)
      gone = job.forget[number]
      rest = np.flatnonzero(job.inside[number] & ~gone)
      found.append(
        job.unlearn(key, tree.index(stacked, place), rest, np.flatnonzero(gone))
      )
      advance()
  found += found[-1:] * (-len(found) % job.block)
  return tree.stack(found)


def trained(job: Job, numbers: range, name: str) -> groups.Arrays:
  """Trains a group, and looks at it.

  Args:
    job: all that it needs.
    numbers: of its models.
    name: of the checkpoint of its training.

  Returns:
    What is kept of it, by names within a file.
  """
  count = len(numbers)
  stacked = _trained(job, numbers, name)
  arrays = groups.flat(_looked(job, stacked), 'trained', count)
  return arrays | (groups.weights(stacked, count) if job.weights else {})


def forgotten(job: Job, numbers: range, models: Variables) -> groups.Arrays:
  """Has a group forget, and looks at it.

  Args:
    job: all that it needs.
    numbers: of its models.
    models: as trained, stacked.

  Returns:
    What is kept of it, by names within a file.
  """
  count = len(numbers)
  stacked = _unlearned(job, numbers, jax.tree.map(jnp.asarray, models))
  arrays = groups.flat(_looked(job, stacked), 'unlearned', count)
  return arrays | (groups.weights(stacked, count) if job.weights else {})
