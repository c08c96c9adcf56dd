"""What an unlearning did, in plain words."""

from typing import Any

from cmu_jax.commands.unlearn.request import METHODS
from cmu_jax.studies.cuts import verdict

_SETS = {
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
    f'Method: {results["method"]} ({METHODS[results["method"]][1]}).',
    *_search(results['facts']),
    *_accuracies(results),
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
    f'{verdict.harm_text(harm)}.'.capitalize() for harm in harmed(results)
  ]
  return said


def _search(facts: dict[str, Any]) -> list[str]:
  """How the search for adversarial images went, where there was one."""
  if 'adversarial_share' not in facts:
    return []
  return [
    f'{facts["adversarial_share"]:.0%} of the pictures to forget have an '
    f'adversarial image, {facts["distance"]:.2f} away on average (l2, pixels '
    'from 0 to 1); the others were left out of that set.'
  ]


def _accuracies(results: dict[str, Any]) -> list[str]:
  before, after = (
    results['measured'][when]['accuracy'] for when in ('before', 'after')
  )
  return [
    f'Accuracy on the {words}: {before[name]:.3f} → {after[name]:.3f} '
    f'({100 * (after[name] - before[name]):+.1f} points).'
    for name, words in _SETS.items()
    if before[name] is not None
  ]


def sure(results: dict[str, Any]) -> list[str]:
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
