"""The study of random forget sets: phases, choices and results.

Hyperparameters are chosen on forget sets of their own, of the first network,
and reported on the other forget sets.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmu_jax.core.types import Info
from cmu_jax.studies.engine import catalogue, gaps, grids, pool, references
from cmu_jax.studies.engine.grids import Points
from cmu_jax.studies.engine.pool import World
from cmu_jax.studies.engine.study import Context, Note, Phase, Plan, Study
from cmu_jax.studies.subsets import report, requests, settings, trials
from cmu_jax.studies.subsets import world as worlds
from cmu_jax.studies.subsets.trials import SubsetTrial

# The gold standard: in every run, whatever config.methods says.
RETRAIN = 'retrain'
Hypers = dict[str, dict[str, float]]
Rows = dict[SubsetTrial, list[Info]]


def _tuning_pairs(config: Any) -> list[tuple[int, int]]:
  # On a single network, because grids take most of the time.
  return [(config.seeds[0], seed) for seed in config.tuning_seeds]


def _reported_pairs(config: Any) -> list[tuple[int, int]]:
  """Lists (seed of the network, seed of the forget set)."""
  return [(s, f) for s in config.seeds for f in config.forget_seeds]


def _list_reported(config: Any, methods: Sequence[str]) -> list[SubsetTrial]:
  """Lists the trials of the results, in their order."""
  # Retraining and doing nothing do not depend on the repetition.
  runs = {
    name: 1 if name in (grids.NONE, RETRAIN) else config.runs
    for name in methods
  }
  return [
    SubsetTrial(*pair, method, run)
    for pair in _reported_pairs(config)
    for method in methods
    for run in range(runs[method])
  ]


def _collect(records: Sequence[tuple[SubsetTrial, Info]]) -> Rows:
  return {trial: record['rows'] for trial, record in records}


def _retraining_phase(context: Context[World]) -> Phase:
  """Builds the phase of retrained networks, which all choices compare with."""
  config = context.config
  pairs = (*_tuning_pairs(config), *_reported_pairs(config))
  cells = [
    trials.trial_cell(context, SubsetTrial(*pair, RETRAIN, 0), ({},))
    for pair in pairs
  ]
  return Phase('retraining', cells)


def _tuning_trials(config: Any, method: str) -> list[SubsetTrial]:
  return [SubsetTrial(*pair, method, 0) for pair in _tuning_pairs(config)]


def _choosing_phase(
  context: Context[World], points: Mapping[str, Points]
) -> Phase:
  """Builds the phase that tries the whole grid of each method."""
  cells = [
    trials.trial_cell(context, trial, grid)
    for method, grid in points.items()
    if len(grid) > 1
    for trial in _tuning_trials(context.config, method)
  ]
  return Phase('choosing', cells)


def _choose(
  context: Context[World],
  points: Mapping[str, Points],
  retrained: Rows,
  tuning: Rows,
) -> Hypers:
  """Chooses the point of each method with the least gap to retraining."""
  config = context.config
  ideal = [
    row
    for trial in _tuning_trials(config, RETRAIN)
    for row in retrained.get(trial, ())
  ]
  rows = {
    method: [
      tuning[trial]
      for trial in _tuning_trials(config, method)
      if trial in tuning
    ]
    for method in points
  }
  count = len(config.tuning_seeds)
  # Without every retrained network a choice could still change.
  is_final = len(ideal) == count
  choosable = {
    name: grid for name, grid in points.items() if is_final or len(grid) == 1
  }
  choose = lambda by_point: gaps.choose_point(by_point, ideal, config.attack)
  return grids.choose_points(choosable, rows, count, choose)


def _count_later(
  context: Context[World], points: Mapping[str, Points]
) -> dict[str, float]:
  """Counts the images of the phases, those of the requests aside.

  A method is reported at one point, whichever is chosen.
  """
  config = context.config
  pairs = len(_tuning_pairs(config)) + len(_reported_pairs(config))
  grids_of = {name: len(grid) for name, grid in points.items()}
  count = functools.partial(trials.count_images, context)
  return {
    'originals': len(config.seeds) * pool.count_training(context),
    'retraining': pairs * count(RETRAIN, 1),
    'choosing': len(config.tuning_seeds)
    * math.fsum(
      count(name, size) for name, size in grids_of.items() if size > 1
    ),
    'methods': math.fsum(
      count(trial.method, 1)
      for trial in _list_reported(config, list(points))
      if trial.method != RETRAIN
    ),
  }


def _sum_after(images: Mapping[str, float], title: str) -> float:
  """Sums the images of the phases after one of them."""
  return math.fsum(list(images.values())[list(images).index(title) + 1 :])


def plan(context: Context[World]) -> Plan:
  """Trains the long trainings first, then chooses, then reports."""
  config = context.config
  points = {
    method: grids.list_points(context.world.methods, method)
    for method in dict.fromkeys((grids.NONE, RETRAIN, *config.methods))
  }
  images = _count_later(context, points)
  later = functools.partial(_sum_after, images)
  # Every row compares with the references, so they come before all else.
  if config.references:
    job = trials.reference_job(context)
    yield references.shadow_phase(
      'references', [job], math.fsum(images.values())
    )
  yield pool.originals_phase(context, later('originals'))
  phase = _retraining_phase(context)
  retrained = _collect((yield phase._replace(later=later('retraining'))))
  phase = _choosing_phase(context, points)
  tuning = _collect((yield phase._replace(later=later('choosing'))))
  hypers = _choose(context, points, retrained, tuning)
  # A method without a choice has no cells yet: the run is unfinished anyway.
  reported = _list_reported(config, list(hypers))
  cells = [
    trials.trial_cell(context, trial, (hypers[trial.method],))
    for trial in reported
    if trial.method != RETRAIN  # its phase is over
  ]
  # Only requests follow.
  phase = Phase('methods', cells, is_covered=not config.requests)
  rows = retrained | _collect((yield phase))
  cells = requests.list_cells(context, hypers)
  phase = Phase('requests', cells, is_covered=True)
  sequences = _collect((yield phase))

  def format_rows(records: Rows) -> list[Info]:
    pairs = (
      (t, row) for t, trial_rows in records.items() for row in trial_rows
    )
    return pool.format_rows(context.world, pairs)

  return {
    **_describe_data(context),
    'methods': pool.describe_methods(hypers, catalogue.ENTRIES),
    'rows': format_rows({t: rows[t] for t in reported if t in rows}),
    'requests': format_rows(sequences),
    'tuning': format_rows(tuning),
  }


def _describe_data(context: Context[World]) -> Info:
  dataset = context.world.dataset
  size = int(dataset.train.label.shape[0])
  return {
    'class_names': list(dataset.class_names),
    'train_size': size,
    'test_size': int(dataset.test.label.shape[0]),
    'forget_size': worlds.forget_count(context.config, size),
  }


def note(item: Any, record: Info) -> Note:
  """Shows the accuracy on the forget set, a mean over the points of a grid."""
  rows = record['rows']
  values = [r['forget_accuracy'] for r in rows if not r['diverged']]
  # Requests have the trials of methods, but smaller forget sets.
  suffix = ', requests' if 'request' in rows[0] else ''
  return Note(
    {'method': f'{item.method}{suffix}'},
    f'forget set {item.forget_seed}',
    float(np.mean(values)) if values else None,
  )


STUDY = Study(
  task='forgetting',
  check=settings.check,
  load=worlds.load,
  plan=plan,
  note=note,
  measured='Accuracy on the forget set',
  report=report.REPORT,
)
