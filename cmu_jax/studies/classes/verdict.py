"""The verdict on a run: which audits tell which methods from retraining."""

from typing import NamedTuple

from cmu_jax.report import stats
from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.studies.classes import tables
from cmu_jax.studies.engine import gaps

AUDITS = {'mia_nn_gap': 'MIA-NN', 'tv': 'TV'}
# TRW and its own special cases: (method, simpler method, their names).
_PAIRS = (
  ('trw', 'rwft', 'the tilt', 'renormalising alone'),
  ('trw_sample', 'rwft', 'a tilt of each image', 'renormalising alone'),
  ('trw_sample', 'trw', 'similarity of each image', 'that of the class'),
)
LIMITS = (
  'What these audits can show: that a network treats the class otherwise than '
  'networks that never saw it, on average over images. What they cannot show: '
  'that nothing is left. An attack that finds nothing may be the wrong one; '
  'features may still hold the class under an answer that hides it; and '
  'without retrained networks, which nobody has in practice, none of these '
  'numbers can be computed.'
)


class Distance(NamedTuple):
  """Distance of a method to retraining by an audit, in points."""

  gap: float  # mean over classes
  excess: stats.Interval | None  # gap minus noise floor, paired over classes


def measure_distance(
  results: Results, method: str, audit: str
) -> Distance | None:
  """Measures the distance of a method to retraining; None without rows."""
  rows = tables.rows_of(results, method)
  floor = tables.rows_of(results, 'retrain')
  gap = tables.mean_points(rows, audit)
  if gap is None or not floor:
    return None
  return Distance(gap, tables.difference(rows, floor, audit))


def _sorted_distances(results: Results, audit: str) -> dict[str, Distance]:
  """Measures all methods besides retraining, the nearest first."""
  distances = {
    method: distance
    for method in results['methods']
    if method not in ('none', 'retrain')
    and (distance := measure_distance(results, method, audit)) is not None
  }
  return dict(sorted(distances.items(), key=lambda item: item[1].gap))


def is_detected(results: Results, method: str, audit: str) -> bool | None:
  """Returns whether an audit tells a method from retraining.

  The answer is None below two classes, which have no interval.
  """
  distance = measure_distance(results, method, audit)
  if distance is None or distance.excess is None:
    return None
  # The whole interval lies above the noise floor.
  return distance.excess.low > 0


def _describe_nearest(results: Results, audit: str, name: str) -> str:
  distances = _sorted_distances(results, audit)
  if not distances:
    return ''
  floor = tables.mean_points(tables.rows_of(results, 'retrain'), audit)
  idle = tables.mean_points(tables.rows_of(results, 'none'), audit)
  # More names would hide the comparison with the floor.
  nearest = list(distances.items())[:3]
  text = ', '.join(f'{m} {distance.gap:.1f}' for m, distance in nearest)
  parts = [f'By {name}, the nearest to retraining are {text} points']
  if floor is not None:
    parts.append(f'retrained networks are {floor:.1f} from each other')
  if idle is not None:
    parts.append(f'doing nothing is {idle:.1f} away')
  return f'{"; ".join(parts)}.'


def _describe_detection(results: Results, audit: str, name: str) -> str:
  """Lists the methods that an audit tells from retraining."""
  detected = {
    method: is_detected(results, method, audit)
    for method in _sorted_distances(results, audit)
  }
  caught = [method for method, answer in detected.items() if answer]
  passed = [method for method, answer in detected.items() if answer is False]
  if not caught and not passed:
    return f'One class says nothing about the next one: {name} tells nothing.'
  text = f'{name} tells {", ".join(caught) or "no method"} from retraining'
  if not passed:
    return f'{text}.'
  return f'{text}; not told apart beyond the noise floor: {", ".join(passed)}.'


def _describe_mask(results: Results) -> str:
  """Warns that accuracy alone would accept a mask."""
  rows = tables.rows_of(results, 'mask')
  accuracy = tables.mean_points(rows, 'retain_accuracy')
  gap = tables.mean_points(rows, 'tv')
  floor = tables.mean_points(tables.rows_of(results, 'retrain'), 'tv')
  if accuracy is None or gap is None or floor is None:
    return ''
  return (
    f'Accuracy alone is no evidence: forbidding the answer has ACC_f 0 and '
    f'ACC_r {accuracy:.1f} and forgets nothing by construction; its TV is '
    f'{gap:.1f}, the noise floor {floor:.1f}.'
  )


def _describe_pair(results: Results, pair: tuple[str, str, str, str]) -> str:
  """Compares the total variation of two methods."""
  method, simpler, name, simpler_name = pair
  change = tables.difference(
    tables.rows_of(results, method), tables.rows_of(results, simpler), 'tv'
  )
  if change is None:
    return ''
  verb = 'changes nothing that can be told'
  if change.high < 0:
    verb = 'helps'
  elif change.low > 0:
    verb = 'harms'
  return (
    f'Beside {simpler_name}, {name} {verb}: TV of {method} less that of '
    f'{simpler} is {gaps.interval_text(change)}.'
  )


def _describe_noise(results: Results) -> list[str]:
  """Describes the cost of the noisiest similarities, for each beta."""
  groups, sentences = tables.group_noise(results), []
  for beta in dict.fromkeys(beta for beta, _ in groups):
    noisiest = max(noise for b, noise in groups if b == beta)
    clean = groups.get((beta, 0.0), [])
    change = tables.difference(groups[beta, noisiest], clean, 'tv')
    if change is not None:
      sentences.append(
        f'Noise of standard deviation {noisiest:g} in the cosines changes the '
        f'TV of trw with beta {beta:g} by {gaps.interval_text(change)}.'
      )
  return sentences


def _describe_power(results: Results) -> list[str]:
  """Warns of audits that do not detect the original network."""
  # An audit without power accepts every method.
  least = min(results['unseen_images'].values(), default=0)
  return [
    f'{name} does not even tell doing nothing from retraining here, with '
    f'{least} unseen images a class: that it tells a method not apart is no '
    'evidence.'
    for audit, name in AUDITS.items()
    if is_detected(results, 'none', audit) is False
  ]


def describe(results: Results) -> Verdict:
  """States the methods that no audit tells from retraining."""
  methods = list(_sorted_distances(results, 'tv'))
  pending = () if results['finished'] else (UNFINISHED,)
  # Either no method or no retrained network is done.
  if not all(_sorted_distances(results, audit) for audit in AUDITS):
    sentences = ('Nothing can be compared yet.', *pending)
    return Verdict('No verdict yet', 'flat', sentences)
  passed = [
    method
    for method in methods
    # `is False`: an audit that cannot say is no evidence.
    if all(is_detected(results, method, audit) is False for audit in AUDITS)
  ]
  label = (
    f'Neither MIA-NN nor TV tells {", ".join(passed)} from retraining'
    if passed
    else 'An audit tells every method from retraining'
  )
  if all(is_detected(results, method, 'tv') is None for method in methods):
    label = 'One class: how far from retraining is not known'
  sentences = (
    *(_describe_nearest(results, *audit) for audit in AUDITS.items()),
    *(_describe_detection(results, *audit) for audit in AUDITS.items()),
    *_describe_power(results),
    _describe_mask(results),
    *(_describe_pair(results, pair) for pair in _PAIRS),
    *_describe_noise(results),
    'Networks of a class share its test images, and intervals are over '
    f'{len(results["config"]["forget_classes"])} classes: not told apart is '
    'not the same as alike.',
    LIMITS,
    *pending,
  )
  # The tone of the page: a smoke run proves nothing.
  evidence = results['finished'] and not results['smoke']
  tone = 'good' if passed and evidence else 'flat'
  return Verdict(label, tone, tuple(s for s in sentences if s))
