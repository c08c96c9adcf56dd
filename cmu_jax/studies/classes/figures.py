"""Figures of the study: distance to retraining, answers, and noise."""

from collections.abc import Iterator

import numpy as np
from matplotlib import axes, figure

from cmu_jax.report import style
from cmu_jax.report.frame import Results
from cmu_jax.report.style import ReportFigure
from cmu_jax.studies.classes import tables, verdict

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
# Rows of the figure of answers.
_ANSWERING = (
  'retrain',
  'mask',
  'rwft',
  'trw',
  'trw_sample',
  'scrub',
  'l1',
  'rl',
)


def _draw_distances(ax: axes.Axes, results: Results, audit: str) -> None:
  floors = tables.mean_by_class(tables.rows_of(results, 'retrain'), audit)
  spread = [100 * x for x in floors.values()]
  # No method can be expected left of the band.
  if spread:
    ax.axvspan(min(spread), max(spread), color=style.FAINT, label='retrained')
  means = {
    method: tables.mean_by_class(tables.rows_of(results, method), audit)
    for method in results['methods']
  }
  style.plot_dots(
    ax, {m: [100 * x for x in v.values()] for m, v in means.items()}
  )
  ax.set_xlabel(_AXES[audit])
  # From zero, so that lengths compare.
  ax.set_xlim(left=0)


def draw_distances(results: Results, label: str) -> figure.Figure | None:
  """Draws MIA-NN gap and total variation; None without retrained networks."""
  methods = list(results['methods'])
  if not tables.rows_of(results, 'retrain'):
    return None
  size = (9.6, 1.8 + 0.32 * len(methods))
  canvas = style.canvas(label, size, results['smoke'])
  panels = canvas.subplots(1, 2, sharey=True)
  for ax, audit in zip(panels, verdict.AUDITS, strict=True):
    _draw_distances(ax, results, audit)
  panels[1].legend(loc='lower right')
  return canvas


def draw_answers(results: Results) -> figure.Figure | None:
  """Draws the mean answers to images of the first forgotten class."""
  answers, number = {}, results['config']['forget_classes'][0]
  for method in (m for m in _ANSWERING if m in results['methods']):
    rows = tables.rows_of(results, method)
    by_seed = [r['answer'] for r in rows if r['forget_class'] == number]
    if by_seed:
      answers[method] = np.mean(by_seed, axis=0)
  if 'retrain' not in answers:
    return None
  names = results['class_names']
  title = f'What is answered to images of {names[number]}'
  canvas = style.canvas(
    title, (9.6, 1.8 + 0.36 * len(answers)), results['smoke']
  )
  ax = canvas.subplots()
  table = np.stack(list(answers.values()))
  shade = ax.imshow(table, cmap='Blues', vmin=0, vmax=1, aspect='auto')
  ax.set_yticks(range(len(answers)), list(answers))
  # Numbers of many classes would overlap.
  crowded = len(names) > 20
  ax.set_xticks(range(len(names)), names, rotation=90 if crowded else 0)
  ax.grid(visible=False)
  if not crowded:
    for (i, j), value in np.ndenumerate(table):
      colour = 'white' if value > 0.6 else style.INK
      ax.text(j, i, f'{value:.2f}', ha='center', va='center', color=colour)
  ax.set_xlabel('answer')
  canvas.colorbar(shade, ax=ax, label='mean probability')
  return canvas


def draw_noise(results: Results) -> figure.Figure | None:
  """Draws the total variation of TRW by noise in its similarities."""
  groups = tables.group_noise(results)
  if not groups:
    return None
  canvas = style.canvas(
    'TRW with noisy similarities', (7.0, 4.0), results['smoke']
  )
  ax = canvas.subplots()
  for i, beta in enumerate(dict.fromkeys(beta for beta, _ in groups)):
    means = {
      level: tables.mean_by_class(rows, 'tv')
      for (b, level), rows in groups.items()
      if b == beta
    }
    # Lines of classes that have every level of noise.
    classes = sorted(set.intersection(*map(set, means.values())))
    lines = [[100 * m[c] for m in means.values()] for c in classes]
    x = [list(means)] * len(lines)
    style.plot_across_seeds(
      ax, x, lines, f'trw, beta {beta:g}', style.COLOURS[i]
    )
  for name, colour in (('rwft', style.COLOURS[2]), ('retrain', style.MUTED)):
    value = tables.mean_points(tables.rows_of(results, name), 'tv')
    if value is not None:
      ax.axhline(value, color=colour, ls='--', label=name)
  ax.set_xlabel('standard deviation of the noise in cosines')
  ax.set_ylabel(_AXES['tv'])
  ax.set_ylim(bottom=0)
  ax.legend(loc='upper left', bbox_to_anchor=(1, 1))
  return canvas


def draw_figures(results: Results, label: str) -> Iterator[ReportFigure]:
  """Draws the figures lazily."""
  # Lazily, so that a single figure is in memory at a time.
  with style.context():
    yield ReportFigure('nearness', draw_distances(results, label))
    yield ReportFigure('answers', draw_answers(results))
    yield ReportFigure('noise', draw_noise(results))
