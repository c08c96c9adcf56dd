"""The extent to which a network memorized a corruption, by its agreement."""

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
  """The contribution of each image to the agreement that is due to chance.

  None for families whose wrong labels leave no such mark.
  """
  if family == 'one_target':
    # By chance the target is predicted as often as any other class.
    return ~agreed / (classes - 1)
  if family not in ('asymmetric', 'interclass'):
    return None
  in_structure = np.zeros((classes, classes), bool)
  in_structure[cells[:, 0], cells[:, 1]] = True
  # Predictions that are neither the wrong label nor the class that is mapped to
  # it are errors. Errors that are independent of the corruption hit the wrong
  # label as often as any other class.
  return (~agreed & ~in_structure[guess, label]) / max(classes - 2, 1)


def measure(
  family: str,
  moved: Int[np.ndarray, 'k k'],
  probability: Float[np.ndarray, 'n k'],
  label: Int[np.ndarray, 'n'],
  half: Int[np.ndarray, 'b n'],
) -> Info:
  """Measures agreement against chance, and the rate of errors.

  Args:
    family: the family with the shortest code.
    moved: by guessed truth and wrong label, see `codes.Tally`.
    probability: of each class.
    half: membership of the images in each of b halves.

  Returns:
    Entries of the record, among them the classes of the family.
  """
  classes = probability.shape[1]
  agreed = probability.argmax(axis=1) == label
  structure, cells = codes.describe_structure(family, moved)
  guess = codes.mask_wrong_label(probability, label).argmax(axis=1)
  chance = _chance_agreement(family, cells, guess, agreed, label, classes)
  marks: Info = {'agreement': float(agreed.mean()), **structure}
  marks |= {'chance': None, 'learnt': None, 'error_rate': None}
  if chance is not None:
    # Row 0 has all images, as `standing` expects of the estimate.
    weight = np.concatenate([np.ones_like(half[:1]), half])
    weight = weight / weight.sum(axis=1, keepdims=True)
    gain = alpha_evidence.estimate_gain(weight @ (agreed - chance), 0.95)
    marks |= {'chance': float(chance.mean()), 'learnt': gain.low > 0}
  if family == 'symmetric':
    count = int(agreed.sum())
    interval = error_interval(count, len(label), classes)
    rate = (classes - 1) * count / len(label)
    marks |= {'error_rate': min(rate, 1.0), 'error_interval': list(interval)}
  return marks


def error_interval(
  agreed: int, count: int, classes: int
) -> tuple[float, float]:
  """Computes the 90 % interval of the error rate under symmetric noise.

  One in k - 1 errors is the wrong label, so the interval is k - 1 times the
  Clopper and Pearson interval of the share of agreement, at most 1.

  Args:
    agreed: images that are predicted as their wrong label.
    count: all images.
  """
  # At the ends of the range the beta distributions are degenerate.
  low = special.betaincinv(agreed, count - agreed + 1, 0.05) if agreed else 0
  high = (
    special.betaincinv(agreed + 1, count - agreed, 0.95)
    if agreed < count
    else 1
  )
  scaled = [min(float((classes - 1) * end), 1.0) for end in (low, high)]
  return scaled[0], scaled[1]
