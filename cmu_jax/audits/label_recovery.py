r"""Are wrong labels still to be read out of a network that was repaired?

A sample was trained on under a wrong label. An attacker who holds the image and
the network is offered two wrong labels, that one and another, and takes the one
whose probability is higher, relative to networks that never saw it:

  ratio(x, y) = p(y | x; theta) / p(y | x),   p = ((1 + a) p_out + 1 - a) / 2

which is the ratio of RMIA offline, of pairs (image, label). Without such
networks it is the probability alone. The share of right guesses is 1/2 where
nothing is left, and where a share s was learnt by heart it is (1 + s) / 2. Both
labels are of the same image: pooled over images, an AUC would also count how
sure the network is of each of them.

A wrong label is not chosen at random by every corruption: without references
a network that never saw it may prefer it too, as the likelier mistake.

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
from cmu_jax.core import errors, rng
from cmu_jax.core.types import PRNGKey

_OFFLINE_A = 0.3
_MIN_PROBABILITY = 1e-30


class LabelRecovery(NamedTuple):
  """How often a wrong label that was trained on is guessed.

  Attributes:
    rate: share of right guesses, ties for half; 1/2 is chance.
    low: of the 95 % interval over images (Wilson's).
    high: likewise. Networks of other trainings differ by more.
    images: how many were asked.
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
  """A label for each sample that is neither the given nor the true one.

  Args:
    key: each such label is as likely.
    wrong: wrong labels.
    truth: true labels.
    classes: k.

  Raises:
    UserError: there is no third class, or a given label is right.
  """
  errors.check(
    classes >= 3,
    f'an audit of wrong labels offers two of them, but there are {classes} '
    'classes: leave it out',
  )
  right = wrong == truth
  errors.check(
    not right.any(),
    f'{int(right.sum())} of {wrong.size} labels are right, the first at '
    f'{int(right.argmax())}: audit wrong ones alone',
  )
  draw = jax.random.randint(key, wrong.shape, 0, classes - 2)
  low, high = np.minimum(wrong, truth), np.maximum(wrong, truth)
  found = np.asarray(draw, wrong.dtype)
  found = found + (found >= low)
  return found + (found >= high)


def _probability(
  logits: Num[np.ndarray, '*r n k'], label: Int[np.ndarray, 'n']
) -> Num[np.ndarray, '*r n']:
  found = signals.softmax(jnp.asarray(logits), jnp.asarray(label, jnp.int32))
  return np.asarray(found, np.float64)


def _wilson_interval(rate: float, count: int) -> tuple[float, float]:
  """Wilson's score interval of a share, 95 %."""
  z = float(stats.norm.ppf(0.975))
  centre = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
  half = z / (1 + z**2 / count)
  half *= math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
  # Rounded, an end may lie on the wrong side of a share of 0 or 1.
  return max(min(centre - half, rate), 0.0), min(max(centre + half, rate), 1.0)


def expected_advantage(
  references: Num[np.ndarray, 'r n k'],
  wrong: Int[np.ndarray, 'n'],
  other: Int[np.ndarray, 'n'],
  a: float = 1.0,
) -> Float[np.ndarray, 'n']:
  """log p(x, given) - log p(x, other), by networks that saw neither label.

  A network under audit knows the given label if the difference of its two
  logits is above this.

  Args:
    references: logits of the images.
    wrong: wrong labels that were trained on.
    other: wrong labels that were not.
    a: of RMIA offline. With 1 the references alone are compared with, so that
      one more of them would be right about half of the time even where one of
      the labels is the likelier mistake.
  """
  first, second = (
    _expected_probability(_probability(references, label), a)
    for label in (wrong, other)
  )
  return np.log(first) - np.log(second)


def _expected_probability(
  without: Float[np.ndarray, 'r n'], a: float
) -> Float[np.ndarray, 'n']:
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
  """Audits a network for the wrong labels that it was trained under.

  Args:
    key: of the other labels.
    logits: of the network on the images.
    wrong: the wrong labels of these.
    truth: their true ones.
    references: logits of networks that never saw the wrong labels; None for
      an attack without any.
    a: of RMIA offline; 1 compares with what the references say alone.

  Raises:
    UserError: as `other_wrong`, or no image.
  """
  errors.check(wrong.size, 'an audit of wrong labels has no image')
  other = draw_other_labels(
    rng.fold_in(key, 'other'), wrong, truth, logits.shape[-1]
  )

  def ratio(label):
    seen = _probability(logits, label)
    if references is None:
      return seen
    mean = _expected_probability(_probability(references, label), a)
    return np.maximum(seen, _MIN_PROBABILITY) / mean

  first, second = ratio(wrong), ratio(other)
  rate = float(np.mean((first > second) + 0.5 * (first == second)))
  return LabelRecovery(rate, *_wilson_interval(rate, wrong.size), wrong.size)
