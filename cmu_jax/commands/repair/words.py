"""What a repair did, in plain words."""

from typing import Any

from cmu_jax.commands.repair import finding
from cmu_jax.studies.cuts import verdict

_KINDS = {
  'label_noise': 'wrong labels',
  'poison': 'a trigger that leads to one class',
}


def heading(results: dict[str, Any]) -> str:
  """The outcome as one line."""
  if not results['repaired']:
    return 'Left as it was'
  return f'Edited with alpha = {results["alpha"]:.2f}'


def harmed(results: dict[str, Any]) -> tuple[verdict.Harm, ...]:
  """Classes of the test pictures that fell by more than five points."""
  before, after = (
    results['measured'][when]['class_accuracy'] for when in ('before', 'after')
  )
  if before is None:
    return ()
  return verdict.falls(results['class_names'], before, after)


def outcome(results: dict[str, Any]) -> list[str]:
  """What happened, the most important first."""
  said = [
    _why(results),
    _bad(results),
    *_by_heart(results),
    *finding.warnings(results),
  ]
  before, after = results['measured']['before'], results['measured']['after']
  if before['test_accuracy'] is None:
    said.append(
      'Accuracy on ordinary pictures was not measured: give --test=FOLDER '
      'before you use these weights.'
    )
  else:
    change = 100 * (after['test_accuracy'] - before['test_accuracy'])
    said.append(
      f'Accuracy on the test pictures: {before["test_accuracy"]:.3f} → '
      f'{after["test_accuracy"]:.3f} ({change:+.1f} points).'
    )
  said += [
    f'{verdict.harm_text(harm)}.'.capitalize() for harm in harmed(results)
  ]
  return said


def _why(results: dict[str, Any]) -> str:
  """Which step was taken, on what evidence, or why none was."""
  projected, poison = (
    results['method'] == 'projected',
    results['kind'] == 'poison',
  )
  if not results['repaired']:
    doubt = (
      'No alpha stopped the located trigger while 98 % of the predictions on '
      'ordinary pictures stayed'
      if projected
      else _armed(results['measured']['before']['bad_label_rate'])
      if poison
      else _doubt(results['safe'])
    )
    return f'{doubt}, so the weights are as they were.'
  if projected:
    return (
      'The trigger was unlearned from ordinary pictures with and without it, '
      'along what their predictions do not need; the step stops it while 98 % '
      'of those predictions stay.'
    )
  rule = (
    'samples that its vector did not see carry this step'
    if results['safe']
    else 'the published rule chose it on the samples themselves'
  )
  return (
    f'The task vector of the {results["samples"]} bad samples was subtracted '
    f'with alpha = {results["alpha"]:.2f}; {rule}.'
  )


def _armed(rate: float) -> str:
  """Why a network, backdoored or not, was left alone."""
  if round(rate, 2) <= 0.01:
    return 'The samples are not sent to the target class as it is'
  return 'No alpha freed the bad samples from the trigger'


def _doubt(safe: dict[str, Any] | None) -> str:
  """Why a step along the task vector was not taken."""
  if safe is None or safe.get('alpha_hat') == 0:
    return 'No step along the task vector looked better than none'
  if 'reason' in safe:
    return f'Nothing could be measured ({safe["reason"]})'
  return (
    f'A step of alpha = {safe["alpha_hat"]:.2f} looked best, but samples that '
    'its vector did not see do not carry it clearly enough'
  )


def _by_heart(results: dict[str, Any]) -> list[str]:
  """A warning where the task vector knows its images rather than the noise."""
  steps, learnt = (results['fine_tuning'][k] for k in ('steps', 'learnt'))
  if results['kind'] == 'poison' or learnt < 0.9:
    return []
  return [
    f'Warning: {steps} steps of fine-tuning learnt {learnt:.0%} of the wrong '
    'labels by heart; a vector of fewer --steps, half of them learnt, is more '
    'about the corruption.'
  ]


def _bad(results: dict[str, Any]) -> str:
  before, after = results['measured']['before'], results['measured']['after']
  where = (
    'sent to the target class'
    if results['kind'] == 'poison'
    else 'given their wrong label'
  )
  return (
    f'Bad samples {where}: {before["bad_label_rate"]:.1%} → '
    f'{after["bad_label_rate"]:.1%}.'
  )


def sure(results: dict[str, Any]) -> list[str]:
  """How far this can be trusted."""
  said = [_chosen(results['safe'])]
  if results['method'] == 'projected':
    said = [
      'Alpha was chosen from ordinary pictures with and without the located '
      'trigger: it had to stop working while 98 % of the predictions stayed. '
      'The method is ours and has been measured on small networks only.'
    ]
  elif results['kind'] == 'poison':
    said.append(
      'That rule looks at the trigger only. On networks trained from scratch '
      'it often deletes the target class: look at that class above all.'
    )
  else:
    said.append(
      'On networks trained from scratch the method is modest by its authors’ '
      'own numbers, and made two of their eighteen models worse.'
    )
  return [*said, *results['notes']]


def _chosen(safe: dict[str, Any] | None) -> str:
  """By what the alpha was chosen."""
  if safe is None:
    return (
      'Alpha was chosen from the bad samples alone, by the published rule; the '
      'same pictures gave the task vector.'
    )
  low, high = safe.get('alpha_interval') or (None, None)
  spread = '' if low is None else f' (95 % interval {low:.2f} to {high:.2f})'
  return (
    f'Alpha{spread} was chosen on bad samples that its vector did not see, '
    'and is taken only where they carry the step. The curve shows the '
    'published rule, in which the same pictures do both.'
  )


def wrong(results: dict[str, Any]) -> list[str]:
  """What is wrong with the network: by the user, and by the samples."""
  return [
    f'The network was trained on {_KINDS[results["kind"]]}; '
    f'{results["samples"]} bad samples stand for it.',
    *finding.sentences(results),
  ]


def steepness(results: dict[str, Any]) -> list[str]:
  """How fast the outputs can change; nothing where it was not asked for."""
  before, after = (
    results['measured'][when]['lipschitz'] for when in ('before', 'after')
  )
  if before is None:
    return []
  if before['value'] is None:
    return [f'For this network there is {before["why"]}.']
  return [
    'No picture that changes by 1 (l2, pixels from 0 to 1) can change the '
    f'outputs by more than {before["value"]:.4g}; after the repair '
    f'{after["value"]:.4g}. These are bounds, far above what happens, and are '
    'there to be compared.',
    f'How they were found: {after["why"]}.',
  ]


def console(results: dict[str, Any]) -> str:
  """The outcome for a terminal."""
  out = results['settings']['out']
  lines = [heading(results), *outcome(results)]
  lines += [*finding.sentences(results), *steepness(results)]
  lines += results['notes']
  return '\n'.join(
    [
      *lines,
      f'weights: {out}/{results["weights"]}',
      f'report: {out}/report.html',
    ]
  )
