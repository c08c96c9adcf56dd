"""Figures over alpha and over methods."""

from typing import Any

import numpy as np
from matplotlib import axes, figure

from cmu_jax.methods import study_names
from cmu_jax.report import style
from cmu_jax.report.frame import Results
from cmu_jax.studies.cuts import seed_stats

# Colour and dash both differ, so that the terms stay apart in black and white.
_PARTS = {
  'adjusted_agreement': ('adjusted agreement', '#56B4E9', '--'),
  'penalty_effective': ('minus: effective classes', '#E69F00', ':'),
  'penalty_coverage': ('minus: class coverage', '#CC79A7', '-.'),
}
_TESTED = {
  'test_accuracy': ('test accuracy', style.CUTS, 'o'),
  'attack_success_rate': ('attack success rate', style.ATTACK, 's'),
  'target_class_accuracy': ('target class accuracy', style.TARGET, '^'),
}
# Below this a score only says that fewer than two classes were predicted.
_NO_SCORE = -1e5


def _floats(values: list) -> np.ndarray:
  """Numbers with gaps (NaN) for null and for 'fewer than two classes'."""
  numbers = np.array([np.nan if v is None else v for v in values], float)
  return np.where(numbers < _NO_SCORE, np.nan, numbers)


def _plot(
  ax: axes.Axes,
  curves: list[dict[str, Any]],
  key: str,
  label: str,
  colour: str,
  **line: Any,
) -> None:
  """Plots a column over alpha, of the curves that have it."""
  curves = [curve for curve in curves if curve.get(key)]
  if curves:
    x = [curve['alpha'] for curve in curves]
    y = [_floats(curve[key]) for curve in curves]
    style.plot_across_seeds(ax, x, y, label, colour, **line)


def _chosen_alphas(curves: list[dict[str, Any]]) -> list[float]:
  """Lists the alpha of every seed, without abstentions."""
  return [c['alpha_hat'] for c in curves if c.get('selected') is not False]


def _tested_curves(results: Results) -> list[dict[str, Any]]:
  return [c['evaluated'] for c in results['curves'] if c.get('evaluated')]


def _mark_choice(ax: axes.Axes, curves: list[dict[str, Any]]) -> None:
  alphas = _chosen_alphas(curves)
  label = f'chosen alpha: {seed_stats.format_alphas(alphas)}'
  for alpha in alphas:
    ax.axvline(alpha, color=style.INK, lw=1, ls=(0, (4, 3)), label=label)
    # Matplotlib leaves labels that start with an underscore out of the legend,
    # so the label appears once.
    label = '_'


def _plot_search(ax: axes.Axes, results: Results) -> None:
  """Plots the score with its terms, or the attack on the proxy."""
  poison, curves = results['task'] == 'poison', results['curves']
  for term, (label, colour, dash) in _PARTS.items():
    _plot(ax, curves, term, label, colour, ls=dash, lw=1.6)
  key, label, colour = (
    ('proxy_attack_success_rate', 'attack success on proxy', style.ATTACK)
    if poison
    else ('J', 'score J', style.INK)
  )
  _plot(ax, curves, key, label, colour)
  for curve in curves:
    # An abstention has no chosen alpha, so it gets no mark.
    if curve.get(key) and _chosen_alphas([curve]):
      # The chosen alpha need not equal a point of the grid exactly.
      steps = np.abs(np.subtract(curve['alpha'], curve['alpha_hat']))
      height = _floats(curve[key])[int(steps.argmin())]
      ax.plot(curve['alpha_hat'], height, 'o', color=colour, ms=6)
  ax.set_ylabel('rate (0 to 1)' if poison else 'score and its parts')
  if poison:
    # The margin keeps dots at 0 and 1 visible.
    ax.set_ylim(-0.03, 1.03)
  ax.set_title('What CUTS sees: proxy images only')


def _level(ax: axes.Axes, results: Results, method: str, dash: Any) -> None:
  values = list(seed_stats.by_seed(results, method, 'test_accuracy').values())
  if values:
    name = study_names.present(method).label
    ax.axhline(
      float(np.mean(values)),
      color=style.REFERENCE if method == 'oracle' else style.MUTED,
      lw=1.4,
      ls=dash,
      label=f'test accuracy, {name}',
    )


def _plot_test_rates(ax: axes.Axes, results: Results) -> None:
  """Plots rates on test images over the coarse grid."""
  for key, (label, colour, marker) in _TESTED.items():
    _plot(ax, _tested_curves(results), key, label, colour, marker=marker, ms=4)
  # The gap between both levels is the scale of a repair.
  _level(ax, results, 'corrupted', (0, (1, 1.5)))
  _level(ax, results, 'oracle', (0, (6, 2)))
  ax.set(xlabel='alpha (length of the step, no unit)', ylabel='rate (0 to 1)')
  ax.set_ylim(-0.03, 1.03)
  ax.set_title('What happens on test images: never used to choose alpha')


def _outcome(results: Results) -> str:
  """Describes the effect of the chosen alpha, or the best alpha on tests."""
  if results['task'] == 'poison':
    changes = [
      (name, seed_stats.pair_by_seed(results, key, ('corrupted', 'cuts')))
      for key, name in (
        ('attack_success_rate', 'attack success'),
        ('target_class_accuracy', 'target class'),
      )
    ]
    return ''.join(
      '; {} {:.2f} → {:.2f}'.format(name, *pairs.mean(axis=0))
      for name, pairs in changes
      if len(pairs)
    )
  # The best alpha on test images needs test labels: it is a diagnosis and never
  # a choice.
  best = [
    curve['alpha'][int(np.argmax(curve['test_accuracy']))]
    for curve in _tested_curves(results)
    if curve.get('test_accuracy')
  ]
  alphas = seed_stats.format_alphas(best)
  return f'; best on test images: {alphas}' if best else ''


def _alpha_title(results: Results) -> str:
  alphas = _chosen_alphas(results['curves'])
  if not alphas:
    return 'No alpha passed: CUTS abstained and changed nothing'
  idle = len(results['curves']) - len(alphas)
  seeds = seed_stats.format_count(idle, 'seed')
  abstentions = f' (abstained in {seeds})' if idle else ''
  text = f'CUTS chose alpha = {seed_stats.format_alphas(alphas)}{abstentions}'
  return text + _outcome(results)


def draw_alpha_curve(results: Results) -> figure.Figure:
  """Draws the alpha search of every seed, and its effect on test images."""
  with style.context():
    canvas = style.canvas(_alpha_title(results), (9.2, 7.4), results['smoke'])
    # The shared axis compares score and effect at the same alpha.
    top, bottom = canvas.subplots(2, 1, sharex=True)
    _plot_search(top, results)
    _plot_test_rates(bottom, results)
    for ax in (top, bottom):
      _mark_choice(ax, results['curves'])
      ax.legend(loc='upper left', bbox_to_anchor=(1.0, 1.0))
    return canvas


def _dots(
  ax: axes.Axes, results: Results, key: str, methods: tuple[str, ...]
) -> None:
  rates = [row[key] for row in results['rows'] if row.get(key) is not None]
  # The axis starts at a round number, half a tick below the lowest dot.
  low = max(0.0, float(np.floor(10 * min(rates) - 0.5)) / 10)
  for y, method in enumerate(methods):
    values = list(seed_stats.by_seed(results, method, key).values())
    colour = style.CUTS if method == 'cuts' else style.INK
    # An empty row could be mistaken for a value of zero.
    if not values:
      ax.text(
        (1 + low) / 2, y, 'not applicable', color=style.MUTED, va='center'
      )
      continue
    mean = float(np.mean(values))
    rows = [y] * len(values)
    ax.plot(values, rows, 'o', color=colour, alpha=0.35, ms=6, mew=0)
    ax.plot([mean, mean], [y - 0.28, y + 0.28], color=colour, lw=2.6)
    # Near the right end, text on the right would leave the axes.
    near_end = mean > low + 0.7 * (1 - low)
    ax.annotate(
      f'{mean:.3f}',
      (min(values) if near_end else max(values), y),
      (-9 if near_end else 9, 0),
      textcoords='offset points',
      va='center',
      ha='right' if near_end else 'left',
      color=colour,
      fontsize=10,
    )
  ax.set_xlim(low - 0.04 * (1 - low), 1 + 0.04 * (1 - low))
  ax.set_xlabel(f'{_TESTED[key][0]}\n(0 to 1)')


def _methods_title(results: Results) -> str:
  changes = []
  for key, (name, *_) in _TESTED.items():
    pairs = seed_stats.pair_by_seed(results, key, ('corrupted', 'cuts'))
    if len(pairs):
      old, new = pairs.mean(axis=0)
      changes.append(f'{name} {old:.3f} → {new:.3f}')
  text = f'CUTS: {", ".join(changes)}'
  oracle = list(seed_stats.by_seed(results, 'oracle', 'test_accuracy').values())
  # A title with several metrics has no room for the oracle.
  if len(changes) == 1 and oracle:
    text += f' (oracle: {np.mean(oracle):.3f})'
  return text


def draw_methods(results: Results) -> figure.Figure:
  """Draws a row for each method: a dot a seed, and a bar at the mean."""
  order = study_names.sort_names(
    study_names.CUTS, [row['method'] for row in results['rows']]
  )
  keys = [
    key
    for key in _TESTED
    if any(row.get(key) is not None for row in results['rows'])
  ]
  with style.context():
    size = (9.2, 1.5 + 0.5 * len(order))
    canvas = style.canvas(_methods_title(results), size, results['smoke'])
    grid = canvas.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for ax, key in zip(grid, keys, strict=True):
      _dots(ax, results, key, order)
    names = [study_names.present(method, results['task']) for method in order]
    grid[0].set_yticks(
      range(len(order)),
      [f'{label}\n({note})' if note else label for label, note in names],
    )
    # The reversed axis puts the first method at the top.
    grid[0].set_ylim(len(order) - 0.4, -0.6)
    return canvas
