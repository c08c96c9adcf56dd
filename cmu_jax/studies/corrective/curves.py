"""Figures over identified fractions: the paper's Fig. 2, and importances."""

from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes, figure, ticker

from cmu_jax.report import style
from cmu_jax.studies.corrective import headline, load, looks, summary
from cmu_jax.studies.corrective.load import Results
from cmu_jax.studies.corrective.summary import Line, Problem, View

METRICS = ('acc_corr', 'acc_retain')
# The darkest part of the colour map is kept off: it looks like ink.
_COLOURS = (0.15, 0.9)


def shades(fractions: Iterable[float]) -> dict[float, Any]:
  """A colour of one sequence for each identified fraction."""
  found = sorted(set(fractions))
  where = np.linspace(*_COLOURS, max(len(found), 2))
  return {
    f: matplotlib.colormaps['viridis_r'](x)
    for f, x in zip(found, where, strict=False)
  }


def _curve(ax: axes.Axes, view: View, line: Line, metric: str, look) -> None:
  """Means over seeds with 95 % intervals; a cross where some diverged."""
  cells = [summary.cell(view, line, f, metric) for f in view.fractions]
  found = [summary.spread(cell) for cell in cells]
  mean = [np.nan if one is None else one.mean for one in found]
  wide = [summary.interval(cell) for cell in cells]
  half = [0.0 if one is None else one.high - one.mean for one in wide]
  ax.errorbar(
    view.fractions,
    mean,
    yerr=half,
    label=line.method,
    color=look.colour,
    marker=look.marker,
    ms=5,
    lw=2,
    elinewidth=1,
    capsize=2.5,
    dashes=look.dash or (None, None),
  )
  for f, one in zip(view.fractions, cells, strict=True):
    if one.diverged:
      at = ax.get_xaxis_transform()
      ax.plot(f, 0.03, 'x', color=look.colour, ms=7, mew=2, transform=at)


def _level(ax: axes.Axes, y: float | None, name: str, dash: Any) -> None:
  if y is not None:
    colour = style.MUTED if name == 'none' else style.REFERENCE
    ax.axhline(y, color=colour, lw=1.4, ls=dash, label=name)


def _levels(ax: axes.Axes, view: View, problem: Problem, metric: str) -> None:
  """Doing nothing, U* and, for Acc_corr, 0.9 U*."""
  for name, line, dash in (
    ('none', Line(problem, 'none', 'paper'), (0, (4, 2))),
    ('U*', summary.gold(problem), '-'),
  ):
    found = summary.spread(summary.cell(view, line, 1.0, metric))
    _level(ax, found.mean if found else None, name, dash)
  if metric == 'acc_corr':
    _level(ax, headline.bar(view, problem), '0.9 U*', (0, (1, 1.5)))


def _finish(ax: axes.Axes, view: View) -> None:
  """A range of at least ten points, so that noise does not look like news."""
  low, high = ax.get_ylim()
  room = max(0.0, 0.1 - (high - low)) / 2
  ax.set_ylim(max(low - room, -0.02), min(high + room, 1.02))
  ax.set_xlim(min(view.fractions) - 0.05, 1.05)
  ax.set_xticks(view.fractions, [f'{f:g}' for f in view.fractions])


def over_fractions(
  results: Results, methods: tuple[str, ...], title: str
) -> figure.Figure:
  """Acc_corr and Acc_retain against the identified fraction, by problem.

  Args:
    results: results.json with at least one problem and fraction.
    methods: which to draw.
    title: above all panels.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, Figure 2.
  """
  view = summary.view(results)
  found = looks.looks(view.methods)
  columns = len(view.problems)
  with style.context():
    size = (max(9.2, 1.6 + 3.9 * columns), 7.2)
    made = style.canvas(title, size, results['smoke'])
    grid = made.subplots(2, columns, squeeze=False, sharex=True)
    for column, problem in enumerate(view.problems):
      for ax, metric in zip(grid[:, column], METRICS, strict=True):
        _levels(ax, view, problem, metric)
        for method in methods:
          line = Line(problem, method, 'paper')
          _curve(ax, view, line, metric, found[method])
        _finish(ax, view)
      grid[0, column].set_title(looks.short(problem))
      grid[1, column].set_xlabel('identified fraction |S_f| / |S_m|')
    for ax, metric in zip(grid[:, 0], METRICS, strict=True):
      ax.set_ylabel(looks.METRICS[metric].name)
    named = {
      label: handle
      for ax in grid[0]
      for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    made.legend(named.values(), named.keys(), loc='outside right center')
    return made


def importance(results: Results) -> figure.Figure:
  """Histograms of the importance ratios that SSD selects by, by problem.

  Args:
    results: results.json with at least one histogram.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, Figure 3.
  """
  problems = dict.fromkeys(
    (one['manipulation'], one['manipulation_size'])
    for one in results['importance']
  )
  colours = shades(one['identified_fraction'] for one in results['importance'])
  title = 'Importance for S_f against importance for the rest, by parameter'
  with style.context():
    size = (max(9.2, 4.4 * len(problems)), 4.2)
    made = style.canvas(title, size, results['smoke'])
    grid = made.subplots(1, len(problems), squeeze=False, sharey=True)[0]
    for ax, (kind, count) in zip(grid, problems, strict=True):
      for one in load.having(
        results['importance'], manipulation=kind, manipulation_size=count
      ):
        fraction = one['identified_fraction']
        ax.stairs(
          one['retain_counts'],
          one['edges'],
          color=colours[fraction],
          lw=0.9,
          alpha=0.7,
        )
      ax.set(xlabel='log10(I_f / I_r)', yscale='log')
      ax.yaxis.set_major_formatter(ticker.EngFormatter(sep=''))
      ax.set_title(looks.short((kind, count)))
    grid[0].set_ylabel('parameters (log scale)')
    for fraction, colour in colours.items():
      grid[0].plot([], [], color=colour, label=f'{fraction:g}')
    handles, labels = grid[0].get_legend_handles_labels()
    made.legend(handles, labels, title='identified', loc='outside right center')
    return made
