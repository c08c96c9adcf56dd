"""What an audit found, in plain words.

The figure and the report of an audit.
"""

import operator
import pathlib
from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax import audits
from cmu_jax.commands.audit.attacks import AttackScores
from cmu_jax.core import files
from cmu_jax.report import page as page_lib
from cmu_jax.report import style

_HEADINGS = {
  'leaks': 'Members can be told from non-members',
  'no leak found': 'No leak found by these attacks',
  'cannot conclude': 'Too little to conclude',
}


def overall_verdict(results: dict[str, Any]) -> str:
  """One leak is a leak; without any, one attack that is able to say so."""
  found = {row['verdict'] for row in results['rows']}
  order = ('leaks', 'no leak found', 'cannot conclude')
  return next(name for name in order if name in found)


def audited_file(results: dict[str, Any]) -> str:
  """The file that was audited."""
  settings = results['settings']
  return settings['scores'] or settings['weights']


def heading(results: dict[str, Any]) -> str:
  """The outcome as one line."""
  return _HEADINGS[overall_verdict(results)]


def outcome(results: dict[str, Any]) -> list[str]:
  """What each attack found."""
  return [
    f'{row["attack"]}: {row["says"]}'
    + (f' ({row["note"]}.)' if row['note'] else '')
    for row in results['rows']
  ]


def limitations(results: dict[str, Any]) -> list[str]:
  """What an audit can show and what it cannot."""
  count = len(results['rows'])
  said = [
    'An attack that succeeds shows a leak. One that fails shows that this '
    'attack fails: a stronger one may not.',
    'Intervals are over points, for this one network; over trainings they are '
    'wider. Members and non-members must be of one kind: where they differ by '
    'date or source, the attack finds that.',
  ]
  if results['settings']['weights']:
    said.append(
      'References were trained with the recipe that was given. If the network '
      'was trained in another way, they are no measure of what it would say of '
      'a picture that it has not seen, and the attacks are weaker.'
    )
  if count > 1:
    said.append(
      f'{count} attacks were tried, and each interval is for one: of twenty '
      'audits without a leak, about one finds one by chance in each attack.'
    )
  return said


def console(results: dict[str, Any]) -> str:
  """The outcome for a terminal."""
  out = results['settings']['out']
  lines = [heading(results), *outcome(results), f'report: {out}/report.html']
  return '\n'.join(lines)


_CAPTION = (
  'True against false positive rate, both logarithmic: what matters is whom an '
  'attack can name while it accuses few falsely. Dashed: chance.'
)
_COLUMNS = (
  ('auroc', 'AUC'),
  ('balanced_accuracy', 'balanced accuracy'),
  ('tpr_1_percent', 'TPR at 1 % FPR'),
  ('tpr_01_percent', 'TPR at 0.1 % FPR'),
)
_TONES = {'leaks': 'bad', 'no leak found': 'good', 'cannot conclude': 'flat'}


def write_page(
  results: dict[str, Any], found: list[AttackScores], out: pathlib.Path
) -> pathlib.Path:
  """Writes figures/roc.png and report.html, each of them whole.

  Returns:
    The path of report.html.
  """
  made = draw_curves(results, found)
  png = style.png(made)
  path = out / 'figures' / 'roc.png'
  files.write(path, operator.methodcaller('write', png))
  html = out / 'report.html'
  files.write_text(html, _page_html(results, png, made.get_suptitle()))
  return html


def draw_curves(
  results: dict[str, Any], found: list[AttackScores]
) -> figure.Figure:
  """The ROC curve of each attack."""
  with style.context():
    made = style.canvas(heading(results), (7.2, 5.2), smoke=False)
    ax = made.subplots()
    least = 1 / max(one.others.size for one in found)
    for one, color in zip(found, style.COLOURS, strict=False):
      curve = audits.roc(one.members, one.others)
      ax.plot(
        np.maximum(curve.fpr, least / 2),
        np.maximum(curve.tpr, least / 2),
        color=color,
        label=one.name,
        drawstyle='steps-post',
      )
    line = np.geomspace(least / 2, 1, 50)
    ax.plot(line, line, color=style.MUTED, ls=(0, (4, 3)), lw=1)
    style.set_log_axes(ax, 'x', 'y')
    ax.set(
      xlim=(least / 2, 1),
      ylim=(least / 2, 1.05),
      xlabel='false positive rate',
      ylabel='true positive rate',
    )
    ax.legend(loc='lower right')
    return made


def _page_html(results: dict[str, Any], png: bytes, title: str) -> str:
  return page_lib.fill_page(
    name='Audit of ' + page_lib.escape(audited_file(results)),
    label=page_lib.escape(heading(results)),
    banner='',
    tone=_TONES[overall_verdict(results)],
    heading=page_lib.escape(heading(results)),
    sentences=page_lib.paragraphs(outcome(results)),
    sections={
      'Attacks': _table(results),
      'Curves': page_lib.picture(png, title, _CAPTION),
      'What this shows': page_lib.paragraphs(limitations(results)),
      'How to get the same numbers': page_lib.reproduction_section(
        results['provenance'],
        results['settings'],
        [results['settings']['seed']],
      ),
    },
  )


def _table(results: dict[str, Any]) -> str:
  head = [('', 'attack'), ('number', 'references')]
  head += [('number', name) for _, name in _COLUMNS]
  rows = []
  for row in results['rows']:
    cells = [
      row['references'] or '–',
      *(_cell(row[key]) for key, _ in _COLUMNS),
    ]
    rows.append(
      f'<tr><td>{page_lib.escape(row["attack"])}</td>'
      + ''.join(f'<td class="number">{page_lib.escape(c)}</td>' for c in cells)
      + '</tr>'
    )
  counts = results['rows'][0]
  note = (
    f'{counts["positives"]} members, {counts["negatives"]} others; in brackets '
    f'{counts["confidence"]:.0%} intervals over points.'
  )
  return (
    page_lib.table(head, rows) + f'<p class="soft">{page_lib.escape(note)}</p>'
  )


def _cell(value: dict[str, float] | None) -> str:
  if value is None:
    return 'too few points'
  return f'{value["value"]:.3f} [{value["low"]:.3f}, {value["high"]:.3f}]'
