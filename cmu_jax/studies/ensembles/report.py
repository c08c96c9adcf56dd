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


def transfer(results: Results, label: str) -> figure.Figure:
  """Rates by method, a panel each, for the first threat model."""
  threat, names = tables.threats(results)[0], tables.methods(results)
  canvas = style.canvas(label, (9.6, 3.6), results['smoke'])
  for ax, key in zip(canvas.subplots(1, 3), _PANELS, strict=True):
    for at, method in enumerate(names):
      rates = list(tables.values(results, threat, method, key).values())
      if not rates:
        continue
      colour = style.COLOURS[at]
      ax.plot([at] * len(rates), rates, 'o', color=colour, alpha=0.7)
      mean = float(np.mean(rates))
      ax.plot([at - 0.3, at + 0.3], [mean, mean], color=colour, lw=2.4)
    ax.set_xticks(range(len(names)), [tables.NAMES[m] for m in names])
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_ylim(-0.02, 1.02)
    ax.set_title(tables.METRICS[key][0])
  return canvas


def penalty(results: Results) -> figure.Figure | None:
  """The penalty and cross-entropy of LOTOS by epoch; None without it."""
  curves = [c for c in results['curves'] if c['method'] == 'lotos']
  if not curves:
    return None
  idle = sum(value == 0 for c in curves for value in c['penalty'])
  title = 'The penalty acts in every epoch'
  if idle:
    title = f'The penalty is idle in {idle} epochs'
  canvas = style.canvas(title, (9.6, 3.2), results['smoke'])
  for ax, key in zip(
    canvas.subplots(1, 2), ('penalty', 'cross_entropy'), strict=True
  ):
    x = [list(range(1, len(c[key]) + 1)) for c in curves]
    y = [c[key] for c in curves]
    style.plot_across_seeds(ax, x, y, 'mean', style.CUTS)
    ax.set_title(key.replace('_', '-'))
    ax.set_xlabel('epoch')
  return canvas


def draw(results: Results, label: str) -> Iterator[ReportFigure]:
  """The figures, one by one."""
  if not results['rows']:
    return
  with style.context():
    yield ReportFigure('transfer', transfer(results, label))
    yield ReportFigure('penalty', penalty(results))


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
  threat = tables.threats(results)[0] if results['rows'] else ''
  change = tables.change(results, threat, 't_rate', 'clipped', 'lotos')
  if change is None:
    return 'Transfer of adversarial images between members'
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
  threat = tables.threats(results)[0]
  for before, after in (('clipped', 'lotos'), ('plain', 'lotos')):
    parts = [
      f'{tables.METRICS[key][0]} {tables.format_change(change)}'
      for key in ('test_accuracy', 'joint_failure_rate', 'black_box_accuracy')
      if (change := tables.change(results, threat, key, before, after))
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
  tables=tables.contents,
  figures=draw,
  captions=CAPTIONS,
  sections=lambda results: {},
  glossary=_GLOSSARY,
)
