"""What a diagnosis says, in plain words.

What a repair did, in plain words.
"""

from typing import Any

from cmu_jax.report import page

_CERTAINTY = ((0.95, 'clearly'), (0.8, 'probably'), (0.0, 'perhaps'))
_FAMILIES = {
  'symmetric': 'spread evenly over the classes (symmetric noise)',
  'asymmetric': 'given by a map between classes (asymmetric noise)',
  'interclass': 'those of two classes that are taken for each other',
  'one_target': 'all the same class',
  'transition': 'different from class to class, but by no single map',
}
_MAX_PAIRS = 6


def diagnosis_sentences(results: dict[str, Any]) -> list[str]:
  """What kind of corruption the samples show, and whether it was learnt."""
  found = results['diagnosis']
  if found is None:
    return []
  if results['kind'] == 'poison':
    return _agreement_sentences(found)
  return [
    _family_sentence(found, results['class_names']),
    *_agreement_sentences(found),
  ]


def diagnosis_warnings(results: dict[str, Any]) -> list[str]:
  """Where the diagnosis contradicts what the user said."""
  found = results['diagnosis']
  if found is None:
    return []
  if results['kind'] == 'poison':
    if found['learnt']:
      return []
    return [
      'Warning: the network sends these samples to the target class no more '
      'often than chance would. Is a trigger in them? Wrong labels are '
      '--kind=label_noise.'
    ]
  if found['labels_look_right']:
    return [
      f'Warning: the network gives {found["agreement"]:.0%} of the samples the '
      'class of their folder. Are these labels wrong? Samples with right '
      'labels are no bad samples.'
    ]
  if found['family'] == 'one_target':
    return [
      'Warning: all wrong labels are one class. If a trigger is in the '
      'pictures, use --kind=poison.'
    ]
  return []


def _family_sentence(found: dict[str, Any], names: list[str]) -> str:
  """The family, which classes it is about, and how sure that is."""
  if len(names) == 2:
    return 'With two classes all kinds of wrong labels look alike.'
  best, share = found['best'], found['confidence']
  votes = f'{share:.0%} of random halves of the samples say so'
  if found['family'] == 'unclear':
    why = (
      'most samples are given the very label that should be wrong'
      if found['labels_look_right']
      else f'at best {_FAMILIES[best]}, but only {votes}'
      if share <= 0.5
      else f'at best {_FAMILIES[best]}, but the samples are too few to tell'
    )
    return f'What corruption this is stays unclear: {why}.'
  sure = next(word for least, word in _CERTAINTY if share >= least)
  return (
    f'The wrong labels are {sure} {_FAMILIES[best]}'
    f'{_class_text(found, names)}; {votes}.'
  )


def _class_text(found: dict[str, Any], names: list[str]) -> str:
  """The classes of a map, a pair or a target."""
  if found['best'] == 'one_target':
    return f", '{names[found['target']]}'"
  if found['best'] == 'interclass':
    a, b = found['pair']
    return f", '{names[a]}' and '{names[b]}'"
  if found['best'] != 'asymmetric':
    return ''
  pairs = [tuple(pair) for pair in found['class_map']]
  often = [(a, b) for a, b, _ in found['cells'] if (a, b) in pairs]
  told = ', '.join(f'{names[a]} → {names[b]}' for a, b in often[:_MAX_PAIRS])
  more = len(pairs) - len(often[:_MAX_PAIRS])
  return f': {told}' + (f' and {more} more' if more else '')


def _agreement_sentences(found: dict[str, Any]) -> list[str]:
  """Whether the corruption is learnt, as far as agreement tells."""
  share, chance = found['agreement'], found['chance']
  if chance is not None:
    verdict = (
      'so it has learnt the corruption'
      if found['learnt']
      else 'which is no sign that it has learnt the corruption'
    )
    return [
      f'The network gives {share:.1%} of the samples their wrong label, where '
      f'errors that know nothing of it would give {chance:.1%}: {verdict}.'
    ]
  if found['best'] == 'symmetric' and found['family'] == 'symmetric':
    low, high = found['error_interval']
    return [
      f'By them the network errs on {found["error_rate"]:.0%} of such pictures '
      f'(90 % interval {low:.0%} to {high:.0%}); random labels leave no other '
      'mark, so what made it err cannot be told.'
    ]
  return []


_KINDS = {
  'label_noise': 'wrong labels',
  'poison': 'a trigger that leads to one class',
}


def heading(results: dict[str, Any]) -> str:
  """The outcome as one line."""
  if not results['repaired']:
    return 'Left as it was'
  return f'Edited with alpha = {results["alpha"]:.2f}'


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
    _decision_sentence(results),
    _bad_samples_sentence(results),
    *_memorization_warning(results),
    *diagnosis_warnings(results),
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
    f'{page.describe_harm(harm)}.'.capitalize()
    for harm in harmed_classes(results)
  ]
  return said


def _decision_sentence(results: dict[str, Any]) -> str:
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
      else _poison_reason(results['measured']['before']['bad_label_rate'])
      if poison
      else _abstention_reason(results['safe'])
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


def _poison_reason(rate: float) -> str:
  """Why a network, backdoored or not, was left alone."""
  if round(rate, 2) <= 0.01:
    return 'The samples are not sent to the target class as it is'
  return 'No alpha freed the bad samples from the trigger'


def _abstention_reason(safe: dict[str, Any] | None) -> str:
  """Why a step along the task vector was not taken."""
  if safe is None or safe.get('alpha_hat') == 0:
    return 'No step along the task vector looked better than none'
  if 'reason' in safe:
    return f'Nothing could be measured ({safe["reason"]})'
  return (
    f'A step of alpha = {safe["alpha_hat"]:.2f} looked best, but samples that '
    'its vector did not see do not carry it clearly enough'
  )


def _memorization_warning(results: dict[str, Any]) -> list[str]:
  """A warning where the task vector knows its images rather than the noise."""
  steps, learnt = (results['fine_tuning'][k] for k in ('steps', 'learnt'))
  if results['kind'] == 'poison' or learnt < 0.9:
    return []
  return [
    f'Warning: {steps} steps of fine-tuning learnt {learnt:.0%} of the wrong '
    'labels by heart; a vector of fewer --steps, half of them learnt, is more '
    'about the corruption.'
  ]


def _bad_samples_sentence(results: dict[str, Any]) -> str:
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


def limitations(results: dict[str, Any]) -> list[str]:
  """How far this can be trusted."""
  said = [_choice_sentence(results['safe'])]
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


def _choice_sentence(safe: dict[str, Any] | None) -> str:
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


def corruption_sentences(results: dict[str, Any]) -> list[str]:
  """What is wrong with the network: by the user, and by the samples."""
  return [
    f'The network was trained on {_KINDS[results["kind"]]}; '
    f'{results["samples"]} bad samples stand for it.',
    *diagnosis_sentences(results),
  ]


def lipschitz_sentences(results: dict[str, Any]) -> list[str]:
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
  lines += [*diagnosis_sentences(results), *lipschitz_sentences(results)]
  lines += results['notes']
  return '\n'.join(
    [
      *lines,
      f'weights: {out}/{results["weights"]}',
      f'report: {out}/report.html',
    ]
  )
