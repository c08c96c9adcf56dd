"""Trials: a method on an original network and a class to forget."""

from typing import Any, NamedTuple

from cmu_jax import audits
from cmu_jax.core import config as config_lib
from cmu_jax.core.types import Info, Variables
from cmu_jax.studies.classes import measure, settings
from cmu_jax.studies.classes import world as worlds
from cmu_jax.studies.classes.measure import Reference
from cmu_jax.studies.engine import catalogue, pool
from cmu_jax.studies.engine.grids import Points
from cmu_jax.studies.engine.pool import World
from cmu_jax.studies.engine.study import Context

# Raised when the numbers of a retrained network change.
_VERSION = 1
RETRAIN = 'retrain'


# Its fields make random keys and addresses: their order is fixed.
class ClassTrial(NamedTuple):
  """A method on an original network and a class to forget."""

  seed: int  # of the original network; for 'retrain', number of the retraining
  forget_class: int
  method: str  # a name of the settings, or 'none'


def count_retrained(context: Context[World], forget_class: int) -> int:
  """Returns how many networks are retrained without a class."""
  config = context.config
  # A class for choices needs no more networks than the noise floor does.
  reported = forget_class in config.forget_classes
  return config.retrained if reported else audits.MIN_RETRAINED


def retrained_address(context: Context[World], trial: ClassTrial) -> str:
  """Computes the address of the logits of a retrained network."""
  return config_lib.fingerprint(
    {
      'version': _VERSION,
      'network': pool.network_address(context, 'retrained'),
      'cell': trial._asdict(),
      'evaluate': context.config.evaluate.batch_size,
    }
  )


def trial_address(
  context: Context[World], trial: ClassTrial, points: Points
) -> str:
  """Computes the address of a trial at these hyperparameters."""
  config: Any = context.config
  entry = settings.entries().get(trial.method)
  # The numbers compare with all networks without the class.
  count = count_retrained(context, trial.forget_class)
  compared = ClassTrial(count, trial.forget_class, RETRAIN)
  return config_lib.fingerprint(
    {
      'network': pool.network_address(context, f'original {trial.seed}'),
      'retrained': retrained_address(context, compared),
      'cell': trial._asdict(),
      'training': config[entry.part] if entry and entry.part else None,
      'points': points,
      'evaluate': config.evaluate,
    }
  )


def count_images(context: Context[World], method: str, points: int) -> float:
  """Counts the images that a trial trains on, see `study.Cell`."""
  sizes = worlds.average_sizes(context.world.dataset)
  return catalogue.count_images(
    context.config, sizes, method, points, settings.entries()
  )


def solve_trial(
  context: Context[World],
  trial: ClassTrial,
  points: Points,
  reference: Reference,
  with_statistics: bool,
) -> list[Info]:
  """Computes the rows of a trial, one for each point of the grid.

  `with_statistics` adds the statistics of U-LiRA to the rows.
  """

  def measure_network(network: Variables) -> Info:
    logits = pool.compute_logits(context, network)
    row = measure.measure(context, logits, reference)
    # They are long, and only reported networks need them.
    if not with_statistics:
      return row
    values = measure.rounded_statistics(context, logits, reference)
    return {**row, 'statistics': values}

  return pool.solve_trial(
    context,
    trial,
    lambda needs: worlds.select_class(context.world, trial.forget_class, needs),
    points,
    measure_network,
  )
