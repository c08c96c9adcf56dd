"""The sentences, the figure and the report of an unlearning."""

from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax.commands import frame
from cmu_jax.commands.requests import METHODS
from cmu_jax.report import page, style

_SET_NAMES = {
  'forget': 'pictures to forget',
  'retain': 'pictures to keep',
  'test': 'test pictures',
}


def headline(results: dict[str, Any]) -> str:
  """The outcome as one line."""
  original, edited = frame.measurements(results, 'accuracy')
  return (
    f'{results["pictures"]["forget"]} pictures unlearned: accuracy on them '
    f'{original["forget"]:.1%} → {edited["forget"]:.1%}'
  )


def outcome(results: dict[str, Any]) -> list[str]:
  """Sentences on the outcome, the most important first."""
  sentences = [
    f'Method: {results["method"]} ({METHODS[results["method"]]}).',
    *_search_sentences(results['facts']),
    *_accuracy_sentences(results),
  ]
  original, edited = frame.measurements(results, 'membership')
  if edited is None:
    sentences.append(
      'The membership attack and the accuracy on ordinary pictures were not '
      'measured: give --test=FOLDER.'
    )
  else:
    sentences.append(
      'A membership attack by the confidence, against test pictures: AUC '
      f'{original["auc"]:.3f} → {edited["auc"]:.3f} (0.5 is chance). '
      f'{edited["says"]}'
    )
  return sentences + frame.harm_sentences(results)


def _search_sentences(facts: dict[str, Any]) -> list[str]:
  """Success of the search for adversarial images, if there was a search."""
  if 'adversarial_share' not in facts:
    return []
  return [
    f'{facts["adversarial_share"]:.0%} of the pictures to forget have an '
    f'adversarial image, {facts["distance"]:.2f} away on average (l2, pixels '
    'from 0 to 1); that set omits the others.'
  ]


def _accuracy_sentences(results: dict[str, Any]) -> list[str]:
  original, edited = frame.measurements(results, 'accuracy')
  return [
    f'Accuracy on the {text}: {original[name]:.3f} → {edited[name]:.3f} '
    f'({100 * (edited[name] - original[name]):+.1f} points).'
    for name, text in _SET_NAMES.items()
    if original[name] is not None
  ]


def limitations(results: dict[str, Any]) -> list[str]:
  """Limits of the evidence."""
  return [
    'A network that never saw these pictures would still classify many of '
    'them correctly: the aim is the accuracy on unseen pictures, not zero.',
    'The attack uses no reference networks and is weak: a stronger attack may '
    'find a leak that it misses. It also assumes that forgotten and test '
    'pictures are of the same kind; if they differ, it detects the difference.',
    *results['notes'],
  ]


def console(results: dict[str, Any]) -> str:
  """The outcome for a terminal."""
  lines = [headline(results), *outcome(results), *results['notes']]
  return frame.console(results, lines)


_CAPTION = (
  'Accuracy and mean confidence in the label of each set of pictures. A '
  'network that never saw the pictures to forget would treat them like the '
  'test pictures.'
)
_SET_LABELS = {'forget': 'to forget', 'retain': 'to keep', 'test': 'test'}


def draw_bars(results: dict[str, Any]) -> figure.Figure:
  """Draws accuracy and confidence of each set, before and after."""
  sets = [name for name, size in results['pictures'].items() if size]
  position = np.arange(len(sets))
  with style.context():
    drawing = style.canvas(headline(results), (9.2, 4.2), smoke=False)
    axes = drawing.subplots(1, 2, sharey=True)
    for ax, name in zip(axes, ('accuracy', 'confidence'), strict=True):
      for shift, color, label, values in zip(
        (-0.2, 0.2),
        (style.INK, style.CUTS),
        ('before', 'after'),
        frame.measurements(results, name),
        strict=True,
      ):
        heights = [values[subset] for subset in sets]
        bars = ax.bar(position + shift, heights, 0.38, color=color, label=label)
        ax.bar_label(bars, fmt='%.2f', padding=2)
      ax.set_xticks(position, [_SET_LABELS[subset] for subset in sets])
      ax.set(ylim=(0, 1.12), title=name)
    axes[0].set(ylabel='share')
    axes[1].legend(loc='lower left', bbox_to_anchor=(0.62, 1.0), ncols=2)
    return drawing


def _build(results: dict[str, Any], image: str) -> frame.Page:
  """The page of an unlearning; `image` is the figure as HTML."""
  return frame.Page(
    title=f'Unlearning of {results["settings"]["weights"]}',
    heading=headline(results),
    tone='bad' if frame.harmed_classes(results) else 'flat',
    sentences=outcome(results),
    sections={
      **frame.harm_section(results),
      'Before and after': image,
      'How sure this is': page.paragraphs(limitations(results)),
    },
  )


REPORT = frame.Report('before_and_after', _CAPTION, draw_bars, _build)
