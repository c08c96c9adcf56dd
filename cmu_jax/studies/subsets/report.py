"""The verdict on a run: the methods nearest to retraining, in words."""

import functools
from typing import NamedTuple

import numpy as np

from cmu_jax.report import frame, page, stats
from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.studies.engine import gaps
from cmu_jax.studies.subsets import figures, tables

# That of `audits.rmia`, which reports do not import because it loads JAX.
_MOST_TIED = 0.9


class Nearest(NamedTuple):
  """The method of a group with the least gap to retraining."""

  method: str
  gap: float  # mean of its gaps over runs
  idle: float  # that of doing nothing
  # Idle minus gap, paired over runs; None below two runs.
  gain: stats.Interval | None


def _gap_by_run(results: Results, method: str) -> dict[tuple, float]:
  """Computes (network, forget set) -> mean gap of its repetitions."""
  attack = results['config']['attack']
  retrained = tables.rows_of(results, 'retrain')
  values: dict[tuple, list[float]] = {}
  for row in tables.rows_of(results, method):
    gap = gaps.compute_gap([row], retrained, attack)
    if gap is not None:
      key = row['seed'], row['forget_seed']
      values.setdefault(key, []).append(gap.of_runs)
  return {key: float(np.mean(repeats)) for key, repeats in values.items()}


def find_nearest(results: Results, group: str) -> Nearest | None:
  """Finds the nearest method of a group; None while no method has a gap."""
  sizes = {
    method: gap.of_runs
    for method in tables.group_methods(results)[group]
    if method not in ('none', 'retrain')
    and (gap := tables.compute_gap(results, method)) is not None
  }
  idle = tables.compute_gap(results, 'none')
  if not sizes or idle is None:
    return None
  method = min(sizes, key=lambda name: sizes[name])
  values = _gap_by_run(results, method)
  idle_values = _gap_by_run(results, 'none')
  runs = sorted(values.keys() & idle_values.keys())
  # Paired by run, because networks and forget sets differ.
  gains = np.array([idle_values[run] - values[run] for run in runs])
  return Nearest(method, sizes[method], idle.of_runs, stats.interval(gains))


def _describe_nearest(group: str, nearest: Nearest) -> str:
  start = (
    f'{group[0].upper()}{group[1:]}, {nearest.method} is nearest to '
    f'retraining: {nearest.gap:.2f} points away, doing nothing '
    f'{nearest.idle:.2f}.'
  )
  gain = nearest.gain
  # A single run has no interval.
  if gain is None:
    return f'{start} One run says nothing about the next one.'
  interval = gaps.interval_text(gain)
  if gain.low > 0:
    return f'{start} It is nearer than doing nothing ({interval}).'
  return f'{start} That is no nearer than doing nothing ({interval}).'


def _describe_chance(results: Results) -> str:
  """Describes the attack on Retrain, which was not trained on D_F."""
  values = [row['ft_auc'] for row in tables.rows_of(results, 'retrain')]
  points = [100 * value for value in values if value is not None]
  if not points:
    return ''
  return (
    f'Retrain, which never saw the forgotten images, has an FT AUC of '
    f'{np.mean(points):.2f}: with {results["forget_size"]} forgotten and '
    f'{results["test_size"]} test images that is what no membership looks like '
    'here, not 50.'
  )


def _describe_ties(results: Results) -> str:
  """Warns if most RMIA scores of the original network are tied."""
  rows = tables.rows_of(results, 'none')
  tied = [x for row in rows if (x := row.get('rmia_tied')) is not None]
  if not tied or np.mean(tied) < _MOST_TIED:
    return ''
  ratio = 100 * np.mean([row['ft_auc_rmia_ratio'] for row in rows])
  return (
    f'RMIA is blind here: {100 * np.mean(tied):.0f} % of its scores of the '
    'network as trained are tied, so that an AUC near 50 is no evidence; the '
    f'AUC of its ratio is {ratio:.1f}. Choose by config.attack=rmia_ratio.'
  )


def describe(results: Results) -> Verdict:
  """States the nearest method of each group, and its evidence."""
  groups = {g: find_nearest(results, g) for g in tables.group_methods(results)}
  nearest = {g: method for g, method in groups.items() if method is not None}
  # Without retrained networks no method has a gap.
  if not nearest:
    return Verdict('No verdict yet', 'flat', ('Nothing can be compared yet.',))
  better = any(n.gain and n.gain.low > 0 for n in nearest.values())
  names = ' and '.join(f'{n.method} ({g})' for g, n in nearest.items())
  label = (
    f'Nearest to retraining: {names}'
    if better
    else 'No method is nearer to retraining than doing nothing'
  )
  sentences = [_describe_nearest(*item) for item in nearest.items()]
  sentences += [_describe_chance(results), _describe_ties(results)]
  sentences.append(
    'The nearest of several methods is flattered by the choice; networks share '
    'the test images, so that runs are not independent.'
  )
  if not results['finished']:
    sentences.append(UNFINISHED)
  # The tone of the page: a smoke run proves nothing.
  evidence = results['finished'] and not results['smoke']
  tone = 'good' if better and evidence else 'flat'
  return Verdict(label, tone, tuple(s for s in sentences if s))


_REQUIRED = {
  'train_size': int,
  'forget_size': int,
  'test_size': int,
  'methods': dict,
}
_ROW = ('method', 'information', 'seed', 'forget_seed', 'run', 'diverged')
_GLOSSARY = {
  'D, D_F, D_R, D_T': (
    'The training set; the random part of it that is to be forgotten; the rest '
    'of it; and the test set.'
  ),
  'none': 'Doing nothing: the model as it was trained.',
  'retrain': 'Training anew without the forgotten images: the gold standard.',
  'UA': (
    'Accuracy on the forgotten images. Retraining does not get them all wrong: '
    'it treats them as it treats new images.'
  ),
  'AUC': (
    'How well a score tells two sets apart: 50 is chance, 100 is always, below '
    '50 is the wrong way round, which tells them apart as well.'
  ),
  'RMIA': (
    'An attack that compares with reference networks trained on other halves '
    'of the data (arXiv 2312.03262). It needs config.references.'
  ),
  'MIS': (
    'The share of forgotten images that an attack on the confidence holds for '
    'unseen. It calls most confident images seen: only the difference to '
    'retraining means anything.'
  ),
  'gap': tables.GAPS,
  'point': 'A hundredth of a rate: from 0.90 to 0.85 is a fall of 5 points.',
  'what an audit shows': (
    'An attack that fails shows that this attack fails, on these images, on '
    'average over them. It is no proof that nothing is left.'
  ),
}


def _sections(results: Results) -> dict[str, str]:
  config = results['config']
  text = (
    f'Of {results["train_size"]} training images of {config["dataset"]}, '
    f'{results["forget_size"]} drawn at random were to be forgotten; '
    f'{results["test_size"]} test images are reported on. The network is '
    f'{config["model"]["name"]}.'
  )
  return {'What was to be forgotten': page.paragraphs([text])}


REPORT = frame.Report(
  read=functools.partial(
    frame.read_results,
    tasks='forgetting',
    required=_REQUIRED,
    sections=dict.fromkeys(('rows', 'requests', 'tuning'), _ROW),
  ),
  verdict=describe,
  tables=tables.build_tables,
  figures=figures.draw_figures,
  captions=figures.CAPTIONS,
  sections=_sections,
  glossary=_GLOSSARY,
)
