"""What the chart of the page is drawn from, as JSON inside HTML."""

import json
from typing import Any

from cmu_jax.studies.corrective import headline, looks, summary, tables
from cmu_jax.studies.corrective.load import Results
from cmu_jax.studies.corrective.summary import Line, Problem, View

_DIGITS = 5


def _number(value: float | None) -> float | None:
  return None if value is None else round(value, _DIGITS)


def _cell(view: View, line: Line, fraction: float, metric: str) -> list | None:
  """[mean, half the interval, missing, diverged, collapsed, seeds]."""
  cell = summary.cell(view, line, fraction, metric)
  if cell.missing == cell.expected:
    return None
  found, between = summary.spread(cell), summary.interval(cell)
  return [
    _number(found.mean if found else None),
    _number(between.high - between.mean if between else None),
    cell.missing,
    cell.diverged,
    cell.collapsed,
    len(cell.values),
  ]


def _level(view: View, line: Line, metric: str) -> float | None:
  found = summary.spread(summary.cell(view, line, 1.0, metric))
  return _number(found.mean if found else None)


def _levels(view: View, problem: Problem, metric: str) -> dict[str, Any]:
  least = headline.bar(view, problem) if metric == 'acc_corr' else None
  return {
    'none': _level(view, Line(problem, 'none', 'paper'), metric),
    'U*': _level(view, summary.gold(problem), metric),
    '0.9 U*': _number(least),
  }


def _problem(results: Results, view: View, problem: Problem) -> dict[str, Any]:
  entry = results['problems'][view.problems.index(problem)]
  metrics = tables.metrics(results, problem[0])
  return {
    'name': looks.title(entry, results['class_names']),
    'levels': {metric: _levels(view, problem, metric) for metric in metrics},
    'lines': {
      rule: {
        method: {
          metric: [
            _cell(view, Line(problem, method, rule), fraction, metric)
            for fraction in view.fractions
          ]
          for metric in metrics
        }
        for method in view.methods
        if method != 'none'
      }
      for rule in summary.SELECTIONS
    },
  }


def data(results: Results) -> dict[str, Any]:
  """Everything the chart can show.

  Args:
    results: checked contents of results.json.
  """
  view = summary.view(results)
  found = looks.looks(view.methods)
  return {
    'fractions': list(view.fractions),
    'seeds': len(view.seeds),
    'metrics': {k: m._asdict() for k, m in looks.METRICS.items()},
    'rules': looks.SELECTIONS,
    'methods': [
      {
        'name': method,
        'information': view.information[method],
        'paper': method in looks.PAPER,
        **found[method]._asdict(),
      }
      for method in view.methods
      if method != 'none'
    ],
    'problems': [_problem(results, view, problem) for problem in view.problems],
  }


def embedded(value: Any) -> str:
  """JSON that may stand in a script element, whatever strings it has."""
  text = json.dumps(value, allow_nan=False, separators=(',', ':'))
  for sign in '<>&':
    text = text.replace(sign, f'\\u{ord(sign):04x}')
  return text
