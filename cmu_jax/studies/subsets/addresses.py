"""Names of files: digests of all that the numbers in them depend on."""

from typing import Any, NamedTuple

from cmu_jax.core import config as config_lib
from cmu_jax.core.types import Info
from cmu_jax.studies.engine import catalogue
from cmu_jax.studies.subsets.world import Place

_VERSION = 2
_NETWORK = (
  'dataset',
  'image_size',
  'train_limit',
  'test_limit',
  'model',
  'input',
  'train',
)
_SETS = ('fraction', 'published_indices')
_MEASURES = ('references', 'reference_group', 'rmia', 'evaluate')


class Cell(NamedTuple):
  """A method on one network and forget set.

  Attributes:
    seed: of the original network.
    forget_seed: of the forget set.
    method: a key of the roster, or 'none'.
    run: which repetition.
  """

  seed: int
  forget_seed: int
  method: str
  run: int


def _settings(config: Any, fields: tuple[str, ...]) -> Info:
  return {name: config[name] for name in fields}


def trained(place: Place, name: str) -> str:
  """What a network depends on: the original of a seed, or a reference."""
  fields = (*_NETWORK, 'clip') if place.bounded else _NETWORK
  return config_lib.fingerprint(
    {
      'version': _VERSION,
      'data': place.summed,
      'name': name,
      **_settings(place.config, fields),
    }
  )


def donor(place: Place, at: Cell) -> int | None:
  """The seed of the network on which a transferred D_A is made, or None."""
  known = catalogue.ENTRIES.get(at.method)
  if known is None or not known.transferred:
    return None
  seeds = tuple(place.config.seeds)
  return seeds[(seeds.index(at.seed) + 1) % len(seeds)]


def cell(place: Place, at: Cell, points: Any) -> str:
  """What a cell depends on.

  Args:
    place: of the run.
    at: the cell.
    points: the hyperparameters that it tries.
  """
  config = place.config
  known, other = catalogue.ENTRIES.get(at.method), donor(place, at)
  source = (
    {} if other is None else {'donor': trained(place, f'original {other}')}
  )
  return config_lib.fingerprint(
    {
      **source,
      'network': trained(place, f'original {at.seed}'),
      'cell': at._asdict(),
      'training': config[known.part] if known else None,
      'points': points,
      **_settings(config, _SETS),
      **_settings(config, _MEASURES),
    }
  )
