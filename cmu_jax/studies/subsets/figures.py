"""Figures of the study: the parts of the gap, the attacks, the requests."""

from collections.abc import Iterator

import numpy as np
from matplotlib import axes, figure

from cmu_jax.report import style
from cmu_jax.report.frame import Results
from cmu_jax.report.style import ReportFigure
from cmu_jax.studies.engine import gaps
from cmu_jax.studies.subsets import tables

_PARTS = ('UA', 'RA', 'TA', 'attack')
# Shown below the figures of the page.
CAPTIONS = {
  'gaps': (
    'How far each method is from retraining, mean of the gaps of single runs, '
    'and what that is made of. Retraining itself differs from run to run.'
  ),
  'attacks': (
    'How well the attack of the gap tells forgotten from test images: a dot '
    'a run, a bar the mean. Right of the band more than after retraining '
    'is left; left of it more is gone, which tells them apart as well.'
  ),
  'requests': (
    'How much more the attack tells retained from forgotten images than '
    'forgotten from test images, at each of several requests; means over runs.'
  ),
}


def _subplot(
  title: str, rows: int, smoke: bool
) -> tuple[figure.Figure, axes.Axes]:
  canvas = style.canvas(title, (9.0, 1.6 + 0.32 * rows), smoke)
  return canvas, canvas.subplots()


def draw_gaps(results: Results, label: str) -> figure.Figure | None:
  """Draws the stacked parts of each gap; None without a gap."""
  values = {m: tables.compute_gap(results, m) for m in results['methods']}
  parts = {m: gap.parts for m, gap in values.items() if gap is not None}
  if not parts:
    return None
  canvas, ax = _subplot(label, len(parts), results['smoke'])
  # The gap is the mean of four parts: divided, they add up to it.
  widths = np.array(list(parts.values())) / len(_PARTS)
  offsets = np.zeros(len(parts))
  for i, name in enumerate(_PARTS):
    colour = style.COLOURS[i]
    ax.barh(
      range(len(parts)), widths[:, i], left=offsets, color=colour, label=name
    )
    offsets += widths[:, i]
  style.label_rows(ax, list(parts))
  ax.set_xlabel('gap to retraining [points]')
  ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=4)
  return canvas


def draw_attacks(results: Results) -> figure.Figure | None:
  """Draws the attack of the gap by run; None without retrained networks."""
  name = results['config']['attack']
  column = gaps.ATTACKS[name]
  values = {
    m: [100 * r[column] for r in tables.rows_of(results, m) if r.get(column)]
    for m in results['methods']
  }
  values = {method: points for method, points in values.items() if points}
  retrained = values.get('retrain')
  if not retrained:
    return None
  title = 'What is left of the forgotten images, as the attack shows it'
  canvas, ax = _subplot(title, len(values), results['smoke'])
  # A band, because retraining itself differs from run to run.
  ax.axvspan(min(retrained), max(retrained), color=style.FAINT, label='retrain')
  style.plot_dots(ax, values)
  ax.set_xlabel(f'{tables.ATTACKS[name]} [points]')
  ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14))
  return canvas


def draw_requests(results: Results) -> figure.Figure | None:
  """Draws FR minus FT AUC by request; None without requests."""
  methods = list(dict.fromkeys(row['method'] for row in results['requests']))
  if not methods:
    return None
  title = 'Requests one after another'
  canvas = style.canvas(title, (7.0, 4.0), results['smoke'])
  ax = canvas.subplots()
  for i, method in enumerate(methods):
    values = tables.requests_of(results, method)
    means = [float(np.mean(runs)) for runs in values.values()]
    ax.plot(list(values), means, 'o-', color=style.COLOURS[i], label=method)
  ax.set_xticks(sorted({row['request'] for row in results['requests']}))
  ax.set_xlabel('request')
  ax.set_ylabel('FR AUC − FT AUC [points]')
  ax.legend()
  return canvas


def draw_figures(results: Results, label: str) -> Iterator[ReportFigure]:
  """Draws the figures lazily."""
  # Lazily, so that a single figure is in memory at a time.
  with style.context():
    yield ReportFigure('gaps', draw_gaps(results, label))
    yield ReportFigure('attacks', draw_attacks(results))
    yield ReportFigure('requests', draw_requests(results))
