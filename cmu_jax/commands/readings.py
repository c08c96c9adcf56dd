"""Checks that a network reads its pictures as in its training.

A network that answers at random was most often fed in another way than in its
training. The common ways are tried on a few pictures, and the error names the
one that helps.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from cmu_jax.commands import reading_trials
from cmu_jax.core import errors
from cmu_jax.core.types import Batch
from cmu_jax.methods.cuts import alpha_evidence, alpha_rules
from cmu_jax.networks.shipped import ShippedNetwork, class_order
from cmu_jax.training import metrics

# Labels of fewer pictures say nothing.
_LEAST = 20
# One-sided 95 % of a normal distribution.
_REACH = 1.64
# A network this skilled is not at chance: 0 is chance and 1 is perfect.
_SKILL = 0.25
# J of networks that read their pictures rightly is mostly above this.
_AGREEMENT = 0.4
# Pictures whose channels are exchanged.
_SURE = 512
# Standard errors of a gain of sureness, and its share of the uncertainty.
_CERTAIN, _GAIN = 3.0, 0.06
# An entropy near that of a uniform answer.
_UNIFORM = 0.95
# Share of a class that all pictures get, and share without the trigger.
_SINGLE, _FREE = 0.9, 0.5
_CHECK = 'check --weights, --model, --mean, --std, --channels and --classes'


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
  network: ShippedNetwork,
  batch: Batch,
  source: str,
  sure: bool = True,
  predicted: Int[np.ndarray, 'n'] | None = None,
) -> None:
  """Refuses a network that does not know pictures with classes.

  Args:
    network: as shipped.
    batch: pictures with the labels that it should predict.
    source: their folder, in words.
    sure: False if the labels may be others than those of its training. A
      network at chance is then refused only if another reading helps.
    predicted: its classes of them, if they are known.

  Raises:
    UserError: the network answers at random, or another reading of the
      pictures halves its errors; names the reading that helps.
  """
  label, classes = np.asarray(batch.label), len(network.class_names)
  if len(label) < _LEAST:
    return
  if predicted is None:
    predicted = metrics.predict(
      network.classifier, network.variables, batch, 256
    )
  skill = measure_skill(label, predicted, classes)
  prefix = (
    f'the network gives {skill.accuracy:.1%} of the {len(label)} pictures in '
    f'{source} their class'
  )
  tries = list(reading_trials.list_readings(network, np.asarray(batch.image)))
  if not skill.random and not reading_trials.is_quick(
    network, batch.image, len(tries)
  ):
    return
  rows = reading_trials.spread(len(label))
  trials = {
    reading.remedy: measure_skill(label[rows], logits.argmax(-1), classes)
    for reading, _, logits in reading_trials.try_all(
      network, batch.image[rows], tries
    )
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
  network: ShippedNetwork,
  image: UInt8[Array, 'n h w c'],
  source: str,
  sure: bool = True,
) -> None:
  """Refuses pictures whose J is far higher in another reading.

  A line says if the network is surer of them in the other order of channels.

  Args:
    network: as shipped.
    image: pictures of several classes; fewer than two a class say nothing.
    source: their folder, in words.
    sure: False if the network may rightly give all of them a single class.

  Raises:
    UserError: J does not exist for the unedited network, because it predicts a
      single class; or J is far below that of another reading. The error names
      the reading.
  """
  classes, count = len(network.class_names), image.shape[0]
  _remark_on_channels(network, np.asarray(image), source)
  if count < 2 * classes:
    return
  part = image[reading_trials.spread(count, 2 * classes)]
  tries = list(reading_trials.list_readings(network, np.asarray(image)))
  (_, features, logits), *_ = reading_trials.try_all(network, part, tries[:1])
  current = _agreement(features, logits)
  single = current <= -alpha_evidence.COLLAPSED
  if current > _AGREEMENT or not (
    single or reading_trials.is_quick(network, image, len(tries))
  ):
    return
  trials = {
    reading.remedy: _agreement(features, logits)
    for reading, features, logits in reading_trials.try_all(
      network, part, tries[1:]
    )
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
    not (single and sure),
    f'{prefix}. No common normalisation, channel order or orientation helps: '
    f'{_CHECK}, or add pictures of other true classes',
  )


def _remark_on_channels(
  network: ShippedNetwork, image: UInt8[np.ndarray, 'n h w c'], source: str
) -> None:
  """Warns if the network is far surer with red and blue exchanged.

  The entropies of the answers are compared picture by picture, which needs no
  labels.
  """
  tries = reading_trials.list_readings(network, image)
  current = next(tries)
  name = 'bgr' if network.channels == 'rgb' else 'rgb'
  # Grey pictures and input steps of a user have one order.
  reverse = next((r for r in tries if r.remedy == f'--channels={name}'), None)
  few = image[
    np.linspace(0, len(image) - 1, min(len(image), _SURE)).astype(int)
  ]
  quick = reading_trials.is_quick(network, few, math.ceil(2 * len(few) / 128))
  if reverse is None or len(few) < _LEAST or not quick:
    return
  outputs = reading_trials.try_all(network, few, [current, reverse])
  entropy, exchanged = (_entropies(logits) for _, _, logits in outputs)
  gain = entropy - exchanged
  error = gain.std(ddof=1) / math.sqrt(len(gain))
  if gain.mean() <= max(_CERTAIN * error, _GAIN * entropy.mean(), 0.01):
    return
  errors.remark(
    f'Warning: with red and blue exchanged the network is surer of {len(few)} '
    f'pictures in {source}: the entropy of its answers is '
    f'{exchanged.mean():.1%} of the largest possible instead of '
    f'{entropy.mean():.1%}, by {gain.mean() / error:.1f} standard errors. Is '
    f'{reverse.remedy} meant?'
  )


def _entropies(logits: Float[np.ndarray, 'n k']) -> Float[np.ndarray, 'n']:
  """Entropy of each answer, 1 for a uniform one."""
  log_odds = np.asarray(jax.nn.log_softmax(logits))
  return -(np.exp(log_odds) * log_odds).sum(-1) / math.log(logits.shape[-1])


def check_triggered(
  network: ShippedNetwork, image: UInt8[np.ndarray, 'n h w c'], source: str
) -> None:
  """Checks pictures with a trigger, for which nothing else shows the reading.

  All of them go to one class, also in a right reading. So a quarter of each
  picture is covered in turn: where that hides the trigger, the pictures are
  ordinary.

  Args:
    network: as shipped.
    image: the pictures.
    source: their folder, in words.

  Raises:
    UserError: answers that are all but uniform; a single class whatever the
      pictures show; or an error of `check_unlabelled` on covered pictures.
  """
  current = next(reading_trials.list_readings(network, image))
  few = image[reading_trials.spread(len(image))]
  covered = _cover_quarters(few)
  # Without its edges and shapes no picture has a trigger either.
  order = np.random.default_rng(0).permutation(math.prod(few.shape[1:3]))
  pixels = few.reshape(len(few), -1, few.shape[3])[:, order]
  variants = [few, *covered, pixels.reshape(few.shape), few // 4]
  if len(few) < _LEAST or not reading_trials.is_quick(
    network, few, len(variants)
  ):
    return
  answers = [
    logits
    for x in variants
    for _, _, logits in reading_trials.try_all(network, x, [current])
  ]
  entropy = float(_entropies(answers[0]).mean())
  errors.check(
    entropy < _UNIFORM,
    f'the answers of the network to the pictures in {source} are all but '
    f'uniform (entropy {entropy:.1%} of the largest possible), so it knows no '
    f'trigger: {_CHECK}',
  )
  predicted = np.stack([logits.argmax(-1) for logits in answers])
  crowd = int(np.bincount(predicted[0]).argmax())
  shares = (predicted == crowd).mean(1)
  errors.check(
    shares.min() < _SINGLE,
    f'the network gives the pictures in {source} the class '
    f"'{network.class_names[crowd]}', and so it does with any quarter of them "
    'covered, with their pixels shuffled, and darkened: it does not see them. '
    f'{_CHECK}, or give --test or --ordinary, which show more',
  )
  freed = int(shares[1:5].argmin())
  if shares[1 + freed] <= _FREE:
    image = _cover_quarters(image)[freed]
    title = f'{source} (a quarter covered, which hides the trigger)'
    check_unlabelled(network, jnp.asarray(image), title, sure=False)


def _cover_quarters(
  image: UInt8[np.ndarray, 'n h w c'],
) -> list[UInt8[np.ndarray, 'n h w c']]:
  """The pictures with each quarter covered by grey."""
  height, width = (size // 2 for size in image.shape[1:3])
  quarters = []
  for rows in (slice(height), slice(height, None)):
    for columns in (slice(width), slice(width, None)):
      covered = image.copy()
      covered[:, rows, columns] = 128
      quarters.append(covered)
  return quarters


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
