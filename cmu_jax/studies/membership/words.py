"""What an audit of methods can show and what it cannot, in plain words."""

from typing import Any

from cmu_jax.studies.membership import tables


def limits(found: dict[str, Any]) -> list[str]:
  """A sentence or two on each limit.

  Args:
    found: contents of results.json.
  """
  config = found['config']
  level = config['evaluate']['confidence']
  rows = [row for row in found['rows'] if row['points'] == 'forget']
  least = [row['detectable'] for row in rows if row.get('detectable')]
  said = [
    'It can show that something is left. Where the interval of a method lies '
    'above 50, forgotten points still differ from points that were never seen. '
    'Where it lies below, they differ too: more was forgotten than retraining '
    'forgets, and that gives them away as well.',
    'It cannot show that nothing is left. An interval around 50 says that this '
    'attack fails, with this many references, on average over these points. A '
    'stronger attack may succeed, and a few points may stand out where the '
    'average does not: the true positive rates at 1 % and 0.1 % are for them.',
    'It is only worth what its controls are worth. Networks that were trained '
    'anew without the points have to come out at 50, networks that forgot '
    'nothing above it; see the first sentences of this page.',
    'It is about these networks, images and settings. Nothing was tuned for '
    'the methods here, and another recipe may leave more or less behind.',
    f'Intervals have {tables.drawn(found)}, at {level:.0%} each: about '
    f'{1 - level:.0%} of such intervals miss, and this page has several.',
  ]
  if least:
    said.append(
      f'The fewest points here would show an AUC of {100 * max(least):.1f} '
      'with a probability of 0.8, if their scores were independent; smaller '
      'leaks may go unnoticed.'
    )
  if config['attack'] == 'ulira' and any(
    row['attack'] != 'U-LiRA' for row in rows
  ):
    said.append(
      'All attacks are on the same networks and forgotten points, so that they '
      'can be compared; U-LiRA leaves out points that fewer than three '
      'networks forgot. Adaptive ones know the method: their references were '
      'unlearned with it, too.'
    )
  return said
