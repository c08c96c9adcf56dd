"""Figures over alpha and over methods."""

from typing import Any

import numpy as np
from matplotlib import axes, figure

from cmu_jax.methods import study_names
from cmu_jax.report import style
from cmu_jax.studies.cuts import seed_stats
from cmu_jax.studies.cuts.load import Results

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


def _select_curves(
  curves: list[dict[str, Any]], key: str
) -> list[dict[str, Any]]:
  return [curve for curve in curves if curve.get(key)]


def _mark_choice(ax: axes.Axes, curves: list[dict[str, Any]]) -> None:
  chosen = [c['alpha_hat'] for c in curves if c.get('selected') is not False]
  label = f'chosen alpha: {seed_stats.format_alphas(chosen)}'
  for alpha in chosen:
    ax.axvline(alpha, color=style.INK, lw=1, ls=(0, (4, 3)), label=label)
    # Matplotlib leaves labels that start with an underscore out of the legend,
    # so the label appears once.
    label = '_'


def _search(ax: axes.Axes, results: Results) -> None:
  """Plots the score with its terms, or the attack on the proxy."""
  poison = results['task'] == 'poison'
  key = 'proxy_attack_success_rate' if poison else 'J'
  for term, (label, colour, dash) in _PARTS.items():
    if curves := _select_curves(results['curves'], term):
      x = [c['alpha'] for c in curves]
      y = [_floats(c[term]) for c in curves]
      style.plot_across_seeds(ax, x, y, label, colour, ls=dash, lw=1.6)
  curves = _select_curves(results['curves'], key)
  if curves:
    label = 'attack success on proxy' if poison else 'score J'
    colour = style.ATTACK if poison else style.INK
    x = [c['alpha'] for c in curves]
    y = [_floats(c[key]) for c in curves]
    style.plot_across_seeds(ax, x, y, label, colour)
    # An abstention has no chosen alpha, so it gets no mark.
    for curve, heights in zip(curves, y, strict=True):
      if curve.get('selected') is not False:
        # The chosen alpha need not equal a point of the grid exactly.
        near = int(
          np.abs(np.subtract(curve['alpha'], curve['alpha_hat'])).argmin()
        )
        ax.plot(curve['alpha_hat'], heights[near], 'o', color=colour, ms=6)
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
  evaluated = [c['evaluated'] for c in results['curves'] if c.get('evaluated')]
  for key, (label, colour, marker) in _TESTED.items():
    if columns := _select_curves(evaluated, key):
      x = [e['alpha'] for e in columns]
      y = [_floats(e[key]) for e in columns]
      style.plot_across_seeds(ax, x, y, label, colour, marker=marker, ms=4)
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
  tested = [c['evaluated'] for c in results['curves'] if c.get('evaluated')]
  tested = _select_curves(tested, 'test_accuracy')
  best = [e['alpha'][int(np.argmax(e['test_accuracy']))] for e in tested]
  return (
    f'; best on test images: {seed_stats.format_alphas(best)}' if best else ''
  )


def _alpha_title(results: Results) -> str:
  curves = results['curves']
  chosen = [c['alpha_hat'] for c in curves if c.get('selected') is not False]
  if not chosen:
    return 'No alpha passed: CUTS abstained and changed nothing'
  idle = len(curves) - len(chosen)
  abstentions = (
    f' (abstained in {seed_stats.format_count(idle, "seed")})' if idle else ''
  )
  text = f'CUTS chose alpha = {seed_stats.format_alphas(chosen)}{abstentions}'
  return text + _outcome(results)


def alpha_curve(results: Results) -> figure.Figure:
  """The alpha search of every seed above what it does to test images.

  Args:
    results: results.json of a run, with at least one curve.
  """
  with style.context():
    canvas = style.canvas(_alpha_title(results), (9.2, 7.4), results['smoke'])
    # The shared axis compares score and effect at the same alpha.
    top, bottom = canvas.subplots(2, 1, sharex=True)
    _search(top, results)
    _plot_test_rates(bottom, results)
    for ax in (top, bottom):
      _mark_choice(ax, results['curves'])
      ax.legend(loc='upper left', bbox_to_anchor=(1.0, 1.0))
    return canvas


def _floor(results: Results, key: str) -> float:
  """Returns the start of the axis: a round number below every dot."""
  values = [row[key] for row in results['rows'] if row.get(key) is not None]
  # Half a tick of room keeps the lowest dot off the frame.
  return max(0.0, float(np.floor(10 * min(values) - 0.5)) / 10)


def _dots(
  ax: axes.Axes, results: Results, key: str, methods: tuple[str, ...]
) -> None:
  low = _floor(results, key)
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


def _tick(method: str, task: str) -> str:
  label, note = study_names.present(method, task)
  return f'{label}\n({note})' if note else label


def methods(results: Results) -> figure.Figure:
  """Every method: a dot a seed and a bar at the mean.

  Args:
    results: results.json of a run.
  """
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
    grid[0].set_yticks(
      range(len(order)), [_tick(m, results['task']) for m in order]
    )
    # The reversed axis puts the first method at the top.
    grid[0].set_ylim(len(order) - 0.4, -0.6)
    return canvas
