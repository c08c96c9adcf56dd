"""The figure and the report of a repair."""

import operator
import pathlib
from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax.commands.repair import words
from cmu_jax.core import files
from cmu_jax.report import page, style

_CAPTION = (
  'What was looked at to choose alpha; no label of a test picture. The dashed '
  'vertical line is the choice; alpha = 0 is the network as it was.'
)


def write_page(results: dict[str, Any], out: pathlib.Path) -> pathlib.Path:
  """Writes figures/alpha_curve.png and report.html, each of them whole.

  Returns:
    The path of report.html.
  """
  made = draw_curve(results)
  png = style.png(made)
  path = out / 'figures' / 'alpha_curve.png'
  files.write(path, operator.methodcaller('write', png))
  html = out / 'report.html'
  files.write_text(html, _page_html(results, png, made.get_suptitle()))
  return html


def draw_curve(results: dict[str, Any]) -> figure.Figure:
  """J and its parts, or the rate at which bad samples hit the target."""
  poison = results['kind'] == 'poison'
  found = results['curve']
  key = 'proxy_attack_success_rate' if poison else 'J'
  label = 'triggered pictures sent to the target' if poison else 'score J'
  with style.context():
    made = style.canvas(words.heading(results), (9.2, 4.2), smoke=False)
    ax = made.subplots()
    y = np.array([np.nan if v is None else v for v in found[key]], float)
    y = np.where(y < -1e5, np.nan, y)
    ax.plot(found['alpha'], y, color=style.INK, lw=2, label=label)
    if results['method'] == 'projected':
      ax.plot(
        found['alpha'],
        found['agreement'],
        color=style.CUTS,
        ls='--',
        label='predictions on ordinary pictures that stay',
      )
      style.set_log_axes(ax, 'x')
    elif not poison:
      ax.plot(
        found['alpha'],
        found['adjusted_agreement'],
        color=style.CUTS,
        ls='--',
        label='adjusted agreement of neighbours',
      )
    ax.axvline(results['alpha'], color=style.INK, lw=1, ls=(0, (4, 3)))
    ax.set(xlabel='alpha (length of the step, no unit)', ylabel='rate or score')
    ax.legend(loc='best')
    return made


def _page_html(results: dict[str, Any], png: bytes, title: str) -> str:
  harmed = words.harmed_classes(results)
  measured = results['measured']['after']['test_accuracy'] is not None
  good = results['repaired'] and measured
  tone = 'bad' if harmed else 'good' if good else 'flat'
  return page.fill_page(
    name='Repair of ' + page.escape(results['settings']['weights']),
    label=page.escape(words.heading(results)),
    banner='',
    tone=tone,
    heading=page.escape(words.heading(results)),
    sentences=page.paragraphs(words.outcome(results)),
    sections={
      page.harm_heading(harmed): page.harm_table(harmed),
      'Before and after': _table(results),
      'How alpha was chosen': page.picture(png, title, _CAPTION),
      'What was wrong': page.paragraphs(words.corruption_sentences(results)),
      'How steep the network is': page.paragraphs(
        words.lipschitz_sentences(results)
      ),
      'How sure this is': page.paragraphs(words.limitations(results)),
      'How to get the same weights': page.reproduction_section(
        results['provenance'],
        results['settings'],
        [results['settings']['seed']],
      ),
    },
  )


def _table(results: dict[str, Any]) -> str:
  """Predictions on the bad samples, and accuracy by class where known."""
  before, after = results['measured']['before'], results['measured']['after']
  head = [
    ('', 'class'),
    ('number', 'bad samples sent here'),
    ('number', 'after'),
  ]
  columns = [before['predicted'], after['predicted']]
  shape = '{:d}'
  cells = [[shape.format(v) for v in column] for column in columns]
  if before['class_accuracy'] is not None:
    head += [('number', 'accuracy'), ('number', 'after')]
    cells += [
      ['–' if v is None else f'{v:.3f}' for v in when['class_accuracy']]
      for when in (before, after)
    ]
  rows = [
    f'<tr><td>{page.escape(name)}</td>'
    + ''.join(f'<td class="number">{value}</td>' for value in values)
    + '</tr>'
    for name, *values in zip(results['class_names'], *cells, strict=True)
  ]
  return page.table(head, rows)
