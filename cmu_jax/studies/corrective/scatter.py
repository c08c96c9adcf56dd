"""Figures with a dot a run: utility and unlearning, cost and quality."""

import collections
import math
from typing import Any

import numpy as np
from matplotlib import axes, figure, ticker
from scipy import optimize

from cmu_jax.methods import study_names
from cmu_jax.report import style
from cmu_jax.report.frame import Results
from cmu_jax.studies.corrective import looks, summary
from cmu_jax.studies.corrective.summary import Line, Problem, Row, View

_COLUMNS = 3
# Ten points at least, so that noise does not look like news.
_SPAN = 0.1
_MARKS: dict[str, dict[str, Any]] = {
  'paper': dict(marker='o', mfc='none', mec=style.INK, mew=0.9, ms=7),
  'oracle': dict(marker='+', mec=style.ATTACK, mew=1.1, ms=8),
}
_IDLE: dict[str, Any] = dict(color=style.MUTED, ls=(0, (4, 2)))


def _list_positions(rows: list[Row]) -> tuple[list[float], list[float]]:
  """Lists Acc_retain and Acc_corr of the rows that have both."""
  pairs = [(row['acc_retain'], row['acc_corr']) for row in rows]
  pairs = [pair for pair in pairs if None not in pair]
  return [x for x, _ in pairs], [y for _, y in pairs]


def _select_rows(
  rows: list[Row], problem: Problem, **columns: Any
) -> list[Row]:
  kind, size = problem
  return summary.select_rows(
    rows, manipulation=kind, manipulation_size=size, **columns
  )


def find_tuned(results: Results, problem: Problem) -> tuple[str, ...]:
  """Finds methods with more than one grid point somewhere on a problem."""
  counts = collections.Counter(
    (row['method'], row['seed'], row['identified_fraction'])
    for row in _select_rows(results['points'], problem, diverged=False)
    if None not in (row['acc_retain'], row['acc_corr'])
  )
  tuned = [method for (method, *_), count in counts.items() if count > 1]
  return study_names.sort_names(study_names.CORRECTIVE, tuned)


def _add_margin(low: float, high: float) -> tuple[float, float]:
  """Widens limits by a margin, to at least ten points."""
  margin = max(0.05 * (high - low), (_SPAN - (high - low)) / 2)
  return low - margin, high + margin


def _plot_references(ax: axes.Axes, view: View, problem: Problem) -> None:
  """Plots doing nothing as cross hairs, U* as a star."""
  for line in (summary.idle_line(problem), summary.gold_line(problem)):
    x, y = (
      summary.get_cell(view, line, 1.0, metric).mean
      for metric in ('acc_retain', 'acc_corr')
    )
    # A pair that covers all classes has no Acc_retain.
    if x is None or y is None:
      continue
    if line.method == 'none':
      ax.axvline(x, lw=1, **_IDLE)
      ax.axhline(y, lw=1, **_IDLE)
    else:
      ax.plot(x, y, '*', color=style.REFERENCE, ms=13)


def _draw_panel(
  ax: axes.Axes, results: Results, view: View, problem: Problem, method: str
) -> None:
  for fraction, colour in looks.assign_shades(view.fractions).items():
    rows = _select_rows(
      results['points'], problem, method=method, identified_fraction=fraction
    )
    dots = dict(color=colour, ms=4.5, mew=0, alpha=0.75)
    ax.plot(*_list_positions(rows), 'o', **dots)
  for rule, mark in _MARKS.items():
    rows = _select_rows(results['rows'], problem, method=method, selection=rule)
    ax.plot(*_list_positions(rows), ls='', **mark)
  _plot_references(ax, view, problem)
  ax.set_title(method)
  # Of the data alone, so that panels are not mostly margin.
  ax.set_xlim(_add_margin(*ax.dataLim.intervalx))
  ax.set_ylim(_add_margin(*ax.dataLim.intervaly))


def _add_legend(sheet: figure.Figure, ax: axes.Axes, view: View) -> None:
  """Adds a legend of fractions, of chosen points and of the references."""
  # Empty plots: a panel may lack some of the marks.
  for fraction, colour in looks.assign_shades(view.fractions).items():
    ax.plot([], [], 'o', color=colour, label=f'identified {fraction:g}')
  for rule, mark in _MARKS.items():
    ax.plot([], [], ls='', label=f'chosen: {rule}', **mark)
  ax.plot([], [], '*', color=style.REFERENCE, ms=12, label='U*')
  ax.plot([], [], lw=1, label='none', **_IDLE)
  handles = ax.get_legend_handles_labels()
  sheet.legend(*handles, loc='outside right center', fontsize=10)


def draw_utility(results: Results, problem: Problem) -> figure.Figure:
  """Draws every grid point of every tuned method, with the chosen ones marked.

  Args:
    results: results.json with a method that `find_tuned` finds.
    problem: manipulation and size.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, Figures 11 to 14.
  """
  view = summary.index_rows(results)
  methods = find_tuned(results, problem)
  rows = math.ceil(len(methods) / _COLUMNS)
  columns = min(len(methods), _COLUMNS)
  name = looks.name_problem(problem)
  title = f'All hyperparameters: utility against unlearning, {name}'
  with style.context():
    size = (max(7.0, 2.2 + 3.1 * columns), 1.2 + 2.7 * rows)
    sheet = style.canvas(title, size, results['smoke'])
    grid = sheet.subplots(rows, columns, squeeze=False)
    # The last row may have fewer panels.
    for ax in grid.flat[len(methods) :]:
      ax.set_axis_off()
    for ax, method in zip(grid.flat, methods, strict=False):
      _draw_panel(ax, results, view, problem, method)
    sheet.supxlabel('Acc_retain (utility)', fontsize=11)
    sheet.supylabel('Acc_corr (unlearning)', fontsize=11)
    _add_legend(sheet, grid[0, 0], view)
    return sheet


def _space_apart(
  heights: list[float], gap: float, low: float, high: float
) -> np.ndarray:
  """Moves heights as little as it takes to be a gap apart, in their order."""
  n = len(heights)
  gap = min(gap, (high - low) / max(n - 1, 1))
  order = np.argsort(heights, kind='stable')
  steps = gap * np.arange(n)
  # Taking the steps off turns 'a gap apart' into 'not falling'.
  level = optimize.isotonic_regression(np.asarray(heights)[order] - steps).x
  spaced = np.empty(n)
  spaced[order] = np.clip(level, low, high - steps[-1]) + steps
  return spaced


def _name_dots(
  ax: axes.Axes,
  dots: dict[str, tuple[float, float]],
  method_looks: dict[str, looks.Look],
  names: dict[str, str],
) -> None:
  """Writes names in a column at the right, each with a line to its dot."""
  if not dots:
    return
  low, high = ax.get_ylim()
  # The height of a line of text.
  gap = 0.052 * (high - low)
  heights = _space_apart([y for _, y in dots.values()], gap, low, high)
  for (method, dot), height in zip(dots.items(), heights, strict=True):
    colour = method_looks[method].colour
    ax.annotate(
      names.get(method, method),
      dot,
      xytext=(1.02, (height - low) / (high - low)),
      textcoords='axes fraction',
      va='center',
      fontsize=9.5,
      color=colour,
      annotation_clip=False,
      arrowprops={
        'arrowstyle': '-',
        'color': colour,
        'lw': 0.6,
        'alpha': 0.6,
        'relpos': (0, 0.5),
        'shrinkA': 1,
        'shrinkB': 3,
      },
    )


def _average_dots(
  view: View, problem: Problem
) -> dict[str, tuple[float, float]]:
  """Computes method -> mean cost of its whole grid, and mean share of U*."""
  dots = {}
  for method in view.methods:
    line = Line(problem, method, 'paper')
    x, y = (
      summary.average_fractions(view, line, metric).mean
      for metric in ('grid_gradient_evaluations', 'corr_share')
    )
    if method != 'none' and x is not None and y is not None:
      dots[method] = (x, y)
  return dots


def _draw_costs(ax: axes.Axes, view: View, problem: Problem) -> None:
  dots = _average_dots(view, problem)
  method_looks = looks.assign_looks(view.methods)
  # A logarithm has no zero: methods without gradients stand at the far left.
  least = min((x for x, _ in dots.values() if x > 0), default=2.0) / 2
  places = {method: (max(x, least), y) for method, (x, y) in dots.items()}
  for method, place in places.items():
    look = method_looks[method]
    ax.plot(*place, look.marker, color=look.colour, ms=8)
  idle = summary.idle_line(problem)
  base = summary.average_fractions(view, idle, 'corr_share').mean
  if base is not None:
    ax.axhline(base, lw=1.2, **_IDLE)
  ax.axhline(1.0, color=style.REFERENCE, lw=1.2)
  ax.set_xscale('log')
  ax.margins(0.08)
  # At 1 and 3 of each decade, because most axes span few decades.
  ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
  ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  ax.xaxis.set_minor_formatter(ticker.NullFormatter())
  ax.set_title(f'{looks.name_problem(problem)} (dashed: none, green: U*)')
  ax.set_xlabel('gradients of single images')
  ax.set_ylabel('Acc_corr / Acc_corr(U*)')
  # They stand at a cost that is not theirs.
  free = {m: f'{m} (none)' for m, (x, _) in dots.items() if x <= 0}
  _name_dots(ax, places, method_looks, free)


def draw_cost(results: Results) -> figure.Figure:
  """Draws the cost of methods, grids included, against their repair.

  Args:
    results: results.json with at least one problem.
  """
  view = summary.index_rows(results)
  columns = len(view.problems)
  title = 'Cost of the whole grid against repair, mean over fractions'
  with style.context():
    size = (max(7.0, 1 + 5.2 * columns), 5.4)
    sheet = style.canvas(title, size, results['smoke'])
    grid = sheet.subplots(1, columns, squeeze=False)[0]
    for ax, problem in zip(grid, view.problems, strict=True):
      _draw_costs(ax, view, problem)
    return sheet
