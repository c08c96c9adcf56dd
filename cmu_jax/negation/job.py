"""A run on negation as a command runs it: cells, results.json, report."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from cmu_jax import config as config_lib
from cmu_jax import files, jitting, provenance
from cmu_jax.negation import place as places
from cmu_jax.negation import show, sweep
from cmu_jax.negation.place import Place
from cmu_jax.types import Info

SCHEMA = 1


def collect(place: Place, found: sweep.Found) -> Info:
  """What results.json holds."""
  config: Any = place.config
  return {
    'schema': SCHEMA,
    'name': config.name,
    'task': 'negation',
    'smoke': config.smoke,
    'finished': found.done,
    'provenance': provenance.provenance(config),
    'config': config_lib.plain(config),
    'control': place.control.data.name,
    'sizes': {
      one.data.name: [
        0 if part is None else int(part.label.shape[0])
        for part in (one.data.train, one.data.validation, one.data.test)
      ]
      for one in (place.control, *place.tasks)
    },
    'rows': found.rows,
    'curves': found.curves,
  }


def execute(
  config: ConfigDict, folder: pathlib.Path, minutes: float | None = None
) -> bool:
  """Runs or continues a run on negation.

  Args:
    config: see `settings.base`.
    folder: where fine-tunings, cells, results and the report go.
    minutes: after which no further cell is begun; None for no limit.

  Returns:
    Whether it is finished.

  Raises:
    UserError: bad data, weights or settings, a full disk.
  """
  with jitting.hasty(config.smoke):
    place = places.load(config, folder)
    found = sweep.run(place, minutes)
    files.write_json(folder / 'results.json', collect(place, found))
    print(f'report: {show.show(folder)}')
  return found.done
