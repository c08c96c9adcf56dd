"""The cells of a sweep, each a file named by the content it depends on.

A cell is one method at one identified fraction of one problem, with its whole
grid. Its address is a digest of everything that decides its numbers: a killed
sweep finds what is done, a changed config recomputes what it changes.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cmu_jax.core import config as config_lib
from cmu_jax.studies.corrective import roster

_VERSION = 1
_PROBLEM = (
  'dataset',
  'image_size',
  'train_limit',
  'test_limit',
  'validation',
  'proxy_fraction',
  'published_indices',
  'model',
  'input',
  'train',
)


class Case(NamedTuple):
  """A problem by its names."""

  manipulation: str
  size: int
  seed: int


class Cell(NamedTuple):
  """A method at an identified fraction of a problem; the gold standard is
  RewoD at 1."""

  case: Case
  fraction: float
  method: str


def cases(config: ConfigDict) -> list[Case]:
  """All problems, seed by seed, so that early results are whole ones."""
  return [
    Case(kind, size, seed)
    for seed in config.seeds
    for kind in config.manipulations
    for size in config[kind].sizes
  ]


def cells(config: ConfigDict) -> list[Cell]:
  """All cells, the gold standard of each problem first."""
  found: dict[Cell, None] = {}
  for case in cases(config):
    found[Cell(case, 1.0, 'rewod')] = None
    for fraction in config.identified_fractions:
      for method in config.methods:
        found[Cell(case, float(fraction), method)] = None
  return list(found)


def case_address(config: ConfigDict, summed: str, case: Case) -> str:
  """What the problem and its original network depend on."""
  settings = {
    k: v for k, v in config[case.manipulation].items() if k != 'sizes'
  }
  return config_lib.fingerprint(
    {
      'version': _VERSION,
      'data': summed,
      'case': case._asdict(),
      'manipulation': settings,
      **{name: config[name] for name in _PROBLEM},
      # Sweeps that keep the last iterate keep their names.
      **({'best_epoch': True} if config.best_epoch else {}),
    }
  )


def _audit(config: ConfigDict) -> dict[str, Any]:
  if not config.audit:
    return {}
  return {'audit': config.audit, 'references': config.references}


def address(config: ConfigDict, summed: str, cell: Cell) -> str:
  """What a cell depends on."""
  return config_lib.fingerprint(
    {
      'case': case_address(config, summed, cell.case),
      'fraction': cell.fraction,
      'method': cell.method,
      'settings': roster.settings_of(config, cell.method),
      # Cells of runs without an audit keep their names.
      **_audit(config),
    }
  )
