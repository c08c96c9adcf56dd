"""What `main` calls for a run on negation, config to results."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from cmu_jax.core import provenance
from cmu_jax.core.types import Info
from cmu_jax.studies.negation import sweep, world
from cmu_jax.studies.negation.world import Place


def collect(place: Place, found: sweep.Found) -> Info:
  """What results.json holds."""
  config: Any = place.config
  return {
    **provenance.results_header(config, found.done),
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


def run(
  config: ConfigDict, folder: pathlib.Path, minutes: float | None = None
) -> Info:
  """Runs or continues a run on negation.

  Args:
    config: see `settings.base`.
    folder: where fine-tunings and cells go.
    minutes: after which no further cell is begun; None for no limit.

  Returns:
    What results.json holds, as far as the run came.

  Raises:
    UserError: bad data or settings, a full disk, too little memory.
  """
  place = world.load(config, folder)
  return collect(place, sweep.run(place, minutes))
