"""What `main` calls for an audit, config to results."""

import pathlib

from ml_collections import ConfigDict

from cmu_jax.core.types import Info
from cmu_jax.studies.membership import results, sweep, world


def run(
  config: ConfigDict, folder: pathlib.Path, minutes: float | None = None
) -> Info:
  """Runs or continues an audit.

  Args:
    config: see `settings.base`.
    folder: where networks' statistics go.
    minutes: after which no further method is begun; None for no limit.

  Returns:
    What results.json holds, as far as the run came.

  Raises:
    UserError: bad data or settings, a full disk, too little memory.
  """
  place = world.load(config, folder)
  found, done = sweep.run(place, minutes)
  return results.collect(place, found, done)
