"""What a diagnosis says, in plain words."""

from typing import Any

_SURE = ((0.95, 'clearly'), (0.8, 'probably'), (0.0, 'perhaps'))
_FAMILIES = {
  'symmetric': 'spread evenly over the classes (symmetric noise)',
  'asymmetric': 'given by a map between classes (asymmetric noise)',
  'interclass': 'those of two classes that are taken for each other',
  'one_target': 'all the same class',
  'transition': 'different from class to class, but by no single map',
}
_PAIRS = 6


def sentences(results: dict[str, Any]) -> list[str]:
  """What kind of corruption the samples show, and whether it was learnt."""
  found = results['diagnosis']
  if found is None:
    return []
  if results['kind'] == 'poison':
    return _agreement(found)
  return [_family(found, results['class_names']), *_agreement(found)]


def warnings(results: dict[str, Any]) -> list[str]:
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


def _family(found: dict[str, Any], names: list[str]) -> str:
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
  sure = next(word for least, word in _SURE if share >= least)
  return (
    f'The wrong labels are {sure} {_FAMILIES[best]}{_classes(found, names)}; '
    f'{votes}.'
  )


def _classes(found: dict[str, Any], names: list[str]) -> str:
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
  told = ', '.join(f'{names[a]} → {names[b]}' for a, b in often[:_PAIRS])
  more = len(pairs) - len(often[:_PAIRS])
  return f': {told}' + (f' and {more} more' if more else '')


def _agreement(found: dict[str, Any]) -> list[str]:
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
