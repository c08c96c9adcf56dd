r"""Recovery of wrong training labels from a repaired network.

A sample was trained on with a wrong label. An attacker with the image and the
network is offered this label and another wrong label, and picks the more
probable label, relative to networks that never saw it:

  ratio(x, y) = p(y | x; theta) / p(y | x),   p = ((1 + a) p_out + 1 - a) / 2

which is the ratio of RMIA offline, of pairs (image, label). Without reference
networks it is the probability alone. The share of right guesses is 1/2 if
nothing is left, and (1 + s) / 2 if a share s was memorized. Both labels belong
to the same image: an AUC pooled over images would also count the certainty of
the network on each image.

Not every corruption draws wrong labels at random: a network that never saw the
label may prefer it too, as the likelier mistake. References correct for that.

References:
  Low-Cost High-Power Membership Inference Attacks (RMIA), arXiv 2312.03262.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num
from scipy import stats

from cmu_jax.audits import rmia_scores, signals
from cmu_jax.core import array_checks, errors, rng
from cmu_jax.core.types import PRNGKey

_OFFLINE_A = 0.3
_MIN_PROBABILITY = 1e-30


class LabelRecovery(NamedTuple):
  """The share of wrong training labels that an attacker guesses.

  Attributes:
    rate: share of right guesses, ties count half; 1/2 is chance.
    low: end of Wilson's 95 % interval over images.
    high: likewise. The spread over trainings is larger.
    images: number of images.
  """

  rate: float
  low: float
  high: float
  images: int


def draw_other_labels(
  key: PRNGKey,
  wrong: Int[np.ndarray, 'n'],
  truth: Int[np.ndarray, 'n'],
  classes: int,
) -> Int[np.ndarray, 'n']:
  """Draws a label for each sample that is neither the wrong nor the true one.

  Args:
    key: of the labels, which are uniform over the remaining classes.
    wrong: wrong labels.
    truth: true labels.
    classes: k.

  Raises:
    UserError: there is no third class, or a label is right or no class.
  """
  errors.check(
    classes >= 3,
    f'an audit of wrong labels offers two of them, but there are {classes} '
    'classes: leave out the audit',
  )
  array_checks.check_labels('wrong labels', wrong, classes)
  array_checks.check_labels('true labels', truth, classes)
  # A right label is no secret: any good network predicts it.
  right = wrong == truth
  errors.check(
    not right.any(),
    f'{int(right.sum())} of {wrong.size} labels are right, the first at '
    f'{int(right.argmax())}: audit wrong labels alone',
  )
  draw = jax.random.randint(key, wrong.shape, 0, classes - 2)
  low, high = np.minimum(wrong, truth), np.maximum(wrong, truth)
  # Skips both labels, the lower one first.
  label = np.asarray(draw, wrong.dtype)
  label = label + (label >= low)
  return label + (label >= high)


def _probability(
  logits: Num[np.ndarray, '*r n k'], label: Int[np.ndarray, 'n']
) -> Num[np.ndarray, '*r n']:
  value = signals.softmax(jnp.asarray(logits), jnp.asarray(label, jnp.int32))
  return np.asarray(value, np.float64)


def _wilson_interval(rate: float, count: int) -> tuple[float, float]:
  """Wilson's score interval of a share, 95 %."""
  z = float(stats.norm.ppf(0.975))
  # Wald's interval has no width where all guesses are right.
  centre = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
  half = z / (1 + z**2 / count)
  half *= math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
  # By rounding, an end may lie on the wrong side of a share of 0 or 1.
  return max(min(centre - half, rate), 0.0), min(max(centre + half, rate), 1.0)


def expected_advantage(
  references: Num[np.ndarray, 'r n k'],
  wrong: Int[np.ndarray, 'n'],
  other: Int[np.ndarray, 'n'],
  a: float = 1.0,
) -> Float[np.ndarray, 'n']:
  """log p(x, wrong) - log p(x, other), by networks that saw neither label.

  An audited network knows the wrong label if the difference of its two logits
  exceeds this threshold.

  Args:
    references: logits of the images.
    wrong: wrong labels that were trained on.
    other: wrong labels that were not.
    a: of RMIA offline. The default 1 compares with the references alone: a
      further reference would be right about half of the time, even for a label
      that is the likelier mistake.
  """
  wrong_log, other_log = (
    np.log(_expected_probability(_probability(references, label), a))
    for label in (wrong, other)
  )
  return wrong_log - other_log


def _expected_probability(
  without: Float[np.ndarray, 'r n'], a: float
) -> Float[np.ndarray, 'n']:
  # No reference saw the wrong label, so all are outside.
  mean = rmia_scores.offline_probability(
    without, np.zeros(without.shape, bool), a
  )
  return np.maximum(mean, _MIN_PROBABILITY)


def recover_labels(
  key: PRNGKey,
  logits: Num[np.ndarray, 'n k'],
  wrong: Int[np.ndarray, 'n'],
  truth: Int[np.ndarray, 'n'],
  references: Num[np.ndarray, 'r n k'] | None = None,
  *,
  a: float = _OFFLINE_A,
) -> LabelRecovery:
  """Audits a network for the wrong labels that it was trained with.

  Args:
    key: of the other labels.
    logits: of the network on the images.
    wrong: the wrong labels of the images.
    truth: their true labels.
    references: logits of networks that never saw the wrong labels; None for
      an attack without references.
    a: of RMIA offline; 1 compares with the references alone.

  Raises:
    UserError: as `draw_other_labels`, or no image.
  """
  errors.check(wrong.size, 'an audit of wrong labels has no image')
  alternative = draw_other_labels(
    rng.fold_in(key, 'other'), wrong, truth, logits.shape[-1]
  )

  def ratio(label):
    probability = _probability(logits, label)
    if references is None:
      return probability
    mean = _expected_probability(_probability(references, label), a)
    # Common confusions are likely for every network, and cancel.
    return np.maximum(probability, _MIN_PROBABILITY) / mean

  wrong_ratio, other_ratio = ratio(wrong), ratio(alternative)
  # A tie is a coin toss.
  hits = (wrong_ratio > other_ratio) + 0.5 * (wrong_ratio == other_ratio)
  rate = float(np.mean(hits))
  return LabelRecovery(rate, *_wilson_interval(rate, wrong.size), wrong.size)
