"""What `main` calls for a run on ensembles, config to results."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from cmu_jax.core import provenance
from cmu_jax.core.types import Info
from cmu_jax.studies.ensembles import sweep, world
from cmu_jax.studies.ensembles.world import Place


def collect(place: Place, found: sweep.Found) -> Info:
  """What results.json holds.

  Args:
    place: of the run.
    found: as far as it came.
  """
  config: Any = place.config
  return {
    **provenance.results_header(config, found.done),
    'class_names': list(place.dataset.class_names),
    'train_size': int(place.dataset.train.label.shape[0]),
    'test_size': int(place.dataset.test.label.shape[0]),
    'rows': found.rows,
    'curves': found.curves,
  }


def run(
  config: ConfigDict, folder: pathlib.Path, minutes: float | None = None
) -> Info:
  """Runs or continues a run on ensembles.

  Args:
    config: see `settings.base`.
    folder: where trainings and cells go.
    minutes: after which no further cell is begun; None for no limit.

  Returns:
    What results.json holds, as far as the run came.

  Raises:
    UserError: bad data or settings, a full disk, too little memory.
  """
  place = world.load(config, folder)
  return collect(place, sweep.run(place, minutes))
