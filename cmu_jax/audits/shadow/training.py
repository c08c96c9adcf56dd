"""Shadow models: K trainings in groups, of which only signals remain."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from cmu_jax.audits import signals
from cmu_jax.audits.shadow import groups, planning
from cmu_jax.audits.shadow.groups import (
  GroupStart,
  ShadowJob,
  start_group,
  train_group,
  unlearn_group,
)
from cmu_jax.audits.shadow.planning import (
  DEFAULT_PLAN,
  DEFAULT_SIGNALS,
  Plan,
  Shadows,
  ShadowTraining,
)
from cmu_jax.core import config, errors, provenance, rng, store, vectorize
from cmu_jax.core.types import Batch, Model, Network, PRNGKey
from cmu_jax.training import segment
from cmu_jax.training import train as train_lib

# Models in a program of a CPU: more models gain no speed, and the memory of a
# group is a multiple of it.
_CPU_BLOCK = 4
# The same for an accelerator, which gains speed from many small models.
_MAX_ACCELERATOR_BLOCK = 64
# Duration of a trial: the start of a program costs as much as many steps.
_PROBE_SECONDS = 1.0


def make_job(
  key: PRNGKey,
  model: Model,
  data: Batch,
  inside: Bool[np.ndarray, '_ _'],
  fit: ShadowTraining,
  plan: Plan = DEFAULT_PLAN,
  **options: Any,
) -> ShadowJob:
  """Prepares trainings without starting them.

  Args:
    key: of initial weights, sample orders, augmentation and unlearning.
    model: the network.
    data: n raw images and labels; signals are measured on all of them.
    inside: marks the training points of each model, [k, n].
    fit: recipe of each training.
    plan: memory, files, devices.
    **options: see `train`.

  Raises:
    UserError: shapes that do not fit, or a model without points.
  """
  inside = np.asarray(inside, bool)
  count = data.label.shape[0]
  errors.check(
    inside.ndim == 2 and inside.shape[1] == count,
    f'the membership has shape {inside.shape}; it is models by points, and '
    f'there are {count} points',
  )
  forget, unlearn = options.get('forget'), options.get('unlearn')
  errors.check(
    (forget is None) == (unlearn is None)
    and (
      forget is None
      or (forget.shape == inside.shape and not (forget & ~inside).any())
    ),
    'forget and unlearn go together, and a model can only forget its training '
    'points',
  )
  rows = planning.training_rows(rng.fold_in(key, 'rows'), inside)
  # A batch larger than the training set would repeat samples.
  size = min(fit.batch_size, rows.shape[1])
  train_lib.check_length(plan.title, fit.steps, size)
  network = Network(model, fit.inputs)
  recipe = segment.SegmentSpec(network, fit.loss, fit.optimizer, size)
  strategy = plan.strategy or vectorize.default_strategy(
    planning.variable_shapes(network, data).params
  )
  devices = plan.devices or tuple(jax.local_devices())
  return ShadowJob(
    key,
    network,
    data,
    fit,
    plan,
    recipe,
    rows,
    inside,
    devices=devices,
    strategy=strategy,
    block=_block_size(strategy, len(inside), len(devices)),
    # Here, because every address needs it and large data take a second.
    data_digest=provenance.digest(data.image, data.label),
    threads=plan.threads
    or (vectorize.thread_count() if len(devices) == 1 else 1),
    **options,
  )


def _block_size(strategy: vectorize.Strategy, count: int, devices: int) -> int:
  """The number of models in a program, on all devices together."""
  # Other strategies run a model at a time on each device.
  if strategy != 'vmap':
    return devices
  if jax.default_backend() == 'cpu':
    return _CPU_BLOCK * devices
  return -(-min(count, _MAX_ACCELERATOR_BLOCK) // devices) * devices


def _group_size(job: ShadowJob) -> int:
  """The number of models in a group."""
  count, block = len(job.rows), job.block
  if job.plan.group:
    limit = min(job.plan.group, count)
  else:
    memory = planning.memory_need(
      job.recipe, job.data, job.rows.shape[1], job.fit.steps
    )
    # Residuals of the forward pass exist for the running blocks alone.
    at_once = block * min(job.threads, -(-count // block))
    limit = planning.largest_group(
      memory, count, job.plan.memory_bytes, at_once
    )
  return groups.even_group_size(count, max(limit, block), block)


def group_address(job: ShadowJob, numbers: range) -> str:
  """Computes the address of a group: everything that its models depend on."""
  # Functions have no digest: the plan has addresses for network, optimiser and
  # unlearning.
  rows = slice(numbers.start, numbers.stop)
  forget = () if job.forget is None else (job.forget[rows],)
  return config.fingerprint(
    {
      'address': job.plan.address,
      **({'method': job.plan.method} if job.unlearn else {}),
      'key': provenance.digest(jax.random.key_data(job.key)),
      'data': job.data_digest,
      'membership': provenance.digest(job.rows[rows], *forget),
      'numbers': list(numbers),
      'training': [job.fit.steps, job.recipe.batch_size],
      'signals': [name for name, _ in job.signals],
      'weights': job.weights,
      'unlearn': job.unlearn is not None,
    }
  )


def _train_or_read(job: ShadowJob, numbers: range) -> store.NamedArrays:
  """The trained group, from its file if it exists."""
  address, folder = group_address(job, numbers), job.plan.folder
  path = folder and store.arrays_path(folder, address, 'shadow')
  # The state includes the padding, which depends on the block.
  state = config.fingerprint([address, job.block])
  arrays = store.read_or_compute(path, lambda: train_group(job, numbers, state))
  if folder:
    # The optimiser's state is several times as large as the models.
    store.remove_checkpoint(folder, state)
  return arrays


def train_or_read_group(job: ShadowJob, numbers: range) -> store.NamedArrays:
  """Trains a group and makes it forget, or reads its files."""
  if job.unlearn is None:
    return _train_or_read(job, numbers)
  # All methods of unlearning start from the same models, trained once.
  training = job._replace(forget=None, unlearn=None, weights=True)
  trained = _train_or_read(training, numbers)
  folder = job.plan.folder
  path = folder and store.arrays_path(
    folder, group_address(job, numbers), 'shadow'
  )
  template = planning.variable_shapes(job.network, job.data)

  def compute() -> store.NamedArrays:
    models = groups.restore_weights([trained], template)
    return unlearn_group(job, numbers, models)

  unlearned = store.read_or_compute(path, compute)
  if not job.weights:
    trained = groups.drop_weights(trained)
  return trained | unlearned


def train(
  key: PRNGKey,
  model: Model,
  data: Batch,
  membership: Bool[np.ndarray, '_ _'],
  fit: ShadowTraining,
  *,
  signals: Mapping[str, signals.Signal] = DEFAULT_SIGNALS,
  plan: Plan = DEFAULT_PLAN,
  **options: Any,
) -> Shadows:
  """Trains K models, each on its own points, and measures their signals.

  Models are trained in groups: a finished group lies in a file, an unfinished
  one in a checkpoint. A group consists of blocks, the models of a compiled
  program. A model depends on `key`, its number and its points alone, neither on
  its group nor on interruptions.

  Args:
    key: of initial weights, sample orders, augmentation and unlearning.
    model: the network.
    data: n raw images and labels; signals are measured on all of them.
    membership: marks the training points of each model, [k, n].
    fit: recipe of each training.
    signals: names and functions of (logits, label), measured at each point.
    plan: memory, files, devices.
    **options: 'weights', true to return the models too, on the host; 'forget',
      marks of the points that each model forgets, and 'unlearn', an `Unlearn`,
      which is called for each trained model. The folder keeps the trained
      models, from which other methods start.

  Raises:
    UserError: shapes that do not fit, a model without points, too little
      memory for a model, a loss that is not finite, a full disk.

  References:
    Membership Inference Attacks From First Principles, arXiv 2112.03570,
    section 5; Low-Cost High-Power Membership Inference Attacks, arXiv
    2312.03262.
  """
  pairs = tuple(signals.items())
  return train_job(
    make_job(key, model, data, membership, fit, plan, signals=pairs, **options)
  )


def split_groups(job: ShadowJob) -> list[range]:
  """Splits the models into groups, which do not depend on each other.

  Raises:
    UserError: too little memory for a model.
  """
  count, size = len(job.inside), _group_size(job)
  return [range(i, min(i + size, count)) for i in range(0, count, size)]


def train_job(job: ShadowJob) -> Shadows:
  """Trains all groups of a job, or reads them; see `train`."""
  arrays = [train_or_read_group(job, numbers) for numbers in split_groups(job)]
  template = planning.variable_shapes(job.network, job.data)
  return Shadows(
    job.inside,
    groups.join_part(arrays, 'trained'),
    groups.join_part(arrays, 'unlearned') or None,
    groups.restore_weights(arrays, template) if job.weights else None,
  )


def _seconds_per_step(group: GroupStart, steps: int) -> float:
  """Seconds a step, without the compilation."""
  state, finished, count = group.run(group.state, 0, 1), 1, 1
  while True:
    # The history has room for the steps of the training, no more.
    count = min(count, max(steps - finished, 1))
    start = min(finished, steps - 1)
    begin = time.monotonic()
    state = jax.block_until_ready(group.run(state, start, start + count))
    seconds = time.monotonic() - begin
    finished += count
    if seconds > _PROBE_SECONDS or finished >= steps:
      return seconds / count
    count *= 4


def predict_seconds(
  key: PRNGKey,
  model: Model,
  data: Batch,
  membership: Bool[np.ndarray, '_ _'],
  fit: ShadowTraining,
  plan: Plan = DEFAULT_PLAN,
) -> float:
  """Predicts the seconds of `train` with these arguments, without compilation.

  Trains the first group for about a second and discards it. Its compiled
  program remains, so that `train` begins at once.

  Args:
    key: as for `train`, like all others.
    model: the network.
    data: raw images and labels.
    membership: marks the training points of each model.
    fit: recipe of each training.
    plan: memory, files, devices.

  Raises:
    UserError: as `train`.
  """
  job = make_job(key, model, data, membership, fit, plan)
  count, size = len(job.rows), _group_size(job)
  rate = _seconds_per_step(start_group(job, range(min(size, count))), fit.steps)
  return rate * fit.steps * -(-count // size)
