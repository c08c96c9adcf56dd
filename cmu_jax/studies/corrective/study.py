"""The benchmark of corrective unlearning: phases, trials and results."""

import functools
import time
from collections.abc import Sequence

import jax

from cmu_jax.core import rng
from cmu_jax.core.types import Info
from cmu_jax.studies.corrective import (
  benchmark,
  importances,
  measure,
  references,
  report,
  roster,
  settings,
  solve,
  trials,
)
from cmu_jax.studies.corrective.benchmark import Benchmark
from cmu_jax.studies.corrective.trials import Case, Trial
from cmu_jax.studies.engine import recipes
from cmu_jax.studies.engine.store import NETWORKS
from cmu_jax.studies.engine.study import Cell, Context, Note, Phase, Plan, Study

# Of the original network, which costs nothing.
_IDLE = {
  'information': 'nothing: the model as shipped',
  'hyper': {},
  'hyper_points': 1,
  'diverged': False,
  'gradient_evaluations': 0,
  'grid_gradient_evaluations': 0,
  'seconds': 0.0,
  'grid_seconds': 0.0,
}


def _make_start(context: Context[Benchmark], case: Case) -> solve.Start:
  return solve.make_start(
    context.world.worlds[case.manipulation],
    references.add_expectations(context, case),
    benchmark.get_original(context, case),
    context.config.evaluate.batch_size,
  )


def solve_trial(context: Context[Benchmark], trial: Trial) -> Info:
  """Computes the record of a trial: every point of the grid of its method."""
  case, name = trial.case, trial.method
  method = context.world.methods[case.manipulation, name]
  start = context.recent('start', case, lambda: _make_start(context, case))
  values = importances.measure_or_read(context, trial)
  began = time.monotonic()
  points, histogram = solve.solve_grid(
    rng.fold_in(start.scene.key, 'method', name),
    method,
    start,
    trial.fraction,
    values,
  )
  seconds = time.monotonic() - began
  # A repair pays for its importances, whichever cell measured them.
  seconds += 0.0 if values is None else float(values.seconds)
  return {
    'case': case._asdict(),
    'train_size': int(start.scene.problem.truth.size),
    # At fraction 1: doing nothing has one row for all fractions.
    'before': measure.compute_measures(
      start.shared, start.scene, start.predicted, start.predicted, 1.0
    ),
    'identified_fraction': trial.fraction,
    'method': name,
    'information': roster.information(method),
    'points': points,
    # Figure 3 of the paper is of SSD.
    'importance': histogram if name == 'ssd' else None,
    'seconds': round(seconds, 3),
    'device': jax.devices()[0].device_kind,
  }


def _original_cell(context: Context[Benchmark], case: Case) -> Cell:
  address = benchmark.case_address(context, case)
  train = functools.partial(benchmark.train_original, context, case)
  size = context.world.worlds[case.manipulation].dataset.train.label.size
  images = recipes.count_images(context.config.train, size, 'train')
  return Cell(case, address, train, NETWORKS, images)


def _trial_cell(context: Context[Benchmark], trial: Trial) -> Cell:
  address = trials.trial_address(context.config, context.world.digest, trial)
  return Cell(trial, address, functools.partial(solve_trial, context, trial))


def plan(context: Context[Benchmark]) -> Plan:
  """Trains the long trainings first; then each trial tries its grid."""
  config = context.config
  cells = [_trial_cell(context, trial) for trial in trials.list_trials(config)]
  # No process computes before all have begun the first phase: they agree.
  absent = [
    cell.item
    for cell in cells
    if context.store.read_record(cell.address) is None
  ]
  # A finished problem does not need its original network any more.
  cases = list(dict.fromkeys(trial.case for trial in absent))
  yield Phase('originals', [_original_cell(context, case) for case in cases])
  if config.audit and config.references:
    groups = [c for case in cases for c in references.list_cells(context, case)]
    yield Phase('references', groups)
  yield Phase('importances', importances.list_cells(context, absent))
  records = yield Phase('methods', cells, is_covered=True)
  return _format_results(context, records)


def _format_results(
  context: Context[Benchmark], records: Sequence[tuple[Trial, Info]]
) -> Info:
  worlds, methods = context.world.worlds, context.world.methods
  rows: list[Info] = []
  problems: dict[tuple[str, int], Info] = {}
  cases: set[Case] = set()
  for trial, record in records:
    case = trial.case
    if case not in cases:
      cases.add(case)
      rows += _format_idle(case, record['before'])
    # Without the seed: all seeds have the same facts.
    problems[case[:2]] = _describe_problem(context, case, record['train_size'])
    method = methods[case.manipulation, trial.method]
    rows += _format_rows(trial, record, method.elementwise)
  # Manipulations share the dataset, hence its class names.
  return {
    'class_names': list(next(iter(worlds.values())).dataset.class_names),
    'problems': list(problems.values()),
    'rows': rows,
    'points': [
      {**_name_cell(*trial), **point}
      for trial, record in records
      for point in record['points']
    ],
    'importance': [
      {**_name_cell(*trial), **record['importance']}
      for trial, record in records
      if record.get('importance') is not None
    ],
  }


def _name_cell(case: Case, fraction: float | None, method: str) -> Info:
  return {
    'manipulation': case.manipulation,
    'manipulation_size': case.size,
    'seed': case.seed,
    'identified_fraction': fraction,
    'method': method,
  }


def _format_rows(trial: Trial, record: Info, prepared: bool) -> list[Info]:
  """Formats one row for each selection rule.

  Args:
    trial: the trial.
    record: its record.
    prepared: whether all gradients go into what the points share, which a grid
      pays for once.
  """
  points = record['points']
  costs = [point['gradient_evaluations'] for point in points]
  spent = [cost for cost in costs if cost is not None]
  retain = record['before']['acc_retain']
  choices = measure.choose_paper(points), measure.choose_oracle(points, retain)
  return [
    {
      **_name_cell(*trial),
      'information': record['information'],
      'selection': rule,
      'hyper_points': len(points),
      # If all points diverged, they are alike.
      **points[choice or 0],
      'grid_gradient_evaluations': (
        max(spent, default=0) if prepared else sum(spent)
      ),
      'grid_seconds': record['seconds'],
    }
    for rule, choice in zip(measure.RULES, choices, strict=True)
  ]


def _format_idle(case: Case, values: Info) -> list[Info]:
  """Formats the rows of the original network, without any repair."""
  cell = _name_cell(case, None, 'none')
  return [
    {**cell, 'selection': rule, **_IDLE, **values} for rule in measure.RULES
  ]


def _describe_problem(
  context: Context[Benchmark], case: Case, train_size: int
) -> Info:
  shared = context.world.worlds[case.manipulation]
  return {
    'manipulation': case.manipulation,
    'manipulation_size': case.size,
    'pair': None if shared.pair is None else list(shared.pair),
    'target': shared.target,
    'train_size': train_size,
    'manipulated_share': case.size / train_size,
    'validation': context.config.validation,
  }


def note(trial: Trial, record: Info) -> Note:
  """Shows Acc_corr of the chosen point."""
  points = record['points']
  choice = measure.choose_paper(points)
  names = {'manipulation': trial.case.manipulation, 'method': trial.method}
  value = None if choice is None else points[choice]['acc_corr']
  return Note(names, f'{trial.fraction:g}', value)


STUDY = Study(
  task='corrective',
  check=settings.check,
  load=benchmark.load,
  plan=plan,
  note=note,
  measured='Acc_corr',
  report=report.REPORT,
)
