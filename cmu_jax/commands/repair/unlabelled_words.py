"""The sentences of a repair from ordinary pictures, which has no labels."""

from typing import Any

METHOD = 'information_maximization'


def decision(results: dict[str, Any]) -> str:
  """The edit with its evidence, or the reason against an edit."""
  evidence, count = results['label_free'], results['ordinary']
  alike = _percent(evidence['alike'])
  alone = _percent(evidence['alone'])
  changes = (
    f'Two runs on halves of the {count} ordinary pictures changed {alike} of '
    f'the predictions alike, and each {alone} alone'
  )
  if results['repaired']:
    return (
      f'{changes}: runs that only disturb a network do not agree like this. '
      'The repaired network is the mean of both.'
    )
  if evidence['reason'] == 'classes':
    return f'{_absence_sentence(results)} The weights are unchanged.'
  if evidence['alike'] + evidence['alone'] == 0:
    return (
      'Two runs on halves of the ordinary pictures changed no prediction, so '
      'the weights are unchanged.'
    )
  return (
    f'{changes}: too few changes agree to show that they mend mistakes, so the '
    'weights are unchanged.'
  )


def _absence_sentence(results: dict[str, Any]) -> str:
  """The classes that the pictures do not show."""
  names = [results['class_names'][c] for c in results['label_free']['absent']]
  listed = ', '.join(f"'{name}'" for name in names[:6])
  surplus = f' and {len(names) - 6} more' if len(names) > 6 else ''
  return (
    f'The ordinary pictures show too little of {listed}{surplus}: the repair '
    'would fill such a class with pictures of others.'
  )


def estimate_sentences(results: dict[str, Any]) -> list[str]:
  """The accuracy before and after, as agreement estimates it."""
  evidence = results['label_free']
  original, edited = evidence['accuracy_before'], evidence['accuracy_after']
  estimate = (
    'Without labels, the agreement of the runs puts the accuracy before at '
    f'{_interval_text(original)}'
  )
  if results['repaired']:
    estimate += f', and after at {_interval_text(edited)}'
  return [
    f'{estimate}. This is rough: runs agree on mistakes that they share, and '
    'their mean is better than each. --test measures the truth.'
  ]


def limitations(results: dict[str, Any]) -> list[str]:
  """Limits of the evidence."""
  del results
  return [
    'The repair believes that all classes are about equally frequent in the '
    'ordinary pictures. Where they are not, give pictures that are.',
    'Agreement of runs shows that changes are not accidents. It does not show '
    'a mistake that both runs make.',
  ]


def advise(results: dict[str, Any]) -> list[str]:
  """The pictures that would help most, where the repair abstains."""
  evidence = results['label_free']
  if evidence['reason'] == 'classes':
    names = [results['class_names'][c] for c in evidence['absent']]
    return [
      'Ordinary pictures of '
      + ', '.join(f"'{name}'" for name in names[:6])
      + (' and the other absent classes' if len(names) > 6 else '')
      + ', about as many as of each other class, and the same command.'
    ]
  return [
    'More ordinary pictures make the evidence clearer. A network without '
    'learnt mistakes is left unedited however many there are.'
  ]


def _percent(value: float) -> str:
  return f'{value:.1%}'


def _interval_text(interval: list[float]) -> str:
  mean, low, high = interval
  return f'{mean:.0%} ({low:.0%} to {high:.0%})'
