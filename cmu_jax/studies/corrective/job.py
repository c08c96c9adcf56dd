"""What `main` calls for a sweep of the benchmark, config to results."""

import pathlib

from ml_collections import ConfigDict

from cmu_jax.core.types import Info
from cmu_jax.studies.corrective import results, stage, sweep


def run(
  config: ConfigDict, folder: pathlib.Path, minutes: float | None = None
) -> Info:
  """Runs or continues a sweep of the benchmark.

  Args:
    config: see `settings.base`.
    folder: where originals and cells go.
    minutes: after which no further cell is begun; None for no limit.

  Returns:
    What results.json holds, as far as the run came.

  Raises:
    UserError: bad data or settings, a full disk, too little memory.
  """
  place = stage.load(config, folder)
  done = sweep.run(place, minutes)
  return results.collect(place, done)
