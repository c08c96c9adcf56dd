"""What an unlearning did, in plain words.

The figure and the report of an unlearning.
"""

import operator
import pathlib
from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax.commands.unlearn.request import METHODS
from cmu_jax.core import files
from cmu_jax.report import page, style
from cmu_jax.report import page as page_lib

_SET_NAMES = {
  'forget': 'pictures to forget',
  'retain': 'pictures to keep',
  'test': 'test pictures',
}


def heading(results: dict[str, Any]) -> str:
  """The outcome as one line."""
  before, after = (
    results['measured'][when]['accuracy']['forget']
    for when in ('before', 'after')
  )
  return (
    f'{results["pictures"]["forget"]} pictures unlearned: accuracy on them '
    f'{before:.1%} → {after:.1%}'
  )


def harmed_classes(results: dict[str, Any]) -> tuple[page.Harm, ...]:
  """Classes of the test pictures that fell by more than five points."""
  before, after = (
    results['measured'][when]['class_accuracy'] for when in ('before', 'after')
  )
  if before is None:
    return ()
  return page.find_harms(results['class_names'], before, after)


def outcome(results: dict[str, Any]) -> list[str]:
  """What happened, the most important first."""
  said = [
    f'Method: {results["method"]} ({METHODS[results["method"]][1]}).',
    *_search_sentences(results['facts']),
    *_accuracy_sentences(results),
  ]
  found = results['measured']['after']['membership']
  if found is None:
    said.append(
      'Whether the pictures can still be told from unseen ones was not '
      'measured, nor what it cost on ordinary pictures: give --test=FOLDER.'
    )
  else:
    was = results['measured']['before']['membership']['auc']
    said.append(
      'Telling them from test pictures by the confidence in their class: AUC '
      f'{was:.3f} → {found["auc"]:.3f} (0.5 is chance). {found["says"]}'
    )
  said += [
    f'{page.describe_harm(harm)}.'.capitalize()
    for harm in harmed_classes(results)
  ]
  return said


def _search_sentences(facts: dict[str, Any]) -> list[str]:
  """How the search for adversarial images went, where there was one."""
  if 'adversarial_share' not in facts:
    return []
  return [
    f'{facts["adversarial_share"]:.0%} of the pictures to forget have an '
    f'adversarial image, {facts["distance"]:.2f} away on average (l2, pixels '
    'from 0 to 1); the others were left out of that set.'
  ]


def _accuracy_sentences(results: dict[str, Any]) -> list[str]:
  before, after = (
    results['measured'][when]['accuracy'] for when in ('before', 'after')
  )
  return [
    f'Accuracy on the {words}: {before[name]:.3f} → {after[name]:.3f} '
    f'({100 * (after[name] - before[name]):+.1f} points).'
    for name, words in _SET_NAMES.items()
    if before[name] is not None
  ]


def limitations(results: dict[str, Any]) -> list[str]:
  """How far this can be trusted."""
  return [
    'A network that never saw these pictures would still classify many of '
    'them: the aim is its accuracy on unseen pictures, not zero.',
    'The attack knows nothing of how such networks differ from each other and '
    'is weak: where it finds nothing, a stronger one may. It takes forgotten '
    'and test pictures to be of one kind; where they differ, it finds that.',
    *results['notes'],
  ]


def console(results: dict[str, Any]) -> str:
  """The outcome for a terminal."""
  out = results['settings']['out']
  return '\n'.join(
    [
      heading(results),
      *outcome(results),
      *results['notes'],
      f'weights: {out}/{results["weights"]}',
      f'report: {out}/report.html',
    ]
  )


_CAPTION = (
  'Accuracy and mean confidence in the label of each set of pictures. A '
  'network that never saw the pictures to forget would treat them like the '
  'test pictures.'
)
_SET_LABELS = {'forget': 'to forget', 'retain': 'to keep', 'test': 'test'}


def write_page(results: dict[str, Any], out: pathlib.Path) -> pathlib.Path:
  """Writes figures/before_and_after.png and report.html, each of them whole.

  Returns:
    The path of report.html.
  """
  made = draw_bars(results)
  png = style.png(made)
  path = out / 'figures' / 'before_and_after.png'
  files.write(path, operator.methodcaller('write', png))
  html = out / 'report.html'
  files.write_text(html, _page_html(results, png, made.get_suptitle()))
  return html


def draw_bars(results: dict[str, Any]) -> figure.Figure:
  """Accuracy and confidence of each set, before and after."""
  sets = [name for name, size in results['pictures'].items() if size]
  place = np.arange(len(sets))
  with style.context():
    made = style.canvas(heading(results), (9.2, 4.2), smoke=False)
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
      ax.set_xticks(place, [_SET_LABELS[name] for name in sets])
      ax.set(ylim=(0, 1.12), title=what)
    made.axes[0].set(ylabel='share')
    made.axes[1].legend(loc='lower left', bbox_to_anchor=(0.62, 1.0), ncols=2)
    return made


def _page_html(results: dict[str, Any], png: bytes, title: str) -> str:
  harmed = harmed_classes(results)
  return page_lib.fill_page(
    name='Unlearning of ' + page_lib.escape(results['settings']['weights']),
    label=page_lib.escape(heading(results)),
    banner='',
    tone='bad' if harmed else 'flat',
    heading=page_lib.escape(heading(results)),
    sentences=page_lib.paragraphs(outcome(results)),
    sections={
      page_lib.harm_heading(harmed): page_lib.harm_table(harmed),
      'Before and after': page_lib.picture(png, title, _CAPTION),
      'How sure this is': page_lib.paragraphs(limitations(results)),
      'How to get the same weights': page_lib.reproduction_section(
        results['provenance'],
        results['settings'],
        [results['settings']['seed']],
      ),
    },
  )
