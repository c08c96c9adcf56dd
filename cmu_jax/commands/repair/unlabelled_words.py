"""The sentences of a repair from ordinary pictures."""

from typing import Any

METHOD = 'information_maximization'
TUNING = 'self_tuning'


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
    return (
      f'{_list_absent(results, evidence)}: the repair would fill such a class '
      'with pictures of others. The weights are unchanged.'
    )
  if evidence['alike'] + evidence['alone'] == 0:
    return (
      'Two runs on halves of the ordinary pictures changed no prediction, so '
      'the weights are unchanged.'
    )
  return (
    f'{changes}: too few changes agree to show that they mend mistakes, so the '
    'weights are unchanged.'
  )


def tuning_decision(results: dict[str, Any]) -> str:
  """The edit with its cost, or the reason against an edit."""
  evidence, count = results['cost'], results['ordinary']
  if evidence['reason'] == 'classes':
    return (
      f'{_list_absent(results, evidence)}: the repair would forget such a '
      'class. The weights are unchanged.'
    )
  cost = _cost_clause(evidence)
  # Only triggered pictures can show this, so it comes with --proxy alone.
  if evidence['reason'] == 'gain':
    return (
      f'Training on the {count} ordinary pictures freed fewer than half of the '
      'triggered pictures, so the weights are unchanged.'
    )
  if not results['repaired']:
    return (
      f'Runs on halves of the {count} ordinary pictures cost too much: {cost}. '
      'The weights are unchanged.'
    )
  return (
    f'The network was trained on the {count} ordinary pictures, with a head '
    f'that was drawn anew. For runs on halves, {cost}; the run on all pictures '
    'costs less.'
  )


def _cost_clause(evidence: dict[str, Any]) -> str:
  """The cost on held-out pictures."""
  if evidence['accuracy_before'] is not None:
    return (
      f'the accuracy on held-out pictures went from '
      f'{evidence["accuracy_before"]:.3f} to {evidence["accuracy_after"]:.3f}'
    )
  mean, low, high = evidence['agreement']
  return (
    f'{mean:.1%} ({low:.1%} to {high:.1%}) of the predictions on held-out '
    'pictures stayed'
  )


def tuning_limitations(results: dict[str, Any]) -> list[str]:
  """Limits of the evidence."""
  # An upper bound, because nobody knows which changes are mistakes.
  limits = [
    'Predictions that stay bound the loss of accuracy: at most as many are '
    'lost as change, and some change for the better.'
  ]
  if not results['samples']:
    limits.insert(
      0,
      'Nobody tried the trigger: no picture of it was given. The edit forgets '
      'what ordinary pictures do not ask for, a trigger among it. It shows '
      'neither that there was one nor that it is gone; triggered pictures in '
      '--proxy would.',
    )
  return limits


def tuning_advice(results: dict[str, Any]) -> list[str]:
  """The pictures that would help most, where the repair abstains."""
  evidence = results['cost']
  if evidence['reason'] == 'classes':
    return [_missing_pictures(results, evidence)]
  # In the order of their cost to the user.
  advice = ['More ordinary pictures lower the cost of the repair.']
  if evidence['accuracy_before'] is None:
    advice.append(
      'Ordinary pictures in class folders, and --labels=true: true labels '
      'train better, and show which changes are a loss.'
    )
  if not results['samples']:
    advice.append(
      'Pictures with the trigger, in --proxy: where it is a patch, it can be '
      'located and unlearned at a smaller cost.'
    )
  return advice


def _list_absent(results: dict[str, Any], evidence: dict[str, Any]) -> str:
  """The classes that the pictures do not show, as a clause."""
  names = [results['class_names'][c] for c in evidence['absent']]
  listed = ', '.join(f"'{name}'" for name in names[:6])
  surplus = f' and {len(names) - 6} more' if len(names) > 6 else ''
  return f'The ordinary pictures show too little of {listed}{surplus}'


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
    return [_missing_pictures(results, evidence)]
  return [
    'More ordinary pictures make the evidence clearer. A network without '
    'learnt mistakes is left unedited however many there are.'
  ]


def _missing_pictures(results: dict[str, Any], evidence: dict[str, Any]) -> str:
  """The pictures of absent classes, as a wish."""
  names = [results['class_names'][c] for c in evidence['absent']]
  return (
    'Ordinary pictures of '
    + ', '.join(f"'{name}'" for name in names[:6])
    + (' and the other absent classes' if len(names) > 6 else '')
    + ', about as many as of each other class, and the same command.'
  )


def _percent(value: float) -> str:
  return f'{value:.1%}'


def _interval_text(interval: list[float]) -> str:
  mean, low, high = interval
  return f'{mean:.0%} ({low:.0%} to {high:.0%})'
