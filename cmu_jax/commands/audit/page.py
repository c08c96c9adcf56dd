"""The figure and the report of an audit."""

import operator
import pathlib
from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax import audits
from cmu_jax.commands.audit import words
from cmu_jax.commands.audit.attacks import Scored
from cmu_jax.core import files
from cmu_jax.report import page, style, template

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


def build(
  results: dict[str, Any], found: list[Scored], out: pathlib.Path
) -> pathlib.Path:
  """Writes figures/roc.png and report.html, each of them whole.

  Returns:
    The path of report.html.
  """
  made = curves(results, found)
  png = style.png(made)
  path = out / 'figures' / 'roc.png'
  files.write(path, operator.methodcaller('write', png))
  html = out / 'report.html'
  files.write_text(html, _page(results, png, made.get_suptitle()))
  return html


def curves(results: dict[str, Any], found: list[Scored]) -> figure.Figure:
  """The ROC curve of each attack."""
  with style.settings():
    made = style.canvas(words.heading(results), (7.2, 5.2), smoke=False)
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
    style.logarithmic(ax, 'x', 'y')
    ax.set(
      xlim=(least / 2, 1),
      ylim=(least / 2, 1.05),
      xlabel='false positive rate',
      ylabel='true positive rate',
    )
    ax.legend(loc='lower right')
    return made


def _page(results: dict[str, Any], png: bytes, title: str) -> str:
  return template.fill(
    name='Audit of ' + page.escape(words.subject(results)),
    label=page.escape(words.heading(results)),
    banner='',
    tone=_TONES[words.verdict(results)],
    heading=page.escape(words.heading(results)),
    sentences=page.paragraphs(words.outcome(results)),
    sections={
      'Attacks': _table(results),
      'Curves': page.picture(png, title, _CAPTION),
      'What this shows': page.paragraphs(words.sure(results)),
      'How to get the same numbers': page.reproduce(
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
      f'<tr><td>{page.escape(row["attack"])}</td>'
      + ''.join(f'<td class="number">{page.escape(c)}</td>' for c in cells)
      + '</tr>'
    )
  counts = results['rows'][0]
  note = (
    f'{counts["positives"]} members, {counts["negatives"]} others; in brackets '
    f'{counts["confidence"]:.0%} intervals over points.'
  )
  return page.table(head, rows) + f'<p class="soft">{page.escape(note)}</p>'


def _cell(value: dict[str, float] | None) -> str:
  if value is None:
    return 'too few points'
  return f'{value["value"]:.3f} [{value["low"]:.3f}, {value["high"]:.3f}]'
