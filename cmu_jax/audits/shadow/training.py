"""Shadow models: K trainings from one call, of which only statistics remain."""

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
  Unlearn,
)
from cmu_jax.audits.shadow.planning import training_rows as rows_of
from cmu_jax.core import config, errors, provenance, rng, store, vectorize
from cmu_jax.core.types import Batch, Model, Network, PRNGKey
from cmu_jax.training import segment

# Models that a CPU trains in one program: more gain nothing, and the memory of
# a group is a multiple of it.
_CPU_BLOCK = 4
# The same for an accelerator; fewer if there are not so many.
_MAX_ACCELERATOR_BLOCK = 64
_NO_OPTIONS: dict[str, Any] = {
  'forget': None,
  'unlearn': None,
  'signals': (),
  'weights': False,
}
# Of trial steps: a start costs as much as many of them.
_PROBE_SECONDS = 1.0


def make_job(
  key: PRNGKey,
  model: Model,
  data: Batch,
  inside: Bool[np.ndarray, 'k n'],
  fit: ShadowTraining,
  plan: Plan,
  **options: Any,
) -> ShadowJob:
  """Prepares trainings without starting them.

  Args:
    key: as for `train`, and so are the others.
    model: the network.
    data: n raw images and labels.
    inside: which model is trained on which of them.
    fit: how each model is trained.
    plan: memory, files, devices.
    **options: `signals`, `weights`, `forget` and `unlearn` of `train`.

  Raises:
    UserError: shapes that do not fit, or a model without points.
  """
  count = data.label.shape[0]
  errors.check(
    inside.ndim == 2 and inside.shape[1] == count,
    f'the membership has shape {inside.shape}; it is models by points, and '
    f'there are {count} points',
  )
  rows = rows_of(rng.fold_in(key, 'rows'), inside)
  size = min(fit.batch_size, rows.shape[1])
  recipe = segment.SegmentSpec(
    Network(model, fit.inputs), fit.loss, fit.optimizer, size
  )
  how = plan.strategy or vectorize.default_strategy(
    planning.variable_shapes(Network(model, fit.inputs), data).params
  )
  devices = plan.devices or tuple(jax.local_devices())
  return ShadowJob(
    key,
    model,
    data,
    fit,
    plan,
    recipe,
    rows,
    inside,
    devices=devices,
    strategy=how,
    block=_block_size(how, len(inside), len(devices)),
    # Once a job: every address needs it, and large data take a second.
    data_digest=provenance.digest(data.image, data.label),
    threads=plan.threads
    or (vectorize.thread_count() if len(devices) == 1 else 1),
    **{**_NO_OPTIONS, **options},
  )


def _block_size(how: vectorize.Strategy, count: int, devices: int) -> int:
  """How many models one program trains, on all devices together."""
  if how != 'vmap':
    return devices
  if jax.default_backend() == 'cpu':
    return _CPU_BLOCK * devices
  return -(-min(count, _MAX_ACCELERATOR_BLOCK) // devices) * devices


def _group_size(job: ShadowJob) -> int:
  """How many models a group holds."""
  count, block = len(job.rows), job.block
  if job.plan.group:
    most = min(job.plan.group, count)
  else:
    one = planning.memory_need(
      job.recipe, job.data, job.rows.shape[1], job.fit.steps
    )
    together = block * min(job.threads, -(-count // block))
    most = planning.largest_group(one, count, job.plan.memory_bytes, together)
  return groups.even_group_size(count, max(most, block), block)


def group_address(job: ShadowJob, numbers: range) -> str:
  """Computes the address of a group: everything that its models depend on."""
  part = slice(numbers.start, numbers.stop)
  forget = () if job.forget is None else (job.forget[part],)
  return config.fingerprint(
    {
      'address': job.plan.address,
      **({'method': job.plan.method} if job.unlearn else {}),
      'key': provenance.digest(jax.random.key_data(job.key)),
      'data': job.data_digest,
      'membership': provenance.digest(job.rows[part], *forget),
      'numbers': list(numbers),
      'training': [job.fit.steps, job.recipe.batch_size],
      'signals': [name for name, _ in job.signals],
      'weights': job.weights,
      'unlearn': job.unlearn is not None,
    }
  )


def _train_or_read(job: ShadowJob, numbers: range) -> store.NamedArrays:
  """A group as trained, from its file if it is done."""
  name, folder = group_address(job, numbers), job.plan.folder
  where = folder and store.arrays_path(folder, name, 'shadow')
  # A state has the padding too.
  state = config.fingerprint([name, job.block])
  found = store.read_or_compute(where, lambda: train_group(job, numbers, state))
  if folder:
    # The optimiser's state is several times the models, and done with.
    store.remove_checkpoint(folder, state)
  return found


def train_or_read_group(job: ShadowJob, numbers: range) -> store.NamedArrays:
  """Trains a group, and has it forget; reads what has its file."""
  if job.unlearn is None:
    return _train_or_read(job, numbers)
  # Whatever forgets starts from the same models: they are trained once.
  first = job._replace(forget=None, unlearn=None, weights=True)
  found = _train_or_read(first, numbers)
  folder = job.plan.folder
  where = folder and store.arrays_path(
    folder, group_address(job, numbers), 'shadow'
  )
  template = planning.variable_shapes(
    Network(job.model, job.fit.inputs), job.data
  )

  def compute() -> store.NamedArrays:
    return unlearn_group(
      job, numbers, groups.restore_weights([found], template)
    )

  more = store.read_or_compute(where, compute)
  return (found if job.weights else groups.drop_weights(found)) | more


def train(
  key: PRNGKey,
  model: Model,
  data: Batch,
  membership: Bool[np.ndarray, '_ _'],
  fit: ShadowTraining,
  *,
  signals: Mapping[str, signals.Signal] = DEFAULT_SIGNALS,
  forget: Bool[np.ndarray, '_ _'] | None = None,
  unlearn: Unlearn | None = None,
  weights: bool = False,
  plan: Plan = DEFAULT_PLAN,
) -> Shadows:
  """Trains K models, each on its own points, and keeps what they say.

  Models are trained side by side in groups; a group that is done lies in a
  file, one that is under way in a checkpoint. Groups are made of blocks, the
  models of one compiled program. A model depends on `key`, on its number and on
  its points alone: not on the group, nor on interruptions.

  Args:
    key: of first weights, sample orders, augmentation and unlearning.
    model: the network.
    data: n raw images and labels; all are looked at.
    membership: which model is trained on which of them, [k, n].
    fit: how each of them is trained.
    signals: what is kept of each point: names and functions of (logits, label).
    forget: which of its points each model is to forget; with `unlearn`.
    unlearn: (key, variables, points kept, points to forget) -> variables;
      called for each model once it is trained. With a folder the trained
      models are kept there: another method starts from the same ones.
    weights: whether the models themselves are kept too, on the host.
    plan: memory, files, devices.

  Raises:
    UserError: shapes that do not fit, a model without points, too little
      memory for one model, a loss that is not finite, a full disk.

  References:
    Membership Inference Attacks From First Principles, arXiv 2112.03570,
    section 5; Low-Cost High-Power Membership Inference Attacks, arXiv
    2312.03262.
  """
  inside = np.asarray(membership, bool)
  errors.check(
    (forget is None) == (unlearn is None)
    and (
      forget is None
      or (forget.shape == inside.shape and not (forget & ~inside).any())
    ),
    'forget and unlearn go together, and a model can only forget points that '
    'it was trained on',
  )
  job = make_job(
    key,
    model,
    data,
    inside,
    fit,
    plan,
    forget=forget,
    unlearn=unlearn,
    signals=tuple(signals.items()),
    weights=weights,
  )
  return train_job(job)


def split_groups(job: ShadowJob) -> list[range]:
  """Splits the models into groups, which do not depend on each other.

  Raises:
    UserError: too little memory for one model.
  """
  count, step = len(job.inside), _group_size(job)
  return [range(i, min(i + step, count)) for i in range(0, count, step)]


def train_job(job: ShadowJob) -> Shadows:
  """Trains all groups of a job, or reads them; see `train`."""
  found = [train_or_read_group(job, numbers) for numbers in split_groups(job)]
  network = Network(job.model, job.fit.inputs)
  template = planning.variable_shapes(network, job.data)
  return Shadows(
    job.inside,
    groups.join_part(found, 'trained'),
    groups.join_part(found, 'unlearned') or None,
    groups.restore_weights(found, template) if job.weights else None,
  )


def _seconds_per_step(one: GroupStart, steps: int) -> float:
  """Seconds a step once it is compiled."""
  state, done, count = one.run(one.state, 0, 1), 1, 1
  while True:
    # Further steps than the training has would not fit its history.
    count = min(count, max(steps - done, 1))
    start = min(done, steps - 1)
    began = time.monotonic()
    state = jax.block_until_ready(one.run(state, start, start + count))
    seconds = time.monotonic() - began
    done += count
    if seconds > _PROBE_SECONDS or done >= steps:
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
  """Seconds that `train` will take with these arguments, compilation apart.

  Trains the first group for about a second and throws it away. What it compiles
  stays compiled, so that `train` begins at once.

  Args:
    key: as for `train`.
    model: likewise.
    data: likewise.
    membership: likewise.
    fit: likewise.
    plan: likewise.

  Raises:
    UserError: as `train`.
  """
  job = make_job(
    key,
    model,
    data,
    np.asarray(membership, bool),
    fit,
    plan,
    forget=None,
    unlearn=None,
    signals=(),
    weights=False,
  )
  count, step = len(job.rows), _group_size(job)
  rate = _seconds_per_step(start_group(job, range(min(step, count))), fit.steps)
  return rate * fit.steps * -(-count // step)
