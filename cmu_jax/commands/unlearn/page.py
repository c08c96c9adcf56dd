"""The figure and the report of an unlearning."""

import operator
import pathlib
from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax.commands.unlearn import words
from cmu_jax.core import files
from cmu_jax.report import page, style, template

_CAPTION = (
  'Accuracy and mean confidence in the label of each set of pictures. A '
  'network that never saw the pictures to forget would treat them like the '
  'test pictures.'
)
_NAMES = {'forget': 'to forget', 'retain': 'to keep', 'test': 'test'}


def build(results: dict[str, Any], out: pathlib.Path) -> pathlib.Path:
  """Writes figures/before_and_after.png and report.html, each of them whole.

  Returns:
    The path of report.html.
  """
  made = bars(results)
  png = style.png(made)
  path = out / 'figures' / 'before_and_after.png'
  files.write(path, operator.methodcaller('write', png))
  html = out / 'report.html'
  files.write_text(html, _page(results, png, made.get_suptitle()))
  return html


def bars(results: dict[str, Any]) -> figure.Figure:
  """Accuracy and confidence of each set, before and after."""
  sets = [name for name, size in results['pictures'].items() if size]
  place = np.arange(len(sets))
  with style.settings():
    made = style.canvas(words.heading(results), (9.2, 4.2), smoke=False)
    for ax, what in zip(
      made.subplots(1, 2, sharey=True), ('accuracy', 'confidence'), strict=True
    ):
      for shift, when, color in (
        (-0.2, 'before', 'INK'),
        (0.2, 'after', 'CUTS'),
      ):
        values = [results['measured'][when][what][name] for name in sets]
        drawn = ax.bar(
          place + shift, values, 0.38, color=getattr(style, color), label=when
        )
        ax.bar_label(drawn, fmt='%.2f', padding=2)
      ax.set_xticks(place, [_NAMES[name] for name in sets])
      ax.set(ylim=(0, 1.12), title=what)
    made.axes[0].set(ylabel='share')
    made.axes[1].legend(loc='lower left', bbox_to_anchor=(0.62, 1.0), ncols=2)
    return made


def _page(results: dict[str, Any], png: bytes, title: str) -> str:
  harmed = words.harmed(results)
  return template.fill(
    name='Unlearning of ' + page.escape(results['settings']['weights']),
    label=page.escape(words.heading(results)),
    banner='',
    tone='bad' if harmed else 'flat',
    heading=page.escape(words.heading(results)),
    sentences=page.paragraphs(words.outcome(results)),
    sections={
      page.harm_heading(harmed): page.harm(harmed),
      'Before and after': page.picture(png, title, _CAPTION),
      'How sure this is': page.paragraphs(words.sure(results)),
      'How to get the same weights': page.reproduce(
        results['provenance'],
        results['settings'],
        [results['settings']['seed']],
      ),
    },
  )
