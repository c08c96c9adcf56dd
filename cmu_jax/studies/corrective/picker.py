"""The chart of the page: its controls, and its data as JSON inside HTML."""

import json
import pathlib
from typing import Any

from cmu_jax.report.frame import Results
from cmu_jax.studies.corrective import headline, looks, summary, tables
from cmu_jax.studies.corrective.summary import Line, Problem, View

# The chart shows fewer digits; all of them would swell the page.
_DIGITS = 5
_SCRIPT = pathlib.Path(__file__).with_name('chart.js')
_STYLE = """
.pick{display:flex;flex-wrap:wrap;gap:.6rem 1.2rem;align-items:end}
.pick label{display:block;min-width:0;max-width:100%}
.pick select,.pick button{font:inherit;max-width:100%;padding:.2rem .4rem}
fieldset.pick{border:1px solid var(--rule);border-radius:6px;margin:.8rem 0;
gap:.1rem 1rem}
fieldset.pick label{min-width:11.5rem;cursor:pointer}
fieldset.pick svg{vertical-align:middle;background:#fff;border-radius:3px;
margin-right:.3rem}
#chart{background:#fff;color:#22262b;border:1px solid var(--rule);
border-radius:6px;overflow-x:auto}
#chart svg{display:block;width:100%;min-width:34rem;height:auto}
#chart [tabindex]:focus{outline:none;stroke:#22262b;stroke-width:3}
#readout{min-height:3.2em}
"""
_CONTROLS = """
<noscript><p>The chart needs JavaScript. The tables and figures below show the
same numbers.</p></noscript>
<div class="pick">
<label>Manipulation<br><select id="pick-problem"></select></label>
<label>Metric<br><select id="pick-metric"></select></label>
<label>Hyperparameters chosen by<br><select id="pick-rule"></select></label>
</div>
<fieldset class="pick" id="pick-methods"><legend>Methods</legend></fieldset>
<div class="pick">
<button type="button" data-set="paper">paper's methods</button>
<button type="button" data-set="all">all</button>
<button type="button" data-set="no">none</button>
</div>
<p class="soft" id="says"></p>
<div id="chart"></div>
<p class="soft" id="readout" aria-live="polite"></p>
<div class="wide" tabindex="0" id="values"></div>
"""


def _round(value: float | None) -> float | None:
  return None if value is None else round(value, _DIGITS)


def _describe_cell(
  view: View, line: Line, fraction: float, metric: str
) -> list | None:
  """Lists mean, half the interval, missing, diverged, collapsed, seeds."""
  cell = summary.get_cell(view, line, fraction, metric)
  # Not run yet: the chart leaves a gap.
  if cell.missing == cell.expected:
    return None
  defects = [cell.missing, cell.diverged, cell.collapsed]
  return [_round(cell.mean), _round(cell.half), *defects, len(cell.values)]


def _describe_problem(
  results: Results, view: View, problem: Problem
) -> dict[str, Any]:
  entry = results['problems'][view.problems.index(problem)]
  metrics = tables.list_metrics(results, problem[0])
  levels = {
    metric: headline.find_levels(view, problem, metric) for metric in metrics
  }
  return {
    'name': looks.describe_problem(entry, results['class_names']),
    'levels': {
      metric: {name: _round(level) for name, level in group.items()}
      for metric, group in levels.items()
    },
    'lines': {
      rule: {
        method: {
          metric: [
            _describe_cell(view, Line(problem, method, rule), fraction, metric)
            for fraction in view.fractions
          ]
          for metric in metrics
        }
        for method in view.methods
        if method != 'none'  # a level, not a curve
      }
      for rule in summary.SELECTIONS
    },
  }


def describe_chart(results: Results) -> dict[str, Any]:
  """Collects all data that the chart can show.

  Args:
    results: checked contents of results.json.
  """
  view = summary.index_rows(results)
  method_looks = looks.assign_looks(view.methods)
  return {
    'fractions': list(view.fractions),
    'seeds': len(view.seeds),
    'metrics': {key: m._asdict() for key, m in looks.METRICS.items()},
    'rules': looks.SELECTIONS,
    'methods': [
      {
        'name': method,
        'information': view.information[method],
        'paper': method in looks.PAPER,
        **method_looks[method]._asdict(),
      }
      for method in view.methods
      if method != 'none'
    ],
    'problems': [_describe_problem(results, view, p) for p in view.problems],
  }


def embed_json(value: Any) -> str:
  """Formats JSON for a script element, whatever strings it has."""
  text = json.dumps(value, allow_nan=False, separators=(',', ':'))
  # A method called '</script>' would end the element.
  for sign in '<>&':
    text = text.replace(sign, f'\\u{ord(sign):04x}')
  return text


def render_chart(results: Results) -> str:
  """Renders the chart with its data as HTML; '' without anything to draw."""
  data = describe_chart(results)
  # The first finished cell brings a chart.
  if not all(data[name] for name in ('problems', 'fractions', 'methods')):
    return ''
  code = _SCRIPT.read_text(encoding='utf-8')
  return (
    f'<style>{_STYLE}</style>{_CONTROLS}'
    f'<script type="application/json" id="sweep">{embed_json(data)}</script>'
    f'<script>{code}</script>'
  )
