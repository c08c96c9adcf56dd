"""A run as a command: cells, results.json, tables, report."""

import pathlib

from ml_collections import ConfigDict

from cmu_jax import files, jitting
from cmu_jax.class_unlearning import place as places
from cmu_jax.class_unlearning import results, show, sweep


def execute(
  config: ConfigDict, folder: pathlib.Path, minutes: float | None = None
) -> bool:
  """Runs or continues a run that forgets classes.

  Args:
    config: see `settings.base`.
    folder: where networks, cells, results and the report go.
    minutes: after which no further cell is begun; None for no limit.

  Returns:
    Whether it is finished.

  Raises:
    UserError: bad data or settings, a full disk, too little memory.
  """
  with jitting.hasty(config.smoke):
    place = places.load(config, folder)
    found = sweep.run(sweep.begin(place, minutes))
    files.write_json(folder / 'results.json', results.collect(place, found))
    print(f'report: {show.show(folder)}')
  return found.done
