"""How much of a corruption a network has learnt, told by its agreement."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from cmu_jax.core.types import Info
from cmu_jax.methods.cuts import alpha_evidence
from cmu_jax.methods.diagnosis import codes


def _chance_agreement(
  family: str,
  cells: Int[np.ndarray, 'c 2'],
  guess: Int[np.ndarray, 'n'],
  agreed: Bool[np.ndarray, 'n'],
  label: Int[np.ndarray, 'n'],
  classes: int,
) -> Float[np.ndarray, 'n'] | None:
  """What each image adds to the share of agreement that is due to chance.

  A map or pair: predictions that are neither the wrong label nor the class
  that goes there are errors, and errors that know nothing of the corruption
  hit the wrong label as often as any other class. One target: it is predicted
  as often as any other class. None for families that leave no such mark.
  """
  if family == 'one_target':
    return ~agreed / (classes - 1)
  if family not in ('asymmetric', 'interclass'):
    return None
  named = np.zeros((classes, classes), bool)
  named[cells[:, 0], cells[:, 1]] = True
  return (~agreed & ~named[guess, label]) / max(classes - 2, 1)


def measure(
  family: str,
  moved: Int[np.ndarray, 'k k'],
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  half: Int[np.ndarray, 'b n'],
) -> Info:
  """Agreement against chance, the classes concerned, the rate of errors.

  Args:
    family: which one the images show.
    moved: by guessed truth and wrong label, see `codes.Tally`.
    probability: of each class.
    label: the wrong labels.
    half: which images are in each of b halves.
  """
  classes = probability.shape[1]
  agreed = probability.argmax(axis=1) == label
  named, cells = codes.describe_structure(family, moved)
  guess = codes.mask_wrong_label(probability, label).argmax(axis=1)
  chance = _chance_agreement(family, cells, guess, agreed, label, classes)
  part = np.concatenate([np.ones_like(half[:1]), half])
  part = part / part.sum(axis=1, keepdims=True)
  found: Info = {'agreement': float(agreed.mean()), **named}
  found |= {'chance': None, 'learnt': None, 'error_rate': None}
  if chance is not None:
    gain = alpha_evidence.estimate_gain(part @ (agreed - chance), 0.95)
    found |= {'chance': float(chance.mean()), 'learnt': gain.low > 0}
  if family == 'symmetric':
    count = int(agreed.sum())
    ends = error_interval(count, len(label), classes)
    rate = (classes - 1) * count / len(label)
    found |= {'error_rate': min(rate, 1.0), 'error_interval': list(ends)}
  return found


def error_interval(
  agreed: int, count: int, classes: int
) -> tuple[float, float]:
  """The 90 % interval of a network's error rate under symmetric noise.

  Of its errors, one in k - 1 is the wrong label: k - 1 times the Clopper and
  Pearson interval of the share of agreement, at most 1.

  Args:
    agreed: images that are given their wrong label.
    count: all images.
    classes: k.
  """
  low = special.betaincinv(agreed, count - agreed + 1, 0.05) if agreed else 0
  high = (
    special.betaincinv(agreed + 1, count - agreed, 0.95)
    if agreed < count
    else 1
  )
  return (
    min(float((classes - 1) * low), 1.0),
    min(float((classes - 1) * high), 1.0),
  )
