"""Checks that a network reads its pictures as in its training.

A network that answers at random was most often fed in another way than in its
training. The common ways are tried on a few pictures, and the error names the
one that helps.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from cmu_jax.core import errors, jit
from cmu_jax.core.types import Batch, Model
from cmu_jax.methods.cuts import alpha_evidence, alpha_rules
from cmu_jax.networks.shipped import ShippedNetwork, class_order
from cmu_jax.training import metrics

# Pictures of a trial, and pictures at a time.
_PICTURES, _BLOCK = 128, 64
# Labels of fewer pictures say nothing.
_LEAST = 20
# One-sided 95 % of a normal distribution.
_REACH = 1.64
# A network this skilled is not at chance: 0 is chance and 1 is perfect.
_SKILL = 0.25
# Weights times pixels of all trials that take a CPU some seconds.
_QUICK = 2e13
# J of networks that read their pictures rightly is mostly above this.
_AGREEMENT = 0.4
# Mean and standard deviation of pixels from 0 to 1, by their custom.
_NORMALISATIONS = (
  ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet
  ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),  # CIFAR-10
  ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),  # CIFAR-100
  ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
  ((0.1307,), (0.3081,)),  # MNIST
  ((0.286,), (0.353,)),  # Fashion-MNIST
  ((0.5,), (0.5,)),
  ((0.0,), (1.0,)),
  ((0.0,), (0.00392157,)),  # pixels from 0 to 255
  ((0.485, 0.456, 0.406), (0.00392157,) * 3),  # likewise, less their mean
)
_CHECK = 'check --weights, --model, --mean, --std, --channels and --classes'


class Reading(NamedTuple):
  """A way to read pictures.

  Attributes:
    remedy: flags or changes of the pictures that lead to it; '' for none.
    convert: raw pixels [n, h, w, c] to network input.
  """

  remedy: str
  convert: Callable[[np.ndarray], np.ndarray]


class Skill(NamedTuple):
  """The skill of answers: 0 at chance, 1 without errors.

  Attributes:
    accuracy: the share of right answers.
    value: mean over classes of right answers less false alarms, as rates.
    error: standard error of `value`.
  """

  accuracy: float
  value: float
  error: float

  @property
  def random(self) -> bool:
    """True if it is at chance, and skill would have shown."""
    reach = _REACH * self.error
    return self.value <= reach and self.value + reach < _SKILL


def measure_skill(
  label: Int[np.ndarray, 'n'], predicted: Int[np.ndarray, 'n'], classes: int
) -> Skill:
  """Measures skill in a way that a constant answer cannot flatter.

  Args:
    label: true classes.
    predicted: the network's.
    classes: k, the chance of a guess is 1 / k.
  """
  right = label == predicted
  present = np.unique(label)
  values, variances = [], []
  for c in present:
    hits, alarms = right[label == c], predicted[label != c] == c
    # Add-one smoothing: a rate of 0 or 1 of few pictures is not certain.
    pairs = [((x.sum() + 1) / (x.size + 2), x.size + 2) for x in (hits, alarms)]
    (rate, size), (false, others) = pairs
    if len(present) == 1:
      false, others = 1 / classes, math.inf
    alarm_rate = alarms.mean() if alarms.size else 1 / classes
    values.append(hits.mean() - alarm_rate)
    variances.append(rate * (1 - rate) / size + false * (1 - false) / others)
  error = math.sqrt(sum(variances)) / len(present)
  return Skill(float(right.mean()), float(np.mean(values)), error)


def check_labelled(
  network: ShippedNetwork, batch: Batch, source: str, sure: bool = True
) -> None:
  """Refuses a network that does not know pictures with classes.

  Args:
    network: as shipped.
    batch: pictures with the labels that it should predict.
    source: their folder, in words.
    sure: False if the labels may be others than those of its training. A
      network at chance is then refused only if another reading helps.

  Raises:
    UserError: the network answers at random, or another reading of the
      pictures halves its errors; names the reading that helps.
  """
  label, classes = np.asarray(batch.label), len(network.class_names)
  if len(label) < _LEAST:
    return
  predicted = metrics.predict(network.classifier, network.variables, batch, 256)
  skill = measure_skill(label, predicted, classes)
  prefix = (
    f'the network gives {skill.accuracy:.1%} of the {len(label)} pictures in '
    f'{source} their class'
  )
  tries = list(_readings(network, np.asarray(batch.image)))
  if not skill.random and not _is_quick(network, batch.image, len(tries)):
    return
  rows = _spread(len(label))
  trials = {
    reading.remedy: measure_skill(label[rows], logits.argmax(-1), classes)
    for reading, _, logits in _try_all(network, batch.image[rows], tries)
  }
  current = trials.pop('')
  best = max(trials.values(), key=lambda skill: skill.value, default=current)
  # The most common of those that are as good.
  least = best.value - best.error
  names = (name for name, skill in trials.items() if skill.value >= least)
  remedy = next(names, '')
  best = trials.get(remedy, current)
  gain = best.value - current.value
  order = _check_misordered(network, label, predicted, best) if sure else ''
  # A network that is not at chance is only contradicted by a reading with at
  # most half of its errors. For a network at chance the best of many trials is
  # lucky, so the reading must have skill.
  least = _SKILL if skill.random else (1 - current.value) / 2
  errors.check(
    gain < max(least, 3 * best.error) or best.accuracy <= current.accuracy,
    f'{prefix}, but {best.accuracy:.1%} of {len(rows)} of them with {remedy}: '
    f'{_advise(remedy)}',
  )
  errors.check(
    not (skill.random and sure),
    f'{prefix}, which is chance. No common normalisation, channel order or '
    f'orientation of the pictures helps: {_CHECK}{order}',
  )


def _check_misordered(
  network: ShippedNetwork, label: np.ndarray, predicted: np.ndarray, best: Skill
) -> str:
  """Refuses classes in an order that explains more than any reading.

  Args:
    network: as shipped.
    label: true classes.
    predicted: the network's.
    best: skill in the best other reading.

  Returns:
    A sentence on another order that helps less; '' for none.

  Raises:
    UserError: the network is at chance, and right in another order.
  """
  names = network.class_names
  skill = measure_skill(label, predicted, len(names))
  better = class_order.find_better(names, label, predicted)
  if not skill.random or better is None:
    return ''
  text = (
    f'{better.accuracy:.1%} with the classes {better.title}, '
    f'--classes={",".join(better.names)}'
  )
  errors.check(
    better.accuracy < max(best.accuracy, class_order.MOST),
    f'the network gives {skill.accuracy:.1%} of the {len(label)} pictures '
    f'their class, which is chance, but {text}: give this instead',
  )
  return f'. It gives {text}'


def check_unlabelled(
  network: ShippedNetwork, image: UInt8[Array, 'n h w c'], source: str
) -> None:
  """Refuses pictures whose J is far higher in another reading.

  Args:
    network: as shipped.
    image: pictures of several classes; fewer than two a class say nothing.
    source: their folder, in words.

  Raises:
    UserError: J does not exist for the unedited network, because it predicts a
      single class; or J is far below that of another reading. The error names
      the reading.
  """
  classes, count = len(network.class_names), image.shape[0]
  if count < 2 * classes:
    return
  part = image[_spread(count, 2 * classes)]
  tries = list(_readings(network, np.asarray(image)))
  (_, features, logits), *_ = _try_all(network, part, tries[:1])
  current = _agreement(features, logits)
  single = current <= -alpha_evidence.COLLAPSED
  if current > _AGREEMENT or not (
    single or _is_quick(network, image, len(tries))
  ):
    return
  trials = {
    reading.remedy: _agreement(features, logits)
    for reading, features, logits in _try_all(network, part, tries[1:])
  }
  best = max(trials.values(), default=current)
  # The most common of those that are as good.
  remedy = next((name for name in trials if trials[name] >= best - 0.02), '')
  crowd = np.bincount(logits.argmax(-1), minlength=classes)
  prefix = (
    f'the network gives {crowd.max()} of {len(part)} pictures in {source} '
    f"the class '{network.class_names[int(crowd.argmax())]}', so J, which "
    'chooses alpha, does not exist'
    if single
    else f'J, the agreement of neighbours in {source}, is only {current:.2f}'
  )
  errors.check(
    best < _AGREEMENT or best - current < _AGREEMENT,
    f'{prefix}, but {best:.2f} with {remedy}: {_advise(remedy)}',
  )
  errors.check(
    not single,
    f'{prefix}. No common normalisation, channel order or orientation helps: '
    f'{_CHECK}, or add pictures of other true classes',
  )


def _advise(remedy: str) -> str:
  """Advises a reading; a common normalisation may only be near the true one."""
  if '--mean' not in remedy:
    return 'give this instead'
  return (
    'the best of those tried; give this, or the statistics of its training if '
    'you know them'
  )


def _agreement(
  features: Float[np.ndarray, 'n d'], logits: Float[np.ndarray, 'n k']
) -> float:
  """J of the answers, which needs no labels."""
  k = alpha_rules.neighbour_count(*logits.shape)
  arrays = jnp.asarray(features), jnp.asarray(logits)
  return float(alpha_rules.agreement(*arrays, k=k).J)


def _spread(count: int, least: int = 0) -> np.ndarray:
  """Rows at equal distances: folders are sorted by class."""
  size = min(count, max(_PICTURES, least))
  return np.linspace(0, count - 1, size).astype(int)


def _is_quick(network: ShippedNetwork, image: jax.Array, tries: int) -> bool:
  leaves = jax.tree.leaves(network.variables.params)
  pixels = math.prod(image.shape[1:]) * min(image.shape[0], _PICTURES)
  return float(sum(map(np.size, leaves))) * pixels * tries < _QUICK


@functools.lru_cache(maxsize=8)
def _outputs(model: Model) -> Callable:
  """(variables, network input) -> features and logits, jitted."""

  def run(variables, image):
    features = model.features(variables, image)
    return features, model.head(variables, features)

  return jit.compile_loop(run)


def _try_all(
  network: ShippedNetwork, image: jax.Array, tries: list[Reading]
) -> Iterator[tuple[Reading, np.ndarray, np.ndarray]]:
  """Features and logits of the same pictures in each reading."""
  raw, run = np.asarray(image), _outputs(network.model)
  # Full blocks have one shape, hence one compilation.
  starts = range(0, len(raw), _BLOCK)
  for reading in tries:
    fed = reading.convert(raw)
    parts = [run(network.variables, fed[i : i + _BLOCK]) for i in starts]
    features, logits = (
      np.concatenate([np.asarray(x) for x in column])
      for column in zip(*parts, strict=True)
    )
    yield reading, features, logits


def _readings(
  network: ShippedNetwork, image: UInt8[np.ndarray, 'n h w c']
) -> Iterator[Reading]:
  """The given reading, and each of the common ones."""
  # An input step of somebody's own has no other readings.
  if not network.mean:
    yield Reading(
      '', lambda x: np.asarray(network.inputs.eval(jnp.asarray(x), None))
    )
    return
  channels = image.shape[3]
  pixels = image.astype(np.float32) / 255
  # Those of the pictures themselves are as common as any.
  flat = pixels.reshape(-1, channels).astype(np.float64)
  own = tuple(tuple(x.round(4).tolist()) for x in (flat.mean(0), flat.std(0)))
  given = (_fill(network.mean, channels), _fill(network.std, channels))
  pairs = [given]
  for mean, std in (*_NORMALISATIONS, own):
    if len(mean) in (1, channels) and min(std) > 0:
      pairs.append((_fill(mean, channels), _fill(std, channels)))
  orders = [network.channels] if channels == 1 else ['rgb', 'bgr']
  turns = [False] if image.shape[1] != image.shape[2] else [False, True]
  # Without repetition: the given one may be a common one.
  for pair, order, turn, invert in itertools.product(
    dict.fromkeys(pairs), orders, turns, (False, True)
  ):
    # Two mistakes at once are rare. Grey pictures have few normalisations.
    odd = (channels > 1 and pair != given) + (order != network.channels)
    if turn + invert + (turn or invert) * odd > 1:
      continue
    changes = [
      pair != given and f'--mean={_text(pair[0])} --std={_text(pair[1])}',
      order != network.channels and f'--channels={order}',
      turn and 'rows and columns of the pictures exchanged',
      invert and 'black and white of the pictures exchanged',
    ]
    yield Reading(
      ' and '.join(filter(None, changes)),
      functools.partial(_convert, pair, order == 'bgr', turn, invert),
    )


def _convert(
  pair: tuple[tuple[float, ...], tuple[float, ...]],
  reverse: bool,
  turn: bool,
  invert: bool,
  image: UInt8[np.ndarray, 'n h w c'],
) -> Float[np.ndarray, 'n h w c']:
  mean, std = (np.asarray(values, np.float32) for values in pair)
  pixels = (255 - image if invert else image).astype(np.float32) / 255
  if turn:
    pixels = pixels.swapaxes(1, 2)
  normal = (pixels - mean) / std
  return normal[..., ::-1] if reverse else normal


def _fill(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
  """One value a channel."""
  numbers = tuple(map(float, values))
  return numbers * channels if len(numbers) == 1 else numbers


def _text(values: tuple[float, ...]) -> str:
  return ','.join(f'{value:.8g}' for value in values)
