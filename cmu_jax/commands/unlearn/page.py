"""The sentences, the figure and the report of an unlearning."""

from typing import Any

import numpy as np
from matplotlib import figure

from cmu_jax.commands import frame
from cmu_jax.commands.requests import METHODS
from cmu_jax.core import errors
from cmu_jax.report import page, style

_SET_NAMES = {
  'forget': 'pictures to forget',
  'retain': 'pictures to keep',
  'test': 'test pictures',
}


# Continuations of the headline, whose 'they' are the pictures to forget.
_VERDICTS = {
  'leaks': 'they can still be told from unseen ones',
  'reversed': 'they are treated worse than unseen ones, which gives them away',
  'no leak found': 'no attack here tells them from unseen ones',
  'cannot conclude': 'too few pictures to say if they are forgotten',
}


def overall_verdict(results: dict[str, Any]) -> str | None:
  """The verdict of both attacks after unlearning; None without test pictures.

  Correctness is a weak attack: it can show a leak, but no absence.
  """
  _, membership = frame.measurements(results, 'membership')
  if membership is None:
    return None
  verdicts = [membership['verdict']]
  # Results of earlier versions have no attack by correctness.
  if 'correctness' in membership:
    verdicts.append(membership['correctness']['verdict'])
  # An attack that succeeds outweighs an attack that fails.
  for name in ('leaks', 'reversed'):
    if name in verdicts:
      return name
  return verdicts[0]


def _change_text(results: dict[str, Any]) -> str:
  """The change of the network on the pictures to forget."""
  (old, new), (old_sure, new_sure) = (
    [values['forget'] for values in frame.measurements(results, name)]
    for name in ('accuracy', 'confidence')
  )
  # As printed: an arrow between equal numbers would mislead.
  if f'{old:.1%}' != f'{new:.1%}':
    return f'accuracy on them {old:.1%} → {new:.1%}'
  if f'{old_sure:.3f}' != f'{new_sure:.3f}':
    return (
      f'accuracy on them stays {new:.1%}, confidence {old_sure:.3f} → '
      f'{new_sure:.3f}'
    )
  return f'nothing changed on them, accuracy {new:.1%}'


def headline(results: dict[str, Any]) -> str:
  """The outcome as one line: the change, and its success if measured."""
  count = errors.count_text(results['pictures']['forget'], 'picture')
  change = f'{count}: {_change_text(results)}'
  verdict = overall_verdict(results)
  # Without unseen pictures a success cannot be claimed.
  if verdict is None:
    return change
  _, accuracy = frame.measurements(results, 'accuracy')
  return f'{change} (unseen ones {accuracy["test"]:.1%}); {_VERDICTS[verdict]}'


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
    sentences += _correctness_sentences(results)
  return sentences + frame.harm_sentences(results)


def _correctness_sentences(results: dict[str, Any]) -> list[str]:
  """The attack that takes a right prediction for a sign of membership."""
  _, edited = frame.measurements(results, 'membership')
  attack = edited.get('correctness')
  if attack is None:
    return []
  _, accuracy = frame.measurements(results, 'accuracy')
  meanings = {
    'leaks': 'the network still knows them better than unseen pictures',
    'reversed': 'the network knows them less than unseen pictures, which gives '
    'them away',
  }
  facts = (
    f'A membership attack by right predictions: {accuracy["forget"]:.1%} on '
    f'the forgotten pictures, {accuracy["test"]:.1%} on test pictures'
  )
  # The interval decides a success. What else decides stands in the verdict.
  if attack['verdict'] not in meanings:
    return [f'{facts}. {attack["says"]}']
  return [
    f'{facts}, AUC {attack["auc"]:.3f}, interval {attack["low"]:.3f} to '
    f'{attack["high"]:.3f}: {meanings[attack["verdict"]]}.'
  ]


def _search_sentences(facts: dict[str, Any]) -> list[str]:
  """Success of the search for adversarial images, if there was a search."""
  # Other methods have no search.
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
    'Both attacks use no reference networks and are weak: a stronger attack '
    'may find a leak that they miss. They also assume that forgotten and test '
    'pictures are of the same kind; if these differ, they detect the '
    'difference. Their intervals hold together at 95 %.',
    # Notes of the loader qualify every number above.
    *results['notes'],
  ]


def console(results: dict[str, Any]) -> str:
  """The outcome of an unlearning for a terminal."""
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
  # Absent sets have no bar.
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
      # Room for the number above a bar of 1.
      ax.set(ylim=(0, 1.12), title=name)
    axes[0].set(ylabel='share')
    axes[1].legend(loc='lower left', bbox_to_anchor=(0.62, 1.0), ncols=2)
    return drawing


def _build(results: dict[str, Any], image: str) -> frame.Page:
  """The page of an unlearning; `image` is the figure as HTML."""
  # Success stays grey: a stronger attack may find a leak.
  harmed, verdict = frame.harmed_classes(results), overall_verdict(results)
  return frame.Page(
    title=f'Unlearning of {results["settings"]["weights"]}',
    heading=headline(results),
    tone='bad' if harmed or verdict in ('leaks', 'reversed') else 'flat',
    sentences=outcome(results),
    sections={
      **frame.harm_section(results),
      'Before and after': image,
      'How sure this is': page.paragraphs(limitations(results)),
    },
  )


REPORT = frame.Report('before_and_after', _CAPTION, draw_bars, _build)
