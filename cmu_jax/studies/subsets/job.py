"""What `main` calls for a run on random forget sets, config to results."""

import pathlib

from ml_collections import ConfigDict

from cmu_jax.core.types import Info
from cmu_jax.studies.subsets import requests, results, sweep, world


def run(
  config: ConfigDict, folder: pathlib.Path, minutes: float | None = None
) -> Info:
  """Runs or continues a run on random forget sets.

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
  begun = sweep.begin(place, minutes)
  found = sweep.run(begun)
  rows, whole = requests.requests(begun, found.chosen)
  done = found._replace(done=found.done and whole)
  return results.collect(place, done, rows)
