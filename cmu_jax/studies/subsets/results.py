"""results.json of a run, put together from what its cells found."""

from typing import Any

from cmu_jax.core import provenance
from cmu_jax.core.types import Info
from cmu_jax.studies.engine import catalogue
from cmu_jax.studies.subsets import world
from cmu_jax.studies.subsets.addresses import Cell
from cmu_jax.studies.subsets.sweep import Found
from cmu_jax.studies.subsets.world import Place


def _row(place: Place, cell: Cell, row: Info) -> Info:
  seen = 'nothing: the model as shipped'
  name = cell.method.removesuffix('_adaptive')
  if name in place.methods:
    seen = catalogue.information(name, place.methods[name])
  return {
    'method': cell.method,
    'information': seen,
    'seed': cell.seed,
    'forget_seed': cell.forget_seed,
    'run': cell.run,
    **row,
  }


def collect(
  place: Place, found: Found, requests: list[tuple[Cell, Info]]
) -> Info:
  """What results.json holds.

  Args:
    place: of the run.
    found: as far as it came.
    requests: (cell, row) of requests that came one after another.
  """
  config: Any = place.config
  size = int(place.dataset.train.label.shape[0])
  return {
    **provenance.results_header(config, found.done),
    'class_names': list(place.dataset.class_names),
    'train_size': size,
    'test_size': int(place.dataset.test.label.shape[0]),
    'forget_size': world.count(config, size),
    'methods': {
      name: {'says': catalogue.says(name), 'hyper': found.chosen[name]}
      for name in found.chosen
    },
    'rows': [_row(place, *each) for each in found.rows],
    'requests': [_row(place, *each) for each in requests],
    'tuning': [
      _row(place, cell, row) for cell, rows in found.tuning for row in rows
    ],
  }
