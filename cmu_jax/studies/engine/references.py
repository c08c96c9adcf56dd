"""Shadow models of a study: each group of them is a cell.

Attacks compare a network with shadow models, which are trained on other parts
of the data. A phase trains the groups, and later cells read all of them.
"""

from typing import NamedTuple

from cmu_jax.audits import shadow
from cmu_jax.studies.engine.store import TimeIsUp
from cmu_jax.studies.engine.study import Cell, Context, Phase

# The folder in which `audits.shadow` keeps its groups.
_KIND = 'shadow'


class ShadowGroup(NamedTuple):
  """Shadow models that are trained together."""

  title: str
  start: int  # number of the first model of the group


def list_groups(job: shadow.ShadowJob) -> list[Cell]:
  """Lists the groups of a job as cells."""
  return [_group_cell(job, numbers) for numbers in shadow.split_groups(job)]


def _group_cell(job: shadow.ShadowJob, numbers: range) -> Cell:
  return Cell(
    ShadowGroup(job.plan.title, numbers.start),
    shadow.group_address(job, numbers),
    lambda: shadow.train_or_read_group(job, numbers),
    _KIND,
    # Every group has the size of the first, padded.
    float(job.fit.steps * job.recipe.batch_size * len(numbers)),
  )


def shadow_phase(
  title: str, jobs: list[shadow.ShadowJob], later: float = 0.0
) -> Phase:
  """Builds the phase that trains shadow models.

  `later` are the images of the phases after it, see `study.Phase`.
  """
  cells = [cell for job in jobs for cell in list_groups(job)]
  # Each job trains with all local devices, hence one group at a time.
  return Phase(title, cells, spread=False, later=later)


def is_trained(context: Context, job: shadow.ShadowJob) -> bool:
  """Returns whether every group of a job has its file."""
  return all(
    context.store.has_arrays(cell.kind, cell.address)
    for cell in list_groups(job)
  )


def read_shadows(context: Context, job: shadow.ShadowJob) -> shadow.Shadows:
  """Reads the shadow models of a job.

  Raises:
    TimeIsUp: a group has no file, because the deadline came before it.
  """
  # A cell of a method may not begin hours of training.
  if not is_trained(context, job):
    raise TimeIsUp
  return shadow.train_job(job)
