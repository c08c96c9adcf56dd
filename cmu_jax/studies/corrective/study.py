"""The benchmark of corrective unlearning: phases, trials and results."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax

from cmu_jax.core import rng
from cmu_jax.core.types import Info, Variables
from cmu_jax.studies.corrective import (
  benchmark,
  importances,
  measure,
  references,
  report,
  roster,
  selection,
  settings,
  solve,
  trials,
)
from cmu_jax.studies.corrective.benchmark import Benchmark
from cmu_jax.studies.corrective.measure import Look
from cmu_jax.studies.corrective.trials import Case, Trial
from cmu_jax.studies.corrective.world import Scene
from cmu_jax.studies.engine.store import NETWORKS
from cmu_jax.studies.engine.study import Cell, Context, Note, Phase, Plan, Study

_SHARED = ('manipulation', 'manipulation_size', 'seed', 'identified_fraction')


class Start(NamedTuple):
  """A problem with its original network, which all its trials start from.

  Attributes:
    scene: the problem, with the references of an audit.
    original: the network as trained on S_tr.
    before: predictions of the original network.
  """

  scene: Scene
  original: Variables
  before: Look


def _make_start(context: Context[Benchmark], case: Case) -> Start:
  shared = context.world.worlds[case.manipulation]
  scene = references.add_expectations(context, case)
  original = benchmark.get_original(context, case)
  size = context.config.evaluate.batch_size
  images = measure.select_images(shared, scene)
  return Start(scene, original, solve.predict(shared, images, original, size))


def trial_address(context: Context[Benchmark], trial: Trial) -> str:
  """Computes the address of a trial."""
  return trials.trial_address(context.config, context.world.digest, trial)


def solve_trial(context: Context[Benchmark], trial: Trial) -> Info:
  """Computes the record of a trial: every point of the grid of its method."""
  case, name = trial.case, trial.method
  shared = context.world.worlds[case.manipulation]
  method = context.world.methods[case.manipulation, name]
  start = context.recent('start', case, lambda: _make_start(context, case))
  values = importances.measure_or_read(context, trial)
  began = time.monotonic()
  points, histogram = solve.solve_grid(
    rng.fold_in(start.scene.key, 'method', name),
    method,
    shared,
    start.scene,
    start.original,
    start.before,
    trial.fraction,
    context.config.evaluate.batch_size,
    values,
  )
  seconds = time.monotonic() - began
  # A repair pays for its importances, whichever cell measured them.
  seconds += 0.0 if values is None else float(values.seconds)
  return {
    'case': case._asdict(),
    'train_size': int(start.scene.problem.truth.size),
    'before': measure.compute_measures(
      shared, start.scene, start.before, start.before, 1.0
    ),
    'identified_fraction': trial.fraction,
    'method': name,
    'information': roster.information(method),
    'points': points,
    'importance': histogram if name == 'ssd' else None,
    'seconds': round(seconds, 3),
    'device': jax.devices()[0].device_kind,
  }


def _original_cell(context: Context[Benchmark], case: Case) -> Cell:
  return Cell(
    case,
    benchmark.case_address(context, case),
    lambda: benchmark.train_original(context, case),
    NETWORKS,
  )


def _trial_cell(context: Context[Benchmark], trial: Trial) -> Cell:
  address = trial_address(context, trial)
  return Cell(trial, address, lambda: solve_trial(context, trial))


def plan(context: Context[Benchmark]) -> Plan:
  """Trains the long trainings first; then each trial tries its grid."""
  config, items = context.config, trials.list_trials(context.config)
  # No process computes before all have begun the first phase: they agree.
  absent = [
    trial
    for trial in items
    if context.store.read_record(trial_address(context, trial)) is None
  ]
  # A finished problem does not need its original network any more.
  cases = list(dict.fromkeys(trial.case for trial in absent))
  yield Phase('originals', [_original_cell(context, case) for case in cases])
  if config.audit and config.references:
    cells = [c for case in cases for c in references.list_cells(context, case)]
    yield Phase('references', cells)
  yield Phase('importances', importances.list_cells(context, absent))
  records = yield Phase('methods', [_trial_cell(context, t) for t in items])
  return _format_results(context, records)


def _format_results(
  context: Context[Benchmark], records: Sequence[tuple[Trial, Info]]
) -> Info:
  worlds, methods = context.world.worlds, context.world.methods
  rows: list[Info] = []
  problems: dict[tuple[str, int], Info] = {}
  seen: set[Case] = set()
  for trial, record in records:
    case = trial.case
    if case not in seen:
      seen.add(case)
      rows += _idle_rows(case, record['before'])
    problems[case[:2]] = _describe_problem(context, case, record['train_size'])
    method = methods[case.manipulation, trial.method]
    rows += _format_rows(trial, record, method.elementwise)
  return {
    'class_names': list(next(iter(worlds.values())).dataset.class_names),
    'problems': list(problems.values()),
    'rows': rows,
    'points': [
      {**_name_trial(trial), **point}
      for trial, record in records
      for point in record['points']
    ],
    'importance': [
      {**_name_trial(trial), **record['importance']}
      for trial, record in records
      if record.get('importance') is not None
    ],
  }


def _name_row(case: Case, fraction: float | None, method: str) -> Info:
  values = (case.manipulation, case.size, case.seed, fraction)
  return {**dict(zip(_SHARED, values, strict=True)), 'method': method}


def _name_trial(trial: Trial) -> Info:
  return _name_row(trial.case, trial.fraction, trial.method)


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
  rows = []
  for rule in selection.RULES:
    best = selection.choose(rule, points, record['before']['acc_retain'])
    rows.append(
      {
        **_name_trial(trial),
        'information': record['information'],
        'selection': rule,
        'hyper_points': len(points),
        **points[0 if best is None else best],
        'grid_gradient_evaluations': (
          max(spent, default=0) if prepared else sum(spent)
        ),
        'grid_seconds': record['seconds'],
      }
    )
  return rows


def _idle_rows(case: Case, values: Info) -> list[Info]:
  """Formats the rows of the original network, without any repair."""
  costs = {
    'information': 'nothing: the model as shipped',
    'hyper': {},
    'hyper_points': 1,
    'diverged': False,
    'gradient_evaluations': 0,
    'grid_gradient_evaluations': 0,
    'seconds': 0.0,
    'grid_seconds': 0.0,
  }
  return [
    {**_name_row(case, None, 'none'), 'selection': rule, **costs, **values}
    for rule in selection.RULES
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
  best = selection.paper(points)
  names = {'manipulation': trial.case.manipulation, 'method': trial.method}
  value = None if best is None else points[best]['acc_corr']
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
