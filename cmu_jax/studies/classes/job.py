"""What `main` calls for a run that forgets classes, config to results."""

import pathlib

from ml_collections import ConfigDict

from cmu_jax.core.types import Info
from cmu_jax.studies.classes import results, sweep, world


def run(
  config: ConfigDict, folder: pathlib.Path, minutes: float | None = None
) -> Info:
  """Runs or continues a run that forgets classes.

  Args:
    config: see `settings.base`.
    folder: where networks and cells go.
    minutes: after which no further cell is begun; None for no limit.

  Returns:
    What results.json holds, as far as the run came.

  Raises:
    UserError: bad data or settings, a full disk, too little memory.
  """
  place = world.load(config, folder)
  found = sweep.run(sweep.begin(place, minutes))
  return results.collect(place, found)
