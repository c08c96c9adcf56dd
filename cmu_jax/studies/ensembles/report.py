"""The report of an ensemble study: finding, tables, figures, glossary."""

import functools
from collections.abc import Iterator

import numpy as np
from matplotlib import figure

from cmu_jax.report import frame, style
from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.report.style import ReportFigure
from cmu_jax.studies.ensembles import tables

_PANELS = ('t_rate', 'joint_failure_rate', 'black_box_accuracy')
CAPTIONS = {
  'transfer': (
    'A dot is a seed, a line the mean. Lower T_rate and joint failure are '
    'better; higher black-box accuracy is.'
  ),
  'penalty': (
    'Mean of every epoch; a thin line is a seed. The penalty of LOTOS must '
    'not lie at 0: then it does nothing.'
  ),
}


def draw_transfer(results: Results, label: str) -> figure.Figure:
  """Draws rates by method, a panel each, for the first threat model."""
  threat, names = tables.list_threats(results)[0], tables.list_methods(results)
  canvas = style.canvas(label, (9.6, 3.6), results['smoke'])
  for ax, key in zip(canvas.subplots(1, 3), _PANELS, strict=True):
    for x, method in enumerate(names):
      rates = list(tables.by_seed(results, threat, method, key).values())
      # A rate over no image is null.
      if not rates:
        continue
      colour, mean = style.COLOURS[x], float(np.mean(rates))
      ax.plot([x] * len(rates), rates, 'o', color=colour, alpha=0.7)
      ax.plot([x - 0.3, x + 0.3], [mean, mean], color=colour, lw=2.4)
    ax.set_xticks(range(len(names)), [tables.NAMES[m] for m in names])
    ax.set_xlim(-0.6, len(names) - 0.4)
    # The margin keeps dots at 0 and 1 visible.
    ax.set_ylim(-0.02, 1.02)
    ax.set_title(tables.METRICS[key][0])
  return canvas


def draw_penalty(results: Results) -> figure.Figure | None:
  """Draws penalty and cross-entropy of LOTOS by epoch; None without it."""
  curves = [c for c in results['curves'] if c['method'] == 'lotos']
  if not curves:
    return None
  # A penalty of 0 has no gradient: members are trained as if it was absent.
  idle = sum(value == 0 for c in curves for value in c['penalty'])
  title = 'The penalty acts in every epoch'
  if idle:
    title = f'The penalty is idle in {idle} epochs'
  canvas = style.canvas(title, (9.6, 3.2), results['smoke'])
  panels = canvas.subplots(1, 2)
  for ax, key in zip(panels, ('penalty', 'cross_entropy'), strict=True):
    x = [list(range(1, len(c[key]) + 1)) for c in curves]
    y = [c[key] for c in curves]
    style.plot_across_seeds(ax, x, y, 'mean', style.CUTS)
    ax.set_title(key.replace('_', '-'))
    ax.set_xlabel('epoch')
  return canvas


def draw_figures(results: Results, label: str) -> Iterator[ReportFigure]:
  """Draws the figures one by one; none before the first row."""
  # Lazily, so that a single figure is in memory at a time.
  if results['rows']:
    with style.context():
      yield ReportFigure('transfer', draw_transfer(results, label))
      yield ReportFigure('penalty', draw_penalty(results))


_GLOSSARY = {
  'T_rate': (
    'Take the images that two members classify correctly, and on which an '
    'attack on the first member works. T_rate is the share of them on which '
    'the same adversarial image fools the second member. Each ensemble has '
    'other such images.'
  ),
  'joint failure': (
    'Share of all images on which both members of a pair are wrong after the '
    'attack on the first member.'
  ),
  'black-box robust accuracy': (
    'Accuracy on adversarial images of a network that was trained separately.'
  ),
  'as released': (
    'The published attack perturbs normalised images and clips them to [0, 1]. '
    'Clipping alone changes every pixel darker than the mean: see "accuracy '
    'without attack".'
  ),
  'clipped': 'Every layer has a spectral norm of at most clip.bound.',
}


def _headline(results: Results) -> str:
  """Compares the transfer rate with and without the penalty."""
  threat = tables.list_threats(results)[0] if results['rows'] else ''
  change = tables.compare(results, threat, 't_rate', 'clipped', 'lotos')
  if change is None:
    return 'Transfer of adversarial images between members'
  # With one seed there is no interval, hence no clear change.
  word = 'lower' if change.mean < 0 else 'higher'
  low, high = change.low, change.high
  clear = low is not None and high is not None and (low > 0 or high < 0)
  caveat = '' if clear else '; the interval over seeds holds 0'
  return (
    f'T_rate with LOTOS is {abs(100 * change.mean):.1f} points {word} than '
    f'with clipping alone{caveat}'
  )


def _verdict(results: Results) -> Verdict:
  """States the effect of the penalty on transfer, and its cost."""
  headline = _headline(results)
  if not results['rows']:
    return Verdict(headline, 'flat', ('No cell is done yet.',))
  sentences = [
    'Less transfer is not more robustness: compare the joint failure and the '
    'black-box accuracy, which are over the same images for all ensembles.'
  ]
  threat = tables.list_threats(results)[0]
  for before, after in (('clipped', 'lotos'), ('plain', 'lotos')):
    parts = [
      f'{tables.METRICS[key][0]} {tables.format_change(change)}'
      for key in ('test_accuracy', 'joint_failure_rate', 'black_box_accuracy')
      if (change := tables.compare(results, threat, key, before, after))
    ]
    if parts:
      name = tables.NAMES[before]
      sentences.append(f'LOTOS against {name}: {", ".join(parts)}.')
  if not results['finished']:
    sentences.append(UNFINISHED)
  return Verdict(headline, 'flat', tuple(sentences))


REPORT = frame.Report(
  read=functools.partial(
    frame.read_results,
    tasks='ensemble',
    required={},
    sections={
      'rows': ('method', 'seed', 'threat'),
      'curves': ('method', 'seed'),
    },
  ),
  verdict=_verdict,
  tables=tables.build_tables,
  figures=draw_figures,
  captions=CAPTIONS,
  sections=lambda results: {},
  glossary=_GLOSSARY,
)
