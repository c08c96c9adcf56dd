"""The study of forgotten classes: phases, choices and results.

Hyperparameters are chosen on classes of their own and on validation images.
Every number is compared with networks that were retrained without the class.
"""

import functools
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from cmu_jax.core.types import Info
from cmu_jax.studies.classes import (
  measure,
  report,
  retrained,
  settings,
  shadows,
  trials,
)
from cmu_jax.studies.classes import world as worlds
from cmu_jax.studies.classes.shadows import ShadowStatistics
from cmu_jax.studies.classes.trials import RETRAIN, ClassTrial
from cmu_jax.studies.engine import grids, pool, references
from cmu_jax.studies.engine.grids import Points
from cmu_jax.studies.engine.pool import World
from cmu_jax.studies.engine.study import Cell, Context, Note, Phase, Plan, Study

_TRW = 'trw'
Hypers = dict[str, dict[str, float]]
Rows = list[tuple[ClassTrial, Info]]


def _trial_cell(
  context: Context[World],
  trial: ClassTrial,
  points: Points,
  validation: bool = False,
  with_statistics: bool = True,
) -> Cell:
  """Builds the cell of a trial; `validation` selects the unseen images."""

  def solve() -> list[Info]:
    reference = retrained.get_reference(context, trial.forget_class, validation)
    return trials.solve_trial(
      context, trial, points, reference, with_statistics
    )

  return pool.trial_cell(
    trial,
    trials.trial_address(context, trial, points),
    solve,
    trials.count_images(context, trial.method, len(points)),
  )


def _list_rows(records: Sequence[tuple[Any, Info]]) -> Rows:
  """Lists trial and row of every record; each row has its class."""
  return [
    (trial, {**row, 'forget_class': trial.forget_class})
    for trial, record in records
    for row in record['rows']
  ]


def _retrained_rows(
  context: Context[World], forget_class: int, validation: bool
) -> Rows:
  outputs = retrained.read_outputs(context, forget_class)
  reference = retrained.get_reference(context, forget_class, validation)
  return list(retrained.list_rows(context, outputs, reference))


def _retraining_phase(context: Context[World]) -> Phase:
  config = context.config
  classes = (*config.tuning_classes, *config.forget_classes)
  cells = [
    c for number in classes for c in retrained.list_cells(context, number)
  ]
  return Phase('retraining', cells)


def _choosing_phase(
  context: Context[World], points: Mapping[str, Points]
) -> Phase:
  """Builds the phase that tries the whole grid of each method."""
  config = context.config
  cells = [
    _trial_cell(
      context,
      ClassTrial(config.seeds[0], number, method),
      grid,
      validation=True,
      with_statistics=False,
    )
    for method, grid in points.items()
    # A single point is no choice.
    if len(grid) > 1
    for number in config.tuning_classes
  ]
  return Phase('choosing', cells)


def _choose(
  context: Context[World], points: Mapping[str, Points]
) -> Generator[Phase, Any, tuple[Hypers, Rows]]:
  """Chooses the points of all methods; none before the retrained networks."""
  classes = context.config.tuning_classes
  # Every choice compares with retrained networks of all tuning classes.
  if not all(retrained.is_trained(context, number) for number in classes):
    return {}, []
  records = yield _choosing_phase(context, points)
  tuning = _list_rows(records)
  ideal = [
    row
    for number in classes
    # Test images have no part in a choice.
    for _, row in _retrained_rows(context, number, validation=True)
  ]
  by_method: dict[str, list[list[Info]]] = {}
  for trial, record in records:
    rows = [row for _, row in _list_rows([(trial, record)])]
    by_method.setdefault(trial.method, []).append(rows)
  choose = lambda by_point: retrained.choose_point(by_point, ideal)
  hypers = grids.choose_points(points, by_method, len(classes), choose)
  return hypers, tuning


def _methods_phase(
  context: Context[World], classes: Sequence[int], hypers: Hypers
) -> Phase:
  cells = [
    _trial_cell(context, ClassTrial(seed, number, method), (hyper,))
    for number in classes
    for seed in context.config.seeds
    for method, hyper in hypers.items()
  ]
  return Phase('methods', cells)


def _noise_points(config: Any, hyper: dict[str, float]) -> Points:
  """Lists noisy similarities for TRW, at its chosen beta and the paper's."""
  return tuple(
    {**hyper, 'beta': float(beta), 'noise': float(noise)}
    # Once, if the paper's was chosen.
    for beta in dict.fromkeys((hyper['beta'], config.betas[0]))
    for noise in (0.0, *config.noises)
  )


def _noise_phase(
  context: Context[World], classes: Sequence[int], hypers: Hypers
) -> Phase:
  config = context.config
  if not config.noises or _TRW not in hypers:
    return Phase('noise', [])
  points = _noise_points(config, hypers[_TRW])
  cells = [
    # U-LiRA does not look at noisy similarities.
    _trial_cell(
      context, ClassTrial(seed, number, _TRW), points, with_statistics=False
    )
    for number in classes
    for seed in config.seeds
  ]
  return Phase('noise', cells)


def _run_shadows(
  context: Context[World], classes: Sequence[int], hypers: Hypers
) -> Generator[Phase, Any, dict[int, ShadowStatistics]]:
  """Trains shadow models, and has them forget; class -> statistics."""
  config = context.config
  if not config.shadows:
    return {}
  # All trainings come before the methods, because they use all devices.
  jobs = [shadows.retrained_job(context, c) for c in config.forget_classes]
  jobs = [shadows.original_job(context), *jobs]
  yield references.shadow_phase('shadow models', jobs)
  cells = [
    cell
    for number in classes
    for cell in shadows.list_cells(context, number, hypers)
  ]
  rows: dict[int, dict[str, list[Info]]] = {
    number: {name: [] for name in hypers if name != grids.NONE}
    for number in classes
  }
  # A method with absent rows makes the statistics of its class incomplete.
  for trial, record in (yield Phase('shadow unlearning', cells)):
    rows[trial.forget_class][trial.method] += record['rows']
  statistics = {
    number: shadows.collect_statistics(context, number, rows[number])
    for number in classes
  }
  return {c: values for c, values in statistics.items() if values is not None}


def _count_methods(
  context: Context[World], points: Mapping[str, Points]
) -> float:
  """Counts the images of choosing and of the methods, see `study.Phase`."""
  config = context.config
  tuned, reported = len(config.tuning_classes), len(config.forget_classes)
  count = functools.partial(trials.count_images, context)
  return math.fsum(
    tuned * count(name, len(grid)) * (len(grid) > 1)
    + reported * len(config.seeds) * count(name, 1)
    for name, grid in points.items()
  )


def plan(context: Context[World]) -> Plan:
  """Trains originals and retrained networks first, then chooses and reports."""
  config, methods = context.config, context.world.methods
  points = {
    name: grids.list_points(methods, name)
    for name in (grids.NONE, *config.methods)
  }
  # The longest trainings first: their cells may end late the most.
  methods_images = _count_methods(context, points)
  retraining = _retraining_phase(context)._replace(later=methods_images)
  networks = math.fsum(cell.images for cell in retraining.cells)
  yield pool.originals_phase(context, networks + methods_images)
  yield retraining
  # Chosen on other classes, so that reported numbers are no maximum.
  hypers, tuning = yield from _choose(context, points)
  # A class whose retrained networks are absent has nothing to compare with.
  classes = [
    number
    for number in config.forget_classes
    if retrained.is_trained(context, number)
  ]
  trial_rows = _list_rows((yield _methods_phase(context, classes, hypers)))
  noise = _list_rows((yield _noise_phase(context, classes, hypers)))
  statistics = yield from _run_shadows(context, classes, hypers)
  rows, ulira = [], []
  for number in classes:
    class_rows = [x for x in trial_rows if x[0].forget_class == number]
    rows += _retrained_rows(context, number, validation=False) + class_rows
    # Shadow models are more, hence better Gaussians, than the run's networks.
    values = statistics.get(number) or shadows.collect_own_statistics(
      context, number, class_rows
    )
    ulira += shadows.list_rows(number, values)
  # Retraining has no hyperparameters, and is in every run.
  all_hypers = {RETRAIN: {}, **hypers}
  names = (grids.NONE, RETRAIN, *config.methods)

  def format_rows(rows: Rows) -> list[Info]:
    # The statistics of U-LiRA are long, and summed up in `ulira`.
    short = [
      (trial, {k: v for k, v in row.items() if k != 'statistics'})
      for trial, row in rows
    ]
    return pool.format_rows(context.world, short)

  return {
    **_describe_data(context),
    'methods': pool.describe_methods(
      {name: all_hypers[name] for name in names if name in all_hypers},
      settings.entries(),
    ),
    'rows': format_rows(rows),
    'noise': format_rows(noise),
    'tuning': format_rows(tuning),
    'ulira': ulira,
  }


def _describe_data(context: Context[World]) -> Info:
  dataset = context.world.dataset
  label = np.asarray(dataset.test.label)
  return {
    'class_names': list(dataset.class_names),
    'train_size': int(dataset.train.label.shape[0]),
    'test_size': int(label.shape[0]),
    'unseen_images': {
      str(c): int((label == c).sum()) for c in context.config.forget_classes
    },
  }


def note(item: Any, record: Info) -> Note | None:
  """Shows the total variation, a mean over the points of a grid."""
  # A shadow model has statistics of U-LiRA alone.
  if measure.STATISTICS[0] in record['rows'][0]:
    return None
  values = [row['tv'] for row in record['rows'] if not row['diverged']]
  mean = float(np.mean(values)) if values else None
  return Note({'method': item.method}, f'class {item.forget_class}', mean)


STUDY = Study(
  task='class_unlearning',
  check=settings.check,
  load=worlds.load,
  plan=plan,
  note=note,
  measured='Total variation to retrained networks',
  report=report.REPORT,
)
