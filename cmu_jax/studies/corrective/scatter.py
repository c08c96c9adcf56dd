"""Figures with a dot a run: utility and unlearning, cost and quality."""

import math
from typing import Any

import numpy as np
from matplotlib import axes, figure, ticker
from scipy import optimize

from cmu_jax.methods import study_names
from cmu_jax.report import style
from cmu_jax.studies.corrective import curves, load, looks, summary
from cmu_jax.studies.corrective.load import Results, Row
from cmu_jax.studies.corrective.summary import Line, Problem, View

_COLUMNS = 3
_SPAN = 0.1
_MARKS: dict[str, dict[str, Any]] = {
  'paper': dict(marker='o', mfc='none', mec=style.INK, mew=0.9, ms=7),
  'oracle': dict(marker='+', mec=style.ATTACK, mew=1.1, ms=8),
}


def _xy(rows: list[Row]) -> tuple[list[float], list[float]]:
  there = [r for r in rows if None not in (r['acc_retain'], r['acc_corr'])]
  return [r['acc_retain'] for r in there], [r['acc_corr'] for r in there]


def tuned(results: Results, problem: Problem) -> tuple[str, ...]:
  """Methods with more than one grid point somewhere on a problem."""
  rows = load.having(
    results['points'],
    manipulation=problem[0],
    manipulation_size=problem[1],
    diverged=False,
  )
  seen: dict[tuple, int] = {}
  for row in rows:
    key = (row['method'], row['seed'], row['identified_fraction'])
    seen[key] = seen.get(key, 0) + (_xy([row]) != ([], []))
  return study_names.sort_names(
    study_names.CORRECTIVE,
    [key[0] for key, number in seen.items() if number > 1],
  )


def _room(low: float, high: float) -> tuple[float, float]:
  """Limits with a margin, at least ten points apart."""
  more = max(0.05 * (high - low), (_SPAN - (high - low)) / 2)
  return low - more, high + more


def _cross(ax: axes.Axes, view: View, problem: Problem) -> None:
  """Doing nothing as cross hairs, U* as a star."""
  for name, line in (
    ('none', Line(problem, 'none', 'paper')),
    ('U*', summary.gold(problem)),
  ):
    at = [
      summary.spread(summary.cell(view, line, 1.0, metric))
      for metric in ('acc_retain', 'acc_corr')
    ]
    if at[0] is None or at[1] is None:
      continue
    if name == 'none':
      ax.axvline(at[0].mean, color=style.MUTED, lw=1, ls=(0, (4, 2)))
      ax.axhline(at[1].mean, color=style.MUTED, lw=1, ls=(0, (4, 2)))
    else:
      ax.plot(at[0].mean, at[1].mean, '*', color=style.REFERENCE, ms=13)


def _panel(
  ax: axes.Axes, results: Results, view: View, problem: Problem, method: str
) -> None:
  own: dict[str, Any] = dict(
    manipulation=problem[0], manipulation_size=problem[1], method=method
  )
  colours = curves.shades(view.fractions)
  for fraction in view.fractions:
    rows = load.having(results['points'], identified_fraction=fraction, **own)
    ax.plot(*_xy(rows), 'o', color=colours[fraction], ms=4.5, mew=0, alpha=0.75)
  for rule, look in _MARKS.items():
    rows = load.having(results['rows'], selection=rule, **own)
    ax.plot(*_xy(rows), ls='', **look)
  _cross(ax, view, problem)
  ax.set_title(method)
  ax.set_xlim(_room(*ax.dataLim.intervalx))
  ax.set_ylim(_room(*ax.dataLim.intervaly))


def _key(made: figure.Figure, ax: axes.Axes, view: View) -> None:
  """The legend: fractions, what was chosen, and the references."""
  for fraction, colour in curves.shades(view.fractions).items():
    ax.plot([], [], 'o', color=colour, label=f'identified {fraction:g}')
  for rule, look in _MARKS.items():
    ax.plot([], [], ls='', label=f'chosen: {rule}', **look)
  ax.plot([], [], '*', color=style.REFERENCE, ms=12, label='U*')
  ax.plot([], [], color=style.MUTED, ls=(0, (4, 2)), lw=1, label='none')
  made.legend(
    *ax.get_legend_handles_labels(), loc='outside right center', fontsize=10
  )


def utility(results: Results, problem: Problem) -> figure.Figure:
  """Every grid point of every tuned method, with the chosen ones marked.

  Args:
    results: results.json with a method that `tuned` finds.
    problem: manipulation and size.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, Figures 11 to 14.
  """
  view = summary.view(results)
  methods = tuned(results, problem)
  rows = math.ceil(len(methods) / _COLUMNS)
  columns = min(len(methods), _COLUMNS)
  title = (
    f'All hyperparameters: utility against unlearning, {looks.short(problem)}'
  )
  with style.context():
    size = (max(7.0, 2.2 + 3.1 * columns), 1.2 + 2.7 * rows)
    made = style.canvas(title, size, results['smoke'])
    grid = made.subplots(rows, columns, squeeze=False)
    for ax in grid.flat[len(methods) :]:
      ax.set_axis_off()
    for ax, method in zip(grid.flat, methods, strict=False):
      _panel(ax, results, view, problem, method)
    made.supxlabel('Acc_retain (utility)', fontsize=11)
    made.supylabel('Acc_corr (unlearning)', fontsize=11)
    _key(made, grid[0, 0], view)
    return made


def _spaced(
  wanted: list[float], gap: float, low: float, high: float
) -> np.ndarray:
  """Positions near the wanted ones, rising, at least a gap apart."""
  n = len(wanted)
  gap = min(gap, (high - low) / max(n - 1, 1))
  order = np.argsort(wanted, kind='stable')
  steps = gap * np.arange(n)
  # Taking the steps off turns 'a gap apart' into 'not falling'.
  level = optimize.isotonic_regression(np.asarray(wanted)[order] - steps).x
  found = np.empty(n)
  found[order] = np.clip(level, low, high - steps[-1]) + steps
  return found


def _names(
  ax: axes.Axes,
  dots: dict[str, tuple[float, float]],
  found: dict[str, looks.Look],
  names: dict[str, str],
) -> None:
  """Names in a column at the right, each with a thin line to its dot."""
  if not dots:
    return
  low, high = ax.get_ylim()
  gap = 0.052 * (high - low)
  heights = _spaced([y for _, y in dots.values()], gap, low, high)
  for (method, (x, y)), height in zip(dots.items(), heights, strict=True):
    ax.annotate(
      names.get(method, method),
      (x, y),
      xytext=(1.02, (height - low) / (high - low)),
      textcoords='axes fraction',
      va='center',
      fontsize=9.5,
      color=found[method].colour,
      annotation_clip=False,
      arrowprops={
        'arrowstyle': '-',
        'color': found[method].colour,
        'lw': 0.6,
        'alpha': 0.6,
        'relpos': (0, 0.5),
        'shrinkA': 1,
        'shrinkB': 3,
      },
    )


def _dots(view: View, problem: Problem) -> dict[str, tuple[float, float]]:
  """Method -> mean cost of its whole grid and mean share of U*."""
  found = {}
  for method in view.methods:
    line = Line(problem, method, 'paper')
    cost = summary.over_fractions(view, line, 'grid_gradient_evaluations')
    share = summary.over_fractions(view, line, 'corr_share')
    x, y = summary.spread(cost), summary.spread(share)
    if method != 'none' and x is not None and y is not None:
      found[method] = (x.mean, y.mean)
  return found


def _costs(ax: axes.Axes, view: View, problem: Problem) -> None:
  dots = _dots(view, problem)
  found = looks.looks(view.methods)
  # A logarithm has no zero: what needs no gradient stands left of the rest.
  least = min((x for x, _ in dots.values() if x > 0), default=2.0) / 2
  placed = {m: (max(x, least), y) for m, (x, y) in dots.items()}
  for method, (x, y) in placed.items():
    ax.plot(x, y, found[method].marker, color=found[method].colour, ms=8)
  idle = Line(problem, 'none', 'paper')
  base = summary.spread(summary.over_fractions(view, idle, 'corr_share'))
  if base is not None:
    ax.axhline(base.mean, color=style.MUTED, lw=1.2, ls=(0, (4, 2)))
  ax.axhline(1.0, color=style.REFERENCE, lw=1.2)
  ax.set_xscale('log')
  ax.margins(0.08)
  ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
  ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  ax.xaxis.set_minor_formatter(ticker.NullFormatter())
  ax.set_title(f'{looks.short(problem)} (dashed: none, green: U*)')
  ax.set_xlabel('gradients of single images')
  ax.set_ylabel('Acc_corr / Acc_corr(U*)')
  free = {m: f'{m} (none)' for m, (x, _) in dots.items() if x <= 0}
  _names(ax, placed, found, free)


def cost(results: Results) -> figure.Figure:
  """What a method costs, its grid included, against how much it repairs.

  Args:
    results: results.json with at least one problem.
  """
  view = summary.view(results)
  columns = len(view.problems)
  title = 'Cost of the whole grid against repair, mean over fractions'
  with style.context():
    size = (max(7.0, 1 + 5.2 * columns), 5.4)
    made = style.canvas(title, size, results['smoke'])
    grid = made.subplots(1, columns, squeeze=False)[0]
    for ax, problem in zip(grid, view.problems, strict=True):
      _costs(ax, view, problem)
    return made
