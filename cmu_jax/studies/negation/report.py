"""The report of the negation study: a table, a figure, the finding."""

import functools
from collections.abc import Iterator

import numpy as np
from matplotlib import figure

from cmu_jax.report import frame, style
from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.report.style import ReportFigure
from cmu_jax.report.text_tables import TextTable

NAMES = {
  'task_vector': 'a task vector',
  'uniform': 'their mean',
  'negmerge': 'NegMerge',
}
# Column of a row -> its head in the table.
_COLUMNS = {
  'strength': 'strength',
  'tuned_accuracy': 'fine-tuned',
  'forget_accuracy_before': 'before',
  'forget_accuracy': 'forget accuracy',
  'control_accuracy_before': 'control before',
  'control_accuracy': 'control accuracy',
}
_NOTE = (
  'Test accuracies; a task vector is the mean over seeds. The strength has the '
  'lowest accuracy on validation images of the forget set, among strengths '
  'that retain the share config.floor of the control accuracy; it is 0 where '
  'none does.'
)
_CAPTIONS = {
  'strengths': (
    'Lines: the forget set; dashes: the control set; grey: its floor.'
  )
}


def average_seeds(results: Results) -> list[tuple[str, str, dict[str, float]]]:
  """Computes forget set, method and the mean of every number over seeds."""
  # Merges have a single row, which is its own mean.
  groups: dict[tuple[str, str], list] = {}
  for row in results['rows']:
    groups.setdefault((row['forget_set'], row['method']), []).append(row)
  return [
    (*names, {key: float(np.mean([r[key] for r in rows])) for key in _COLUMNS})
    for names, rows in groups.items()
  ]


def summary_rows(results: Results) -> list[tuple[str, ...]]:
  """Lists forget sets and methods, then the averages over sets."""
  means, rows = average_seeds(results), []
  for name, method, values in means:
    numbers = (f'{value:.3f}' for value in values.values())
    rows.append((name, NAMES[method], *numbers))
  for method in dict.fromkeys(method for _, method, _ in means):
    sets = [values for _, name, values in means if name == method]
    # The mean of one set would repeat its row.
    if len(sets) > 1:
      numbers = (f'{np.mean([v[k] for v in sets]):.3f}' for k in _COLUMNS)
      rows.append((f'mean of {len(sets)}', NAMES[method], *numbers))
  return rows


def _tables(results: Results) -> dict[str, TextTable]:
  columns = ('forget set', 'vector', *_COLUMNS.values())
  rows = tuple(summary_rows(results))
  return {'summary': TextTable('Before and after', (_NOTE,), columns, rows)}


def _draw_strengths(results: Results) -> figure.Figure | None:
  """Draws both accuracies by strength, one panel per forget set."""
  curves = results['curves']
  if not curves:
    return None
  names = list(dict.fromkeys(curve['forget_set'] for curve in curves))
  canvas = style.canvas(
    'Validation accuracy by strength',
    (3.2 * max(2, len(names)), 3.4),
    results['smoke'],
  )
  panels = np.ravel(canvas.subplots(1, len(names), squeeze=False))
  for ax, name in zip(panels, names, strict=True):
    for curve in (c for c in curves if c['forget_set'] == name):
      # Colours follow the method, so that panels can be compared.
      colour = style.COLOURS[list(NAMES).index(curve['method'])]
      ax.plot(curve['strength'], curve['forget_accuracy'], color=colour)
      ax.plot(curve['strength'], curve['control_accuracy'], '--', color=colour)
      ax.axhline(curve['threshold'], color='grey', lw=0.8)
    ax.set_title(name)
    ax.set_xlabel('strength')
    ax.set_ylim(-0.02, 1.02)
  return canvas


def _figures(results: Results, label: str) -> Iterator[ReportFigure]:
  del label
  with style.context():
    yield ReportFigure('strengths', _draw_strengths(results))


def _label(results: Results) -> str:
  """States the outcome of the best method in one sentence."""
  means = average_seeds(results)
  if not means:
    return 'No cell is done yet'
  accuracy = {
    method: float(
      np.mean([v['forget_accuracy'] for _, m, v in means if m == method])
    )
    for method in dict.fromkeys(method for _, method, _ in means)
  }
  # The lower the better: these sets are to be forgotten.
  best = min(accuracy, key=lambda method: accuracy[method])
  before = np.mean([v['forget_accuracy_before'] for _, _, v in means])
  rows = [v for _, m, v in means if m == best]
  retained = np.mean([v['control_accuracy'] for v in rows]) / np.mean(
    [v['control_accuracy_before'] for v in rows]
  )
  return (
    f'Subtracting {NAMES[best]} lowers the accuracy on the forget sets from '
    f'{before:.1%} to {accuracy[best]:.1%}; the control set retains '
    f'{retained:.1%} of its accuracy'
  )


def describe(results: Results) -> Verdict:
  """States the effect of negation on forget sets and control set."""
  sentences = [
    f'The control set is {results["control"]}. Strengths are chosen on '
    'validation images alone.'
  ]
  if not results['finished']:
    sentences.append(UNFINISHED)
  return Verdict(_label(results), 'flat', tuple(sentences))


REPORT = frame.Report(
  read=functools.partial(
    frame.read_results,
    tasks='negation',
    required={'control': str},
    sections=dict.fromkeys(('rows', 'curves'), ('method', 'forget_set')),
  ),
  verdict=describe,
  tables=_tables,
  figures=_figures,
  captions=_CAPTIONS,
  sections=lambda results: {},
  glossary={},
)
