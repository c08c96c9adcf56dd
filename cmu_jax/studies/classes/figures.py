"""The figures of a run: how far from retraining, and where the class went."""

from collections.abc import Iterator

import numpy as np
from matplotlib import axes, figure

from cmu_jax.report import style
from cmu_jax.report.frame import Results
from cmu_jax.report.style import ReportFigure
from cmu_jax.studies.classes import load, verdict

_AXES = {'mia_nn_gap': 'MIA-NN gap [points]', 'tv': 'TV × 100'}
CAPTIONS = {
  'nearness': (
    'How far each method is from networks retrained without the class, by two '
    'audits: a dot a class (mean over networks), a bar the mean. The band is '
    'the noise floor, retrained networks beside each other.'
  ),
  'answers': (
    'What networks answer to unseen images of the forgotten class, mean '
    'probabilities over images and networks. Retraining spreads them over '
    'classes that look alike; so should a method.'
  ),
  'noise': (
    'TRW with noise in its similarities: total variation to retrained '
    'networks, a thin line a class, a bold one their mean.'
  ),
}
_SHOWN = ('retrain', 'mask', 'rwft', 'trw', 'trw_sample', 'scrub', 'l1', 'rl')


def _names(ax: axes.Axes, names: list[str]) -> None:
  ax.set_yticks(range(len(names)), names)
  ax.set_ylim(len(names) - 0.4, -0.6)
  ax.grid(axis='y', visible=False)


def _panel(ax: axes.Axes, found: Results, audit: str) -> None:
  best = load.by_class(load.rows(found, 'retrain'), audit)
  spread = [100 * x for x in best.values()]
  if spread:
    ax.axvspan(min(spread), max(spread), color=style.FAINT, label='retrained')
  for i, method in enumerate(found['methods']):
    held = load.by_class(load.rows(found, method), audit)
    some = [100 * x for x in held.values()]
    if some:
      ax.plot(
        some, np.full(len(some), i), 'o', color=style.COLOURS[0], alpha=0.5
      )
      mean = float(np.mean(some))
      ax.plot([mean, mean], [i - 0.32, i + 0.32], color=style.INK, lw=2)
  ax.set_xlabel(_AXES[audit])
  ax.set_xlim(left=0)


def nearness(found: Results, label: str) -> figure.Figure | None:
  """MIA-NN gap and total variation by method; None without any."""
  methods = list(found['methods'])
  if not load.rows(found, 'retrain'):
    return None
  size = (9.6, 1.8 + 0.32 * len(methods))
  made = style.canvas(label, size, found['smoke'])
  first, second = made.subplots(1, 2, sharey=True)
  for ax, audit in zip((first, second), verdict.AUDITS, strict=True):
    _panel(ax, found, audit)
  _names(first, methods)
  second.legend(loc='lower right')
  return made


def answers(found: Results) -> figure.Figure | None:
  """Mean answers to images of the first forgotten class; None without any."""
  held = {}
  for method in (m for m in _SHOWN if m in found['methods']):
    rows = load.rows(found, method)
    first = found['config']['forget_classes'][0]
    own = [row['answer'] for row in rows if row['forget_class'] == first]
    if own:
      held[method] = np.mean(own, axis=0)
  if 'retrain' not in held:
    return None
  names = found['class_names']
  title = f'What is answered to images of {names[first]}'
  made = style.canvas(title, (9.6, 1.8 + 0.36 * len(held)), found['smoke'])
  ax = made.subplots()
  table = np.stack(list(held.values()))
  shade = ax.imshow(table, cmap='Blues', vmin=0, vmax=1, aspect='auto')
  ax.set_yticks(range(len(held)), list(held))
  turned = 90 if len(names) > 20 else 0
  ax.set_xticks(range(len(names)), names, rotation=turned)
  ax.grid(visible=False)
  if len(names) <= 20:
    for (i, j), value in np.ndenumerate(table):
      colour = 'white' if value > 0.6 else style.INK
      ax.text(j, i, f'{value:.2f}', ha='center', va='center', color=colour)
  ax.set_xlabel('answer')
  made.colorbar(shade, ax=ax, label='mean probability')
  return made


def noise(found: Results) -> figure.Figure | None:
  """Total variation of TRW by noise in its similarities; None without any."""
  held = load.noisy(found)
  if not held:
    return None
  made = style.canvas('TRW with noisy similarities', (7.0, 4.0), found['smoke'])
  ax = made.subplots()
  for i, beta in enumerate(dict.fromkeys(beta for beta, _ in held)):
    own = {
      level: load.by_class(rows, 'tv')
      for (b, level), rows in held.items()
      if b == beta
    }
    numbers = sorted(set.intersection(*(set(one) for one in own.values())))
    lines = [[100 * one[c] for one in own.values()] for c in numbers]
    x = [list(own)] * len(lines)
    style.plot_across_seeds(
      ax, x, lines, f'trw, beta {beta:g}', style.COLOURS[i]
    )
  for name, colour in (('rwft', style.COLOURS[2]), ('retrain', style.MUTED)):
    value = load.mean(load.rows(found, name), 'tv')
    if value is not None:
      ax.axhline(value, color=colour, ls='--', label=name)
  ax.set_xlabel('standard deviation of the noise in cosines')
  ax.set_ylabel(_AXES['tv'])
  ax.set_ylim(bottom=0)
  ax.legend(loc='upper left', bbox_to_anchor=(1, 1))
  return made


def draw(found: Results, label: str) -> Iterator[ReportFigure]:
  """The figures one by one.

  Args:
    found: checked contents of results.json, of an unfinished run too.
    label: the verdict.
  """
  with style.context():
    for name, made in (
      ('nearness', nearness(found, label)),
      ('answers', answers(found)),
      ('noise', noise(found)),
    ):
      yield ReportFigure(name, made)
