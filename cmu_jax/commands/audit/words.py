"""What an audit found, in plain words."""

from typing import Any

_HEADINGS = {
  'leaks': 'Members can be told from non-members',
  'no leak found': 'No leak found by these attacks',
  'cannot conclude': 'Too little to conclude',
}


def verdict(results: dict[str, Any]) -> str:
  """One leak is a leak; without any, one attack that is able to say so."""
  found = {row['verdict'] for row in results['rows']}
  order = ('leaks', 'no leak found', 'cannot conclude')
  return next(name for name in order if name in found)


def subject(results: dict[str, Any]) -> str:
  """The file that was audited."""
  settings = results['settings']
  return settings['scores'] or settings['weights']


def heading(results: dict[str, Any]) -> str:
  """The outcome as one line."""
  return _HEADINGS[verdict(results)]


def outcome(results: dict[str, Any]) -> list[str]:
  """What each attack found."""
  return [
    f'{row["attack"]}: {row["says"]}'
    + (f' ({row["note"]}.)' if row['note'] else '')
    for row in results['rows']
  ]


def sure(results: dict[str, Any]) -> list[str]:
  """What an audit can show and what it cannot."""
  count = len(results['rows'])
  said = [
    'An attack that succeeds shows a leak. One that fails shows that this '
    'attack fails: a stronger one may not.',
    'Intervals are over points, for this one network; over trainings they are '
    'wider. Members and non-members must be of one kind: where they differ by '
    'date or source, the attack finds that.',
  ]
  if results['settings']['weights']:
    said.append(
      'References were trained with the recipe that was given. If the network '
      'was trained in another way, they are no measure of what it would say of '
      'a picture that it has not seen, and the attacks are weaker.'
    )
  if count > 1:
    said.append(
      f'{count} attacks were tried, and each interval is for one: of twenty '
      'audits without a leak, about one finds one by chance in each attack.'
    )
  return said


def console(results: dict[str, Any]) -> str:
  """The outcome for a terminal."""
  out = results['settings']['out']
  lines = [heading(results), *outcome(results), f'report: {out}/report.html']
  return '\n'.join(lines)
