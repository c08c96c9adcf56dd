"""What a run showed, in words."""

from typing import NamedTuple

from cmu_jax.report import stats
from cmu_jax.report.frame import UNFINISHED, Results, Verdict
from cmu_jax.studies.classes import load

AUDITS = {'mia_nn_gap': 'MIA-NN', 'tv': 'TV'}
# TRW beside its own special cases.
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


class Beside(NamedTuple):
  """A method beside retraining, by one audit, in points.

  Attributes:
    gap: mean over classes.
    beyond: by how much that is above the noise floor, paired over classes.
  """

  gap: float
  beyond: stats.Interval | None


def beside(found: Results, method: str, audit: str) -> Beside | None:
  """How far a method is from retraining; None while that is not known."""
  own, floor = (load.rows(found, name) for name in (method, 'retrain'))
  gap = load.mean(own, audit)
  if gap is None or not floor:
    return None
  return Beside(gap, load.beyond(own, floor, audit))


def _known(found: Results, audit: str) -> dict[str, Beside]:
  """Methods that are not retraining, the nearest first."""
  held = {
    method: one
    for method in found['methods']
    if method not in ('none', 'retrain')
    and (one := beside(found, method, audit)) is not None
  }
  return dict(sorted(held.items(), key=lambda item: item[1].gap))


def told(found: Results, method: str, audit: str) -> bool | None:
  """Whether an audit tells a method from retraining; None if it cannot say."""
  one = beside(found, method, audit)
  if one is None or one.beyond is None:
    return None
  return one.beyond.low > 0


def _signed(between: stats.Interval) -> str:
  text = (
    f'{between.mean:+.2f} points, 95 % interval {between.low:+.2f} to '
    f'{between.high:+.2f}'
  )
  return text.replace('-', '−')


def _nearest(found: Results, audit: str, name: str) -> str:
  known = _known(found, audit)
  if not known:
    return ''
  floor = load.mean(load.rows(found, 'retrain'), audit)
  idle = load.mean(load.rows(found, 'none'), audit)
  first = ', '.join(f'{m} {one.gap:.1f}' for m, one in list(known.items())[:3])
  parts = [f'By {name}, the nearest to retraining are {first} points']
  if floor is not None:
    parts.append(f'retrained networks are {floor:.1f} from each other')
  if idle is not None:
    parts.append(f'doing nothing is {idle:.1f} away')
  return f'{"; ".join(parts)}.'


def _parted(found: Results, audit: str, name: str) -> str:
  """Which methods an audit tells from retraining."""
  known = _known(found, audit)
  caught = [m for m in known if told(found, m, audit)]
  passed = [m for m in known if told(found, m, audit) is False]
  if not caught and not passed:
    return f'One class says nothing about the next one: {name} tells nothing.'
  first = f'{name} tells {", ".join(caught) or "no method"} from retraining'
  if not passed:
    return f'{first}.'
  return f'{first}; not told apart beyond the noise floor: {", ".join(passed)}.'


def _accuracy(found: Results) -> str:
  """What accuracy alone would have said of masking."""
  rows = load.rows(found, 'mask')
  kept, gap = load.mean(rows, 'retain_accuracy'), load.mean(rows, 'tv')
  floor = load.mean(load.rows(found, 'retrain'), 'tv')
  if kept is None or gap is None or floor is None:
    return ''
  return (
    f'Accuracy alone is no evidence: forbidding the answer has ACC_f 0 and '
    f'ACC_r {kept:.1f} and forgets nothing by construction; its TV is '
    f'{gap:.1f}, the noise floor {floor:.1f}.'
  )


def _pair(found: Results, pair: tuple[str, str, str, str]) -> str:
  first, second, one, other = pair
  sides = load.rows(found, first), load.rows(found, second)
  between = load.beyond(*sides, 'tv')
  if between is None:
    return ''
  verb = 'changes nothing that can be told'
  if between.high < 0:
    verb = 'helps'
  elif between.low > 0:
    verb = 'harms'
  return (
    f'Beside {other}, {one} {verb}: TV of {first} less that of {second} is '
    f'{_signed(between)}.'
  )


def _noise(found: Results) -> list[str]:
  """How much the noisiest similarities cost, for each beta."""
  held, told = load.noisy(found), []
  for beta in dict.fromkeys(beta for beta, _ in held):
    most = max(noise for at, noise in held if at == beta)
    between = load.beyond(held[beta, most], held.get((beta, 0.0), []), 'tv')
    if between is not None:
      told.append(
        f'Noise of standard deviation {most:g} in the cosines changes the TV '
        f'of trw with beta {beta:g} by {_signed(between)}.'
      )
  return told


def _power(found: Results) -> list[str]:
  """Audits that do not even notice that nothing was done."""
  least = min(found['unseen_images'].values(), default=0)
  return [
    f'{name} does not even tell doing nothing from retraining here, with '
    f'{least} unseen images a class: that it tells a method not apart is no '
    'evidence.'
    for audit, name in AUDITS.items()
    if told(found, 'none', audit) is False
  ]


def verdict(found: Results) -> Verdict:
  """What a run showed.

  Args:
    found: checked contents of results.json.
  """
  known = {audit: _known(found, audit) for audit in AUDITS}
  pending = () if found['finished'] else (UNFINISHED,)
  if not all(known.values()):
    said = ('Nothing can be compared yet.', *pending)
    return Verdict('No verdict yet', 'flat', said)
  passed = [
    m
    for m in known['tv']
    if all(told(found, m, audit) is False for audit in AUDITS)
  ]
  label = (
    f'Neither MIA-NN nor TV tells {", ".join(passed)} from retraining'
    if passed
    else 'An audit tells every method from retraining'
  )
  if all(told(found, m, 'tv') is None for m in known['tv']):
    label = 'One class: how far from retraining is not known'
  sentences = [
    *(_nearest(found, audit, name) for audit, name in AUDITS.items()),
    *(_parted(found, audit, name) for audit, name in AUDITS.items()),
    *_power(found),
    _accuracy(found),
    *(_pair(found, pair) for pair in _PAIRS),
    *_noise(found),
    'Networks of a class share its test images, and intervals are over '
    f'{len(found["config"]["forget_classes"])} classes: not told apart is not '
    'the same as alike.',
    LIMITS,
    *pending,
  ]
  evidence = found['finished'] and not found['smoke']
  tone = 'good' if passed and evidence else 'flat'
  return Verdict(label, tone, tuple(s for s in sentences if s))


def floor(found: Results, audit: str) -> float | None:
  """How far retrained networks are from each other, in points."""
  return load.mean(load.rows(found, 'retrain'), audit)
