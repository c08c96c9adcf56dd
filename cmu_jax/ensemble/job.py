"""Ensembles as a command runs them: cells, results.json, tables, report."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from cmu_jax import config as config_lib
from cmu_jax import files, jitting, provenance
from cmu_jax.ensemble import place as places
from cmu_jax.ensemble import show, sweep
from cmu_jax.ensemble.place import Place
from cmu_jax.types import Info

SCHEMA = 1


def collect(place: Place, found: sweep.Found) -> Info:
  """What results.json holds.

  Args:
    place: of the run.
    found: as far as it came.
  """
  config: Any = place.config
  return {
    'schema': SCHEMA,
    'name': config.name,
    'task': 'ensemble',
    'smoke': config.smoke,
    'finished': found.done,
    'provenance': provenance.provenance(config),
    'config': config_lib.plain(config),
    'class_names': list(place.dataset.class_names),
    'train_size': int(place.dataset.train.label.shape[0]),
    'test_size': int(place.dataset.test.label.shape[0]),
    'rows': found.rows,
    'curves': found.curves,
  }


def execute(
  config: ConfigDict, folder: pathlib.Path, minutes: float | None = None
) -> bool:
  """Runs or continues a run on ensembles.

  Args:
    config: see `settings.base`.
    folder: where trainings, cells, results and the report go.
    minutes: after which no further cell is begun; None for no limit.

  Returns:
    Whether it is finished.

  Raises:
    UserError: bad data or settings, a full disk, too little memory.
  """
  with jitting.hasty(config.smoke):
    place = places.load(config, folder)
    found = sweep.run(place, minutes)
    files.write_json(folder / 'results.json', collect(place, found))
    print(f'report: {show.show(folder)}')
  return found.done
