"""The report of an audit: finding, tables, figures, limits."""

import functools
from collections.abc import Iterator

import numpy as np
from matplotlib import figure

from cmu_jax.report import frame, page, style
from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.report.style import ReportFigure
from cmu_jax.studies.membership import tables

CAPTIONS = {
  'roc': (
    'True against false positive rate, both logarithmic: what matters is whom '
    'an attack can name while it accuses few falsely. Dashed: chance.'
  )
}


def draw_roc(results: Results, label: str) -> figure.Figure | None:
  """Draws the ROC curves of forgotten points, of the last attack on a method.

  None without any.
  """
  names = {row['attack'] for row in results['rows']}
  # RMIA is steps of its ratio; U-LiRA is drawn alone where it was asked for.
  names = names & {'U-LiRA'} or names - {'RMIA'}
  rows = {
    f'{row["method"]}, {tables.name_attack(row)}': row
    for row in results['rows']
    # Results whose numbers alone are published have no curves.
    if row['points'] == 'forget' and row['attack'] in names and row.get('curve')
  }
  if not rows:
    return None
  canvas = style.canvas(label, (7.6, 5.4), results['smoke'])
  ax = canvas.subplots()
  for (name, row), colour in zip(rows.items(), style.COLOURS, strict=False):
    fpr, tpr = np.array(row['curve']).T
    # A logarithmic axis has no 0.
    ax.plot(fpr, np.maximum(tpr, 1e-4), color=colour, label=name)
  chance = np.geomspace(1e-3, 1, 50)
  ax.plot(chance, chance, color=style.MUTED, ls=(0, (4, 3)), lw=1)
  style.set_log_axes(ax, 'x', 'y')
  ax.set(
    xlim=(1e-3, 1),
    ylim=(1e-3, 1.05),
    xlabel='false positive rate',
    ylabel='true positive rate',
  )
  ax.legend(loc='lower right', fontsize=8)
  return canvas


def draw_figures(results: Results, label: str) -> Iterator[ReportFigure]:
  """Draws the only figure, under the finding."""
  with style.context():
    yield ReportFigure('roc', draw_roc(results, label))


_GLOSSARY = {
  'D, D_F, D_R': "A network's training set, half of all images, drawn at "
  'random; the random part of it that it is to forget; the rest.',
  'RMIA': "Is a point's probability raised more than that of other points, "
  'beside reference networks (arXiv 2312.03262)?',
  'LiRA': 'Is it more like networks trained with the point or without it '
  '(arXiv 2112.03570)?',
  'U-LiRA': 'Is it more like networks that forgot the point or that never saw '
  'it, each network held out in turn (arXiv 2403.01218)?',
  'adaptive': 'The references were unlearned with the audited method too: the '
  'attacker knows the method.',
}

# Scores below those of unseen points tell forgotten points apart too.
_TELLING = ('leaks', 'reversed')


def _check_attacks(results: Results) -> tuple[bool, list[str]]:
  """Returns whether any attack works as it should, and a sentence on each."""
  level = f'{results["config"]["evaluate"]["confidence"]:.0%}'
  sentences, works = [], False
  for attack, checks in results['sanity'].items():
    finds = checks['original_above_half']
    fair = checks['retrain_contains_half']
    works |= finds and fair
    sentences.append(
      f'{attack}: before unlearning it '
      + ('finds the points' if finds else 'does not find the points')
      + f' at {level}, and of networks that never saw them it '
      + ('claims nothing.' if fair else 'claims something, which is wrong.')
    )
  return works, sentences


def _judge_method(results: Results, method: str) -> tuple[bool, str]:
  """Returns whether an attack finds the forgotten points, and the strongest."""
  rows = [
    row
    for row in results['rows']
    if row['method'] == method and row['points'] == 'forget'
  ]
  leaks = sum(row['verdict'] in _TELLING for row in rows)
  # The strongest attack decides: one that finds the points is enough.
  worst = max(rows, key=lambda row: row['auroc']['value'])
  auc = worst['auroc']
  return leaks > 0, (
    f'{method}: {leaks} of {len(rows)} attacks find what it forgot. The '
    f'strongest is {tables.name_attack(worst)}, AUC {auc["value"]:.3f} '
    f'[{auc["low"]:.3f}, {auc["high"]:.3f}]: {worst["verdict"]}.'
  )


def describe(results: Results) -> Verdict:
  """States whether forgotten points can be told from unseen points."""
  works, sentences = _check_attacks(results)
  leaks = []
  for method in results['methods']:
    if method not in ('none', 'retrain'):
      leak, sentence = _judge_method(results, method)
      sentences.append(sentence)
      leaks += [method] if leak else []
  sentences.append(
    'An attack that fails shows that this attack fails, with so many '
    'references, on average over these points. Networks share a pool, and '
    'points their references: intervals have '
    f'{tables.describe_clusters(results)}.'
  )
  if not results['finished']:
    sentences.append(UNFINISHED)
  if not works:
    return Verdict(
      'Cannot conclude: no attack tells members and is fair to retraining',
      'flat',
      tuple(sentences),
    )
  if leaks:
    label = f'Forgotten points can be told from unseen ones: {", ".join(leaks)}'
    return Verdict(label, 'bad', tuple(sentences))
  label = 'No attack tells forgotten points from unseen ones'
  return Verdict(label, 'good', tuple(sentences))


def describe_limits(results: Results) -> list[str]:
  """Lists the limits of an audit, in sentences."""
  config = results['config']
  level = config['evaluate']['confidence']
  rows = [row for row in results['rows'] if row['points'] == 'forget']
  least = [row['detectable'] for row in rows if row.get('detectable')]
  sentences = [
    'It can show that something is left. Where the interval of a method lies '
    'above 50, forgotten points still differ from points that were never seen. '
    'Where it lies below, they differ too: more was forgotten than retraining '
    'forgets, and that gives them away as well.',
    'It cannot show that nothing is left. An interval around 50 says that this '
    'attack fails, with this many references, on average over these points. A '
    'stronger attack may succeed, and a few points may stand out where the '
    'average does not: the true positive rates at 1 % and 0.1 % are for them.',
    'It is only worth what its controls are worth. Networks that were trained '
    'anew without the points have to come out at 50, networks that forgot '
    'nothing above it; see the first sentences of this page.',
    'It is about these networks, images and settings. Nothing was tuned for '
    'the methods here, and another recipe may leave more or less behind.',
    f'Intervals in tables have {tables.describe_clusters(results)}, at '
    f'{level:.0%} each: about {1 - level:.0%} of such intervals miss, and this '
    'page has several.',
    *_shared_confidence(rows),
  ]
  if least:
    sentences.append(
      f'The fewest points here would show an AUC of {100 * max(least):.1f} '
      'with a probability of 0.8; smaller leaks may go unnoticed.'
    )
  if config['attack'] == 'ulira' and any(
    row['attack'] != 'U-LiRA' for row in rows
  ):
    sentences.append(
      'All attacks are on the same networks and forgotten points, so that they '
      'can be compared; U-LiRA leaves out points that fewer than three '
      'networks forgot. Adaptive ones know the method: their references were '
      'unlearned with it, too.'
    )
  return sentences


def _shared_confidence(rows: list[Results]) -> list[str]:
  """States that the attacks on a method share the error probability."""
  # Older results have a verdict by the interval of each attack alone.
  attacks = max((row.get('attacks', 1) for row in rows), default=1)
  if attacks == 1:
    return []
  return [
    f'A method that leaves nothing is attacked {attacks} times. The intervals '
    'behind the verdicts are wider than those in tables, so that all attacks '
    'on a method together err that seldom.'
  ]


def _sections(results: Results) -> dict[str, str]:
  config = results['config']
  sentence = (
    f'{results["pool_size"]} images of {config["dataset"]}; every network is '
    f'trained on half of them and forgets {config["fraction"]:.0%} of those. '
    f'{config["references"]} networks were trained to compare with. The '
    f'network is {config["model"]["name"]}.'
  )
  return {
    'What was audited': page.paragraphs([sentence]),
    'What this can and cannot show': page.paragraphs(describe_limits(results)),
  }


REPORT = frame.Report(
  read=functools.partial(
    frame.read_results,
    tasks='membership',
    required={'pool_size': int, 'methods': dict, 'sanity': dict},
    sections={'rows': ('method', 'points', 'attack', 'adaptive', 'auroc')},
  ),
  verdict=describe,
  tables=tables.build_tables,
  figures=draw_figures,
  captions=CAPTIONS,
  sections=_sections,
  glossary=_GLOSSARY,
)
