"""Rows of results.json, from the records of the cells."""

from cmu_jax.core.types import Info
from cmu_jax.studies.corrective import selection
from cmu_jax.studies.corrective.cells import Case, Cell
from cmu_jax.studies.corrective.stage import Benchmark
from cmu_jax.studies.engine.study import Context

_SHARED = ('manipulation', 'manipulation_size', 'seed', 'identified_fraction')


def _where(case: Case, fraction: float | None, method: str) -> Info:
  values = (case.manipulation, case.size, case.seed, fraction)
  return {**dict(zip(_SHARED, values, strict=True)), 'method': method}


def _rows(
  case: Case, record: Info, retain: float | None, prepared: bool
) -> list[Info]:
  """One row a selection rule.

  Args:
    case: the problem.
    record: of the cell.
    retain: Acc_retain of the original network.
    prepared: whether all gradients go into what the points share, which a grid
      pays for once.
  """
  points = record['points']
  cost = [point['gradient_evaluations'] for point in points]
  spent = [c for c in cost if c is not None]
  rows = []
  for rule in selection.RULES:
    best = selection.choose(rule, points, retain)
    rows.append(
      {
        **_where(case, record['identified_fraction'], record['method']),
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


def _none(case: Case, values: Info) -> list[Info]:
  """The original network, which nobody repaired."""
  nothing = {
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
    {**_where(case, None, 'none'), 'selection': rule, **nothing, **values}
    for rule in selection.RULES
  ]


def _problem(context: Context[Benchmark], case: Case, train_size: int) -> Info:
  bound = context.world.worlds[case.manipulation]
  return {
    'manipulation': case.manipulation,
    'manipulation_size': case.size,
    'pair': None if bound.pair is None else list(bound.pair),
    'target': bound.target,
    'train_size': train_size,
    'manipulated_share': case.size / train_size,
    'validation': context.config.validation,
  }


def _histogram(record: Info) -> list[Info]:
  """Importance ratios, where a method keeps them."""
  kept = record.get('importance')
  if kept is None:
    return []
  case = Case(**record['case'])
  named = _where(case, record['identified_fraction'], record['method'])
  return [{**named, **kept}]


def collect(
  context: Context[Benchmark], records: list[tuple[Cell, Info]]
) -> Info:
  """Collects what results.json holds besides its header.

  Args:
    context: of the run.
    records: cells and their records, as far as the run came.
  """
  parts: dict[str, list[Info]] = {'rows': [], 'points': [], 'importance': []}
  problems: dict[tuple, Info] = {}
  cases: set[Case] = set()
  for cell, record in records:
    case = cell.case
    if case not in cases:
      cases.add(case)
      parts['rows'] += _none(case, record['before'])
    problems[case[:2]] = _problem(context, case, record['train_size'])
    retain = record['before']['acc_retain']
    method = context.world.methods[case.manipulation, cell.method]
    parts['rows'] += _rows(case, record, retain, method.elementwise)
    names = _where(case, cell.fraction, cell.method)
    parts['points'] += [{**names, **point} for point in record['points']]
    parts['importance'] += _histogram(record)
  bound = next(iter(context.world.worlds.values()))
  return {
    'class_names': list(bound.dataset.class_names),
    'problems': list(problems.values()),
    **parts,
  }
