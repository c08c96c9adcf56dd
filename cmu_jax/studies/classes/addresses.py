"""Names of files: digests of all that the numbers in them depend on."""

from typing import Any, NamedTuple

from cmu_jax.core import config as config_lib
from cmu_jax.core.types import Info
from cmu_jax.studies.classes import roster
from cmu_jax.studies.subsets import addresses
from cmu_jax.studies.subsets.world import Place

_VERSION = 1


class Cell(NamedTuple):
  """A method on one network and class.

  Attributes:
    seed: of the original network; of 'retrain', which retraining.
    forget_class: what is forgotten.
    method: a key of the roster, or 'none'.
  """

  seed: int
  forget_class: int
  method: str


def retrained(place: Place, at: Cell) -> str:
  """What the answers of a network without a class depend on."""
  return config_lib.fingerprint(
    {
      'version': _VERSION,
      'network': addresses.trained(place, 'retrained'),
      'cell': at._asdict(),
      'evaluate': place.config.evaluate.batch_size,
    }
  )


def cell(place: Place, at: Cell, points: Any, compared: int) -> str:
  """What a cell depends on.

  Args:
    place: of the run.
    at: the cell.
    points: the hyperparameters that it tries.
    compared: how many retrained networks it is set beside.
  """
  config = place.config
  known = roster.entries().get(at.method)
  training: Info | None = None
  if known is not None and known.part:
    training = config[known.part]
  return config_lib.fingerprint(
    {
      'network': addresses.trained(place, f'original {at.seed}'),
      'retrained': retrained(place, Cell(compared, at.forget_class, 'retrain')),
      'cell': at._asdict(),
      'training': training,
      'points': points,
      'evaluate': config.evaluate,
    }
  )
