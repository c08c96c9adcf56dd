"""results.json of a sweep, put together from its cells."""

from typing import Any

from cmu_jax.core import provenance, store
from cmu_jax.core.types import Info
from cmu_jax.studies.corrective import cells, selection
from cmu_jax.studies.corrective.cells import Case
from cmu_jax.studies.corrective.stage import Stage

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


def _problem(place: Stage, case: Case, train_size: int) -> Info:
  one = place.worlds[case.manipulation]
  return {
    'manipulation': case.manipulation,
    'manipulation_size': case.size,
    'pair': None if one.pair is None else list(one.pair),
    'target': one.target,
    'train_size': train_size,
    'manipulated_share': case.size / train_size,
    'validation': place.config.validation,
  }


def _histogram(record: Info) -> list[Info]:
  """Importance ratios, where a method keeps them."""
  kept = record.get('importance')
  if kept is None:
    return []
  case = Case(**record['case'])
  named = _where(case, record['identified_fraction'], record['method'])
  return [{**named, **kept}]


def collect(place: Stage, done: bool) -> Info:
  """What results.json holds, of the cells there are.

  Args:
    place: of the sweep.
    done: whether that is all of them.
  """
  config: Any = place.config
  found: dict[str, list[Info]] = {'rows': [], 'points': [], 'importance': []}
  problems: dict[tuple, Info] = {}
  seen: set[Case] = set()
  for cell in cells.cells(config):
    name = cells.address(config, place.summed, cell)
    record = store.read_record(place.folder, name)
    if record is None:
      continue
    case = cell.case
    if case not in seen:
      seen.add(case)
      found['rows'] += _none(case, record['before'])
    problems[case[:2]] = _problem(place, case, record['train_size'])
    retain = record['before']['acc_retain']
    method = place.methods[case.manipulation, cell.method]
    found['rows'] += _rows(case, record, retain, method.elementwise)
    named = _where(case, cell.fraction, cell.method)
    found['points'] += [{**named, **point} for point in record['points']]
    found['importance'] += _histogram(record)
  return {
    **provenance.results_header(config, done),
    'class_names': list(next(iter(place.worlds.values())).dataset.class_names),
    'problems': list(problems.values()),
    **found,
  }
