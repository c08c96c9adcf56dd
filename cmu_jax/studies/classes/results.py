"""results.json of a run, put together from what its cells found."""

from typing import Any

import numpy as np

from cmu_jax.core import provenance
from cmu_jax.core.types import Info
from cmu_jax.studies.classes import leakage, roster
from cmu_jax.studies.classes.addresses import Cell
from cmu_jax.studies.classes.sweep import Found
from cmu_jax.studies.engine import catalogue
from cmu_jax.studies.subsets.world import Place


def _row(place: Place, cell: Cell, row: Info) -> Info:
  seen = 'nothing: the model as shipped'
  if cell.method in place.methods:
    seen = catalogue.information(cell.method, place.methods[cell.method])
  kept = {name: x for name, x in row.items() if name != 'statistics'}
  return {
    'method': cell.method,
    'information': seen,
    'seed': cell.seed,
    **kept,
  }


def collect(place: Place, found: Found) -> Info:
  """What results.json holds.

  Args:
    place: of the run.
    found: as far as it came.
  """
  config: Any = place.config
  known = roster.entries()
  hypers: dict[str, dict[str, float]] = {'retrain': {}, **found.chosen}
  names = ['none', 'retrain', *config.methods]
  return {
    **provenance.results_header(config, found.done),
    'class_names': list(place.dataset.class_names),
    'train_size': int(place.dataset.train.label.shape[0]),
    'test_size': int(place.dataset.test.label.shape[0]),
    'unseen_images': {
      str(c): int((np.asarray(place.dataset.test.label) == c).sum())
      for c in config.forget_classes
    },
    'methods': {
      name: {'says': catalogue.says(name, known), 'hyper': hypers[name]}
      for name in names
      if name in hypers
    },
    'rows': [_row(place, *each) for each in found.rows],
    'noise': [_row(place, *each) for each in found.noise],
    'tuning': [_row(place, *each) for each in found.tuning],
    'ulira': leakage.rows(place, found),
  }
