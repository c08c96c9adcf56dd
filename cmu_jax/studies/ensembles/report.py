"""The report of an ensemble study: finding, tables, figures, glossary."""

import os

from cmu_jax.report import frame
from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.studies.ensembles import figures, tables

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


def _read(folder: os.PathLike | str) -> Results:
  parts = {'rows': ('method', 'seed', 'threat'), 'curves': ('method', 'seed')}
  return frame.read_results(folder, 'ensemble', {}, parts)


REPORT = frame.Report(
  read=_read,
  verdict=_verdict,
  tables=tables.contents,
  figures=figures.draw,
  captions=figures.CAPTIONS,
  sections=lambda results: {},
  glossary=_GLOSSARY,
)
