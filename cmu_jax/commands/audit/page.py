"""The sentences, the figure and the report of an audit."""

from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax import audits
from cmu_jax.commands import frame
from cmu_jax.commands.audit import likeness
from cmu_jax.commands.audit.npz_points import AttackScores
from cmu_jax.report import page, style

_HEADINGS = {
  'leaks': 'Members can be told from non-members',
  'reversed': 'Members score lower than non-members: distrust this audit',
  'no leak found': 'No leak found by these attacks',
  'cannot conclude': 'Too little to conclude',
}
_TONES = {'leaks': 'bad', 'no leak found': 'good'}
_CAPTION = (
  'True against false positive rate, both logarithmic: an attack is dangerous '
  'if it names members while it accuses few non-members. Dashed: chance.'
)
_COLUMNS = (
  ('auroc', 'AUC'),
  ('balanced_accuracy', 'balanced accuracy'),
  ('tpr_1_percent', 'TPR at 1 % FPR'),
  ('tpr_01_percent', 'TPR at 0.1 % FPR'),
)


def overall_verdict(results: dict[str, Any]) -> str:
  """The verdict of all attacks together: a single leak is a leak."""
  verdicts = {row['verdict'] for row in results['rows']}
  # Each interval is wide enough for all attacks to err this seldom together.
  for name in ('leaks', 'reversed'):
    if name in verdicts:
      return name
  # References unlike the network blind the attacks that rely on them.
  if (results.get('references') or {'alike': True})['alike'] is False:
    return 'cannot conclude'
  # An attack without a conclusion may be the one that matters.
  return 'no leak found' if verdicts == {'no leak found'} else 'cannot conclude'


def headline(results: dict[str, Any]) -> str:
  """The outcome as one line."""
  verdict, rows = overall_verdict(results), results['rows']
  failures = sum(row['verdict'] == 'no leak found' for row in rows)
  if verdict == 'cannot conclude' and failures == len(rows):
    return f'{_HEADINGS[verdict]}: the references are unlike the network'
  if verdict == 'cannot conclude' and failures:
    return (
      f'{_HEADINGS[verdict]}: {failures} of {len(rows)} attacks find no leak, '
      'the others decide nothing'
    )
  if verdict == 'leaks' and len(rows) > 1:
    leaks = sum(row['verdict'] == verdict for row in rows)
    return f'{_HEADINGS[verdict]} by {leaks} of {len(rows)} attacks'
  return _HEADINGS[verdict]


def outcome(results: dict[str, Any]) -> list[str]:
  """The attack to believe, and the conclusion of each."""
  # The advice precedes five sentences that may disagree.
  return likeness.describe(results) + [
    f'{row["attack"]}: {row["says"]}'
    + (f' ({row["note"]}.)' if row['note'] else '')
    for row in results['rows']
  ]


def limitations(results: dict[str, Any]) -> list[str]:
  """Limits of the evidence of an audit."""
  count, level = len(results['rows']), results['rows'][0]['confidence']
  sentences = [
    'An attack that succeeds shows a leak. An attack that fails shows no '
    'privacy: a stronger attack may succeed.',
    'Intervals are over points, for this one network; over trainings they are '
    'wider. Members and non-members must be of the same kind: if they differ '
    'by date or source, the attack detects that difference.',
  ]
  if results['settings']['weights']:
    sentences.append(
      'References were trained with the recipe that was given. If the network '
      'was trained in another way, they do not show its answers to unseen '
      'pictures, and the attacks are weaker.'
    )
  if count > 1:
    sentences.append(
      f'{count} attacks were tried. The intervals of the AUC are so wide that '
      f'all {count} hold together in {level:.0%} of audits: fewer than '
      f'{1 - level:.0%} of audits without a leak are headed by a leak.'
    )
  return sentences


def console(results: dict[str, Any]) -> str:
  """The outcome of an audit for a terminal."""
  return frame.console(results, [headline(results), *outcome(results)])


def draw_curves(
  results: dict[str, Any], scores: list[AttackScores]
) -> figure.Figure:
  """Draws the ROC curve of each attack."""
  with style.context():
    drawing = style.canvas(headline(results), (7.2, 5.2), smoke=False)
    ax = drawing.subplots()
    # Half a non-member stands for a rate of 0, which has no logarithm.
    smallest = 0.5 / max(attack.others.size for attack in scores)
    for attack, color in zip(scores, style.COLOURS, strict=False):
      # Every threshold, because low rates are the dangerous ones.
      curve = audits.roc(attack.members, attack.others)
      ax.plot(
        np.maximum(curve.fpr, smallest),
        np.maximum(curve.tpr, smallest),
        color=color,
        label=attack.name,
        drawstyle='steps-post',
      )
    line = np.geomspace(smallest, 1, 50)
    ax.plot(line, line, color=style.MUTED, ls=(0, (4, 3)), lw=1)
    style.set_log_axes(ax, 'x', 'y')
    ax.set(
      xlim=(smallest, 1),
      ylim=(smallest, 1.05),
      xlabel='false positive rate',
      ylabel='true positive rate',
    )
    ax.legend(loc='lower right')
    return drawing


def _build(results: dict[str, Any], image: str) -> frame.Page:
  """The page of an audit; `image` is the figure as HTML."""
  settings = results['settings']
  return frame.Page(
    title=f'Audit of {settings["scores"] or settings["weights"]}',
    heading=headline(results),
    tone=_TONES.get(overall_verdict(results), 'flat'),
    sentences=outcome(results),
    sections={
      'Attacks': _table(results),
      'Curves': image,
      'What this shows': page.paragraphs(limitations(results)),
    },
    product='numbers',
  )


def _table(results: dict[str, Any]) -> str:
  """A row for each attack, with intervals."""
  head = [('', 'attack'), ('number', 'references')]
  head += [('number', name) for _, name in _COLUMNS]
  rows = []
  for row in results['rows']:
    # The interval that decides, so that the table agrees with the verdict.
    low, high = row['interval']
    cells = [
      row['references'] or '–',
      _cell({**row['auroc'], 'low': low, 'high': high}),
      *(_cell(row[key]) for key, _ in _COLUMNS[1:]),
    ]
    rows.append(
      f'<tr><td>{page.escape(row["attack"])}</td>{frame.number_cells(cells)}'
      '</tr>'
    )
  # All attacks see the same points.
  counts = results['rows'][0]
  note = (
    f'{counts["positives"]} members, {counts["negatives"]} others; in brackets '
    f'{counts["confidence"]:.0%} intervals over points, of the AUC for all '
    'attacks together.'
  )
  return page.table(head, rows) + f'<p class="soft">{page.escape(note)}</p>'


def _cell(value: dict[str, float] | None) -> str:
  if value is None:
    return 'too few points'
  return f'{value["value"]:.3f} [{value["low"]:.3f}, {value["high"]:.3f}]'


# `job` binds the scores of the attacks to `draw`.
REPORT = frame.Report('roc', _CAPTION, draw_curves, _build)
