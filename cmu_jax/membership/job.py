"""An audit as a command: networks, scores, results.json, tables, report."""

import pathlib

from ml_collections import ConfigDict

from cmu_jax import files, jitting
from cmu_jax.membership import place as places
from cmu_jax.membership import results, show, sweep


def execute(
  config: ConfigDict, folder: pathlib.Path, minutes: float | None = None
) -> bool:
  """Runs or continues an audit.

  Args:
    config: see `settings.base`.
    folder: where networks' statistics, results and the report go.
    minutes: after which no further method is begun; None for no limit.

  Returns:
    Whether it is finished.

  Raises:
    UserError: bad data or settings, a full disk, too little memory.
  """
  with jitting.hasty(config.smoke):
    place = places.load(config, folder)
    found, done = sweep.run(place, minutes)
    files.write_json(
      folder / 'results.json', results.collect(place, found, done)
    )
    print(f'report: {show.show(folder)}')
  return done
