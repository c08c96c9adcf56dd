"""One group of shadow models: trained, made to forget, looked at."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from cmu_jax import jitting, progress, rng, segment, sweep, train, tree
from cmu_jax.corrective import originals
from cmu_jax.shadow import groups, program
from cmu_jax.shadow.contract import Fit, Plan, Unlearn
from cmu_jax.types import Batch, Model, PRNGKey, Variables


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
  how: sweep.How
  block: int
  threads: int
  weights: bool


def _start(job: Job, numbers: range, size: int) -> tuple[Any, Variables]:
  """Keys of the trainings and first weights, a model each."""
  image = job.fit.inputs.eval(job.data.image[:1], None)
  draw = lambda key: job.model.init(rng.named(key, 'init'), image)
  keys = groups.keys(rng.named(job.key, 'model'), numbers, size)
  return (
    jax.vmap(lambda key: rng.named(key, 'train'))(keys),
    jitting.once(jax.vmap(draw))(keys),
  )


def _trained(job: Job, numbers: range, name: str) -> Variables:
  """The trained models of a group, stacked on the device, padding last."""
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
  plan = job.plan
  last = numbers.stop - 1
  saved = (
    originals.saving(plan.folder, name, plan.seconds) if plan.folder else None
  )
  return train.drive(
    lambda state, first, stop: run(
      keys, program.placed(state, job.devices), rows, job.data, first, stop
    ),
    state,
    job.fit.steps,
    size * job.recipe.batch_size,
    saved,
    f'{plan.title} {numbers[0]} to {last} of {len(job.rows)}',
  ).variables


def _looked(
  job: Job, stacked: Variables
) -> dict[str, Float[np.ndarray, 'k n']]:
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
  size = jax.tree.leaves(stacked)[0].shape[0]
  found += found[-1:] * (size - len(found))
  return tree.stack(found)


def group(job: Job, numbers: range, name: str) -> groups.Arrays:
  """Trains a group, has it forget, and looks at it.

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
  if job.unlearn is not None:
    stacked = _unlearned(job, numbers, stacked)
    arrays |= groups.flat(_looked(job, stacked), 'unlearned', count)
  return arrays | (groups.weights(stacked, count) if job.weights else {})
