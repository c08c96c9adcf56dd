"""Figures of a sweep over identified fractions: Fig. 2 and 3 of the paper."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib import axes, figure, ticker

from cmu_jax.report import style
from cmu_jax.report.frame import Results
from cmu_jax.report.style import ReportFigure
from cmu_jax.studies.corrective import headline, looks, scatter, summary
from cmu_jax.studies.corrective.looks import Look
from cmu_jax.studies.corrective.summary import Line, View

METRICS = ('acc_corr', 'acc_retain')
# More curves in one panel cannot be told apart.
_GROUP = 5
_DASHES = {'none': (0, (4, 2)), 'U*': '-', '0.9 U*': (0, (1, 1.5))}

CAPTIONS = {
  'curves_paper': (
    'The methods of the paper (its Figure 2): above, accuracy on the affected '
    'kind of images; below, on the others. Means over seeds with 95 % '
    't-intervals. A method repairs where its curve stays above the dotted '
    'line. A cross at the bottom marks a fraction at which a run diverged.'
  ),
  'curves_others_*': 'The same for the other methods, a few at a time.',
  'importance': (
    'How many parameters have which ratio of importance for S_f to importance '
    'for the rest (Figure 3 of the paper); a line a seed. Selective dampening '
    'can tell apart what lies far to the right.'
  ),
  'utility_*': (
    'Every point of every hyperparameter grid (Figures 11 to 14 of the paper), '
    'all seeds. Upper right is best. Rings: chosen on validation data; plus '
    'signs: chosen with knowledge of these very results.'
  ),
  'cost': (
    'What trying the whole grid costs against how much of U* is reached, as '
    'the mean over fractions and seeds. Upper left is best.'
  ),
}


def _plot_curve(
  ax: axes.Axes, view: View, line: Line, metric: str, look: Look
) -> None:
  """Plots means over seeds with 95 % intervals; a cross where some diverged."""
  cells = {f: summary.get_cell(view, line, f, metric) for f in view.fractions}
  ax.errorbar(
    view.fractions,
    [np.nan if cell.mean is None else cell.mean for cell in cells.values()],
    # matplotlib wants a bar at each point, and one seed has none.
    yerr=[cell.half or 0.0 for cell in cells.values()],
    label=line.method,
    color=look.colour,
    marker=look.marker,
    ms=5,
    lw=2,
    elinewidth=1,
    capsize=2.5,
    dashes=look.dash or (None, None),
  )
  for fraction, cell in cells.items():
    if cell.diverged:
      # In units of the panel: a diverged run has no height of its own.
      bottom = ax.get_xaxis_transform()
      ax.plot(
        fraction, 0.03, 'x', color=look.colour, ms=7, mew=2, transform=bottom
      )


def _set_limits(ax: axes.Axes, view: View) -> None:
  low, high = ax.get_ylim()
  # At least ten points high, so that noise does not look like news.
  room = max(0.0, 0.1 - (high - low)) / 2
  ax.set_ylim(max(low - room, -0.02), min(high + room, 1.02))
  # Room for the error bars at both ends.
  ax.set_xlim(min(view.fractions) - 0.05, 1.05)
  ax.set_xticks(view.fractions, [f'{f:g}' for f in view.fractions])


def draw_curves(
  results: Results, methods: tuple[str, ...], title: str
) -> figure.Figure:
  """Draws Acc_corr and Acc_retain over identified fractions, by problem.

  Args:
    results: results.json with at least one problem and fraction.
    methods: names of methods to draw.
    title: above all panels.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, Figure 2.
  """
  view = summary.index_rows(results)
  method_looks = looks.assign_looks(view.methods)
  columns = len(view.problems)
  with style.context():
    size = (max(9.2, 1.6 + 3.9 * columns), 7.2)
    sheet = style.canvas(title, size, results['smoke'])
    grid = sheet.subplots(2, columns, squeeze=False, sharex=True)
    for column, problem in enumerate(view.problems):
      for ax, metric in zip(grid[:, column], METRICS, strict=True):
        levels = headline.find_levels(view, problem, metric)
        for name, level in levels.items():
          if level is not None:
            colour = style.MUTED if name == 'none' else style.REFERENCE
            ax.axhline(
              level, color=colour, lw=1.4, ls=_DASHES[name], label=name
            )
        for method in methods:
          line = Line(problem, method, 'paper')
          _plot_curve(ax, view, line, metric, method_looks[method])
        _set_limits(ax, view)
      grid[0, column].set_title(looks.name_problem(problem))
      grid[1, column].set_xlabel('identified fraction |S_f| / |S_m|')
    for ax, metric in zip(grid[:, 0], METRICS, strict=True):
      ax.set_ylabel(looks.METRICS[metric].name)
    # A problem without U* has fewer labels than the others.
    legend = {
      label: handle
      for ax in grid[0]
      for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    sheet.legend(legend.values(), legend.keys(), loc='outside right center')
    return sheet


def draw_importance(results: Results) -> figure.Figure:
  """Draws histograms of the importance ratios that SSD selects by, by problem.

  Args:
    results: results.json with at least one histogram.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, Figure 3.
  """
  entries = results['importance']
  problems = dict.fromkeys(
    (entry['manipulation'], entry['manipulation_size']) for entry in entries
  )
  shades = looks.assign_shades(
    entry['identified_fraction'] for entry in entries
  )
  title = 'Importance for S_f against importance for the rest, by parameter'
  with style.context():
    size = (max(9.2, 4.4 * len(problems)), 4.2)
    sheet = style.canvas(title, size, results['smoke'])
    grid = sheet.subplots(1, len(problems), squeeze=False, sharey=True)[0]
    for ax, (kind, count) in zip(grid, problems, strict=True):
      for entry in summary.select_rows(
        entries, manipulation=kind, manipulation_size=count
      ):
        colour = shades[entry['identified_fraction']]
        counts, edges = entry['retain_counts'], entry['edges']
        ax.stairs(counts, edges, color=colour, lw=0.9, alpha=0.7)
      ax.set(xlabel='log10(I_f / I_r)', yscale='log')
      ax.yaxis.set_major_formatter(ticker.EngFormatter(sep=''))
      ax.set_title(looks.name_problem((kind, count)))
    grid[0].set_ylabel('parameters (log scale)')
    # Empty lines, because a legend of all histograms would name each twice.
    for fraction, colour in shades.items():
      grid[0].plot([], [], color=colour, label=f'{fraction:g}')
    handles, labels = grid[0].get_legend_handles_labels()
    sheet.legend(
      handles, labels, title='identified', loc='outside right center'
    )
    return sheet


def _group_methods(methods: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
  """Groups methods by figure: those of the paper, then a few at a time."""
  paper = tuple(m for m in methods if m in looks.PAPER and m != 'none')
  others = [m for m in methods if m not in looks.PAPER]
  groups = {'curves_paper': paper} if paper else {}
  for number, i in enumerate(range(0, len(others), _GROUP), 1):
    groups[f'curves_others_{number}'] = tuple(others[i : i + _GROUP])
  return groups


def _plan_figures(
  results: Results, label: str
) -> dict[str, partial[figure.Figure]]:
  """Plans the figures that these results allow: name -> its drawing."""
  view = summary.index_rows(results)
  if not view.problems or not view.fractions:
    return {}
  plan = {}
  # Functions, because drawn figures take much memory.
  for name, methods in _group_methods(view.methods).items():
    title = label if name == 'curves_paper' else f'Also: {", ".join(methods)}'
    plan[name] = partial(draw_curves, results, methods, title)
  if results['importance']:
    plan['importance'] = partial(draw_importance, results)
  for kind, size in view.problems:
    # Where no method has a grid, there is nothing to scatter.
    if scatter.find_tuned(results, (kind, size)):
      draw = partial(scatter.draw_utility, results, (kind, size))
      plan[f'utility_{kind}_{size}'] = draw
  return {**plan, 'cost': partial(scatter.draw_cost, results)}


def list_names(results: Results) -> tuple[str, ...]:
  """Lists the names of the figures that `draw_figures` draws, in order."""
  return tuple(_plan_figures(results, ''))


def draw_figures(results: Results, label: str) -> Iterator[ReportFigure]:
  """Draws the figures of a sweep one by one, finished or not.

  Args:
    results: checked contents of results.json.
    label: the verdict in a line, which is the title of the first figure.
  """
  for name, draw in _plan_figures(results, label).items():
    yield ReportFigure(name, draw())
