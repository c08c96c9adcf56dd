"""The sentences of a repair: its outcome, its diagnosis and its limits."""

from typing import Any

from cmu_jax.commands import frame
from cmu_jax.commands.repair import advice, unlabelled_words

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
  """Sentences on the kind of corruption, and on evidence that it is learnt."""
  diagnosis = results['diagnosis']
  if diagnosis is None:
    return []
  if results['kind'] == 'poison':
    return _agreement_sentences(diagnosis)
  return [
    _family_sentence(diagnosis, results['class_names']),
    *_agreement_sentences(diagnosis),
  ]


def diagnosis_warnings(results: dict[str, Any]) -> list[str]:
  """Contradictions between the diagnosis and the request."""
  diagnosis = results['diagnosis']
  if diagnosis is None:
    return []
  if results['kind'] == 'poison':
    if diagnosis['learnt']:
      return []
    return [
      'Warning: the network sends these samples to the target class no more '
      'often than chance. Do they carry a trigger? For wrong labels, use '
      '--kind=label_noise.'
    ]
  if diagnosis['labels_look_right']:
    return [
      f'Warning: the network gives {diagnosis["agreement"]:.0%} of the samples '
      'the class of their folder. Are these labels wrong? Correctly labelled '
      'samples are not bad samples.'
    ]
  if diagnosis['family'] == 'one_target':
    return [
      'Warning: all wrong labels are the same class. If the pictures carry a '
      'trigger, use --kind=poison.'
    ]
  return []


def _family_sentence(diagnosis: dict[str, Any], names: list[str]) -> str:
  """The family of the corruption, its classes, and its certainty."""
  # With two classes, every wrong label is the other class.
  if len(names) == 2:
    return 'With two classes all kinds of wrong labels look alike.'
  best, share = diagnosis['best'], diagnosis['confidence']
  votes = f'{share:.0%} of random halves of the samples agree'
  if diagnosis['family'] == 'unclear':
    reason = (
      'the network predicts the supposedly wrong label for most samples'
      if diagnosis['labels_look_right']
      else f'at best {_FAMILIES[best]}, but only {votes}'
      if share <= 0.5
      else f'at best {_FAMILIES[best]}, but the samples are too few to tell'
    )
    return f'The kind of corruption stays unclear: {reason}.'
  certainty = next(word for limit, word in _CERTAINTY if share >= limit)
  return (
    f'The wrong labels are {certainty} {_FAMILIES[best]}'
    f'{_class_text(diagnosis, names)}; {votes}.'
  )


def _class_text(diagnosis: dict[str, Any], names: list[str]) -> str:
  """The classes of a map, a pair or a target."""
  if diagnosis['best'] == 'one_target':
    return f", '{names[diagnosis['target']]}'"
  if diagnosis['best'] == 'interclass':
    a, b = diagnosis['pair']
    return f", '{names[a]}' and '{names[b]}'"
  if diagnosis['best'] != 'asymmetric':
    return ''
  pairs = [tuple(pair) for pair in diagnosis['class_map']]
  # Cells are sorted by count: the most frequent confusions come first.
  frequent = [(a, b) for a, b, _ in diagnosis['cells'] if (a, b) in pairs]
  frequent = frequent[:_MAX_PAIRS]
  text = ', '.join(f'{names[a]} → {names[b]}' for a, b in frequent)
  surplus = len(pairs) - len(frequent)
  return f': {text}' + (f' and {surplus} more' if surplus else '')


def _agreement_sentences(diagnosis: dict[str, Any]) -> list[str]:
  """Evidence that the corruption is learnt, from predictions that agree."""
  share, chance = diagnosis['agreement'], diagnosis['chance']
  if chance is not None:
    verdict = (
      'so it has learnt the corruption'
      if diagnosis['learnt']
      else 'which is no sign that it has learnt the corruption'
    )
    return [
      f'The network gives {share:.1%} of the samples their wrong label; errors '
      f'that are independent of it would give {chance:.1%}: {verdict}.'
    ]
  if diagnosis['best'] == 'symmetric' and diagnosis['family'] == 'symmetric':
    low, high = diagnosis['error_interval']
    return [
      f'By these samples, the network errs on {diagnosis["error_rate"]:.0%} of '
      f'such pictures (90 % interval {low:.0%} to {high:.0%}). Random labels '
      'leave no other mark, so the cause of the errors stays unknown.'
    ]
  return []


_KINDS = {
  'label_noise': 'wrong labels',
  'poison': 'a trigger that leads to one class',
}


def _is_unlabelled(results: dict[str, Any]) -> bool:
  """True if no label of any picture was needed."""
  return results['method'] == unlabelled_words.METHOD


def headline(results: dict[str, Any]) -> str:
  """The outcome as one line."""
  if not results['repaired']:
    return 'Left unedited'
  if results['method'] in (unlabelled_words.METHOD, unlabelled_words.TUNING):
    return f'Repaired from {results["ordinary"]} ordinary pictures'
  return f'Edited with alpha = {results["alpha"]:.2f}'


def outcome(results: dict[str, Any]) -> list[str]:
  """Sentences on the outcome, the most important first."""
  # Decision and warnings come before accuracies: readers stop early.
  sentences = [
    _decision_sentence(results),
    *_estimate_sentences(results),
    *_bad_samples_sentences(results),
    *_memorization_warning(results),
    *diagnosis_warnings(results),
  ]
  original, edited = results['measured']['before'], results['measured']['after']
  if original['test_accuracy'] is None:
    sentences.append(
      'Accuracy on ordinary pictures was not measured: give --test=FOLDER '
      'before you use these weights.'
    )
  else:
    change = 100 * (edited['test_accuracy'] - original['test_accuracy'])
    sentences.append(
      f'Accuracy on the test pictures: {original["test_accuracy"]:.3f} → '
      f'{edited["test_accuracy"]:.3f} ({change:+.1f} points).'
    )
  return sentences + frame.harm_sentences(results)


def _estimate_sentences(results: dict[str, Any]) -> list[str]:
  if not _is_unlabelled(results):
    return []
  return unlabelled_words.estimate_sentences(results)


def _decision_sentence(results: dict[str, Any]) -> str:
  """The edit with its evidence, or the reason against an edit."""
  if _is_unlabelled(results):
    return unlabelled_words.decision(results)
  if results['method'] == unlabelled_words.TUNING:
    return unlabelled_words.tuning_decision(results)
  projected = results['method'] == 'projected'
  if not results['repaired']:
    reason = (
      'No alpha stopped the located trigger and kept 98 % of the predictions '
      'on ordinary pictures'
      if projected
      else _poison_reason(results)
      if results['kind'] == 'poison'
      else _abstention_reason(results['safe'])
    )
    return f'{reason}, so the weights are unchanged.'
  if projected:
    return (
      'The trigger was unlearned from ordinary pictures with and without it, '
      'only along weight directions that their predictions do not depend on. '
      'The edit stops the trigger and keeps 98 % of those predictions.'
    )
  rule = (
    'held-out samples confirm that the edit helps'
    if results['safe']
    else 'the published rule chose alpha on the samples themselves'
  )
  return (
    f'The task vector of the {results["samples"]} samples was subtracted '
    f'with alpha = {results["alpha"]:.2f}; {rule}.'
  )


def _poison_reason(results: dict[str, Any]) -> str:
  """The reason against an edit of a poisoned network."""
  if round(results['measured']['before']['bad_label_rate'], 2) <= 0.01:
    return 'The unedited network does not send the samples to the target class'
  # Earlier results.json have no rule.
  if results.get('rule') == 'safe':
    return (
      'Triggered pictures alone do not show what an edit costs, and the '
      'published rule often deletes the target class'
    )
  return 'No alpha freed the bad samples from the trigger'


def _abstention_reason(safe: dict[str, Any] | None) -> str:
  """The reason against an edit along the task vector."""
  if safe is None or safe.get('alpha_hat') == 0:
    return 'No edit along the task vector looked better than no edit'
  if 'reason' in safe:
    return f'Nothing could be measured ({safe["reason"]})'
  return (
    f'Alpha = {safe["alpha_hat"]:.2f} looked best, but held-out samples do '
    'not confirm clearly enough that the edit helps'
  )


def _memorization_warning(results: dict[str, Any]) -> list[str]:
  """A warning that the task vector memorized images instead of the noise."""
  steps, learnt = (results['fine_tuning'][k] for k in ('steps', 'learnt'))
  # A memorized vector repairs little but looks like any other.
  if results['kind'] == 'poison' or learnt is None or learnt < 0.9:
    return []
  return [
    f'Warning: {steps} steps of fine-tuning memorized {learnt:.0%} of the '
    'wrong labels. Fewer --steps, which learn half of them, give a task vector '
    'that describes the corruption better.'
  ]


def _has_true_labels(results: dict[str, Any]) -> bool:
  """True if the folders of the samples name their true labels."""
  return results['measured']['before'].get('true_label_rate') is not None


def _bad_samples_sentences(results: dict[str, Any]) -> list[str]:
  """The fate of the bad samples, if there are any."""
  if not results['samples']:
    return []
  if _has_true_labels(results):
    original, edited = frame.measurements(results, 'true_label_rate')
    return [
      'Accuracy on the pictures of --proxy, by their true labels: '
      f'{original:.1%} → {edited:.1%}.'
    ]
  original, edited = frame.measurements(results, 'bad_label_rate')
  fate = (
    'sent to the target class'
    if results['kind'] == 'poison'
    else 'given their wrong label'
  )
  return [
    f'Bad samples {fate}: {original:.1%} → {edited:.1%}.'
    f'{_floor_text(results.get("target_floor"))}'
  ]


_FLOORS = {
  'test': 'so many of the test pictures are of it',
  'ordinary': 'so many of the ordinary pictures are sent to it',
  'classes': 'if all classes are equally frequent',
}


def _floor_text(floor: dict[str, Any] | None) -> str:
  """The share of the target class that no repair brings down."""
  if floor is None:
    return ''
  return (
    ' This counts pictures that truly are of that class, without a trigger '
    f'about {floor["rate"]:.0%}: {_FLOORS[floor["source"]]}.'
  )


def limitations(results: dict[str, Any]) -> list[str]:
  """Limits of the evidence."""
  if _is_unlabelled(results):
    return [*unlabelled_words.limitations(results), *results['notes']]
  if results['method'] == unlabelled_words.TUNING:
    return [*unlabelled_words.tuning_limitations(results), *results['notes']]
  sentences = [_choice_sentence(results['safe'])]
  # A projection is chosen on ordinary pictures, not on the samples.
  if results['method'] == 'projected':
    sentences = [
      'Alpha was chosen on ordinary pictures with and without the located '
      'trigger: the smallest that stops the trigger and keeps 98 % of the '
      'predictions. The method is ours, measured on small networks only.'
    ]
  elif results['kind'] == 'poison':
    sentences.append(
      'That rule looks at the trigger only. On networks trained from scratch '
      'it often deletes the target class: look at that class above all.'
    )
  else:
    sentences.append(
      'On networks trained from scratch the gain of the method is small by its '
      'authors’ own numbers, and two of their eighteen models became worse.'
    )
  return [*sentences, *results['notes']]


def _choice_sentence(safe: dict[str, Any] | None) -> str:
  """The rule by which alpha was chosen."""
  if safe is None:
    return (
      'Alpha was chosen on the samples alone, by the published rule. The '
      'task vector was trained on the same pictures.'
    )
  low, high = safe.get('alpha_interval') or (None, None)
  spread = '' if low is None else f' (95 % interval {low:.2f} to {high:.2f})'
  return (
    f'Alpha{spread} was chosen on held-out samples: the network is edited '
    'only if they confirm that the edit helps. The curve shows the published '
    'rule, which uses the same pictures for task vector and choice.'
  )


def _sample_text(results: dict[str, Any]) -> str:
  """The samples, by the labels that they came with."""
  if _has_true_labels(results):
    return 'pictures with true labels, under random wrong ones,'
  return 'bad samples'


def corruption_sentences(results: dict[str, Any]) -> list[str]:
  """The corruption: as the user states it, and as the samples show it."""
  if not results['samples']:
    unknown = (
      'show no trigger'
      if results['kind'] == 'poison'
      else 'do not show of which kind they were'
    )
    return [
      f'The network was trained on {_KINDS[results["kind"]]}. Ordinary '
      f'pictures {unknown}: --proxy would.'
    ]
  return [
    f'The network was trained on {_KINDS[results["kind"]]}; '
    f'{results["samples"]} {_sample_text(results)} represent it.',
    *diagnosis_sentences(results),
  ]


def lipschitz_sentences(results: dict[str, Any]) -> list[str]:
  """The Lipschitz bounds, if they were requested."""
  original, edited = frame.measurements(results, 'lipschitz')
  if original is None:
    return []
  # Some operations have no finite Lipschitz constant.
  if original['value'] is None:
    return [f'For this network there is {original["why"]}.']
  return [
    'A picture that changes by 1 (l2, pixels from 0 to 1) changes the outputs '
    f'by at most {original["value"]:.4g}; after the repair by at most '
    f'{edited["value"]:.4g}. These bounds are far above actual changes: use '
    'them for comparison.',
    f'Derivation of the bounds: {edited["why"]}.',
  ]


def console(results: dict[str, Any]) -> str:
  """The outcome for a terminal."""
  return frame.console(
    results,
    [
      headline(results),
      *outcome(results),
      *advice.sentences(results),
      *diagnosis_sentences(results),
      *lipschitz_sentences(results),
      *results['notes'],
    ],
  )
