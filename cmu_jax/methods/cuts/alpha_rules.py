"""Choosing alpha without labels: the objectives of CUTS (arXiv 2511.18660).

Label noise: J(alpha), the chance-corrected self-agreement of nearest
neighbours in the edited network's own feature space, minus penalties for
collapsed predictions. Poison: the smallest alpha under which the triggered
proxy images are no longer classified as the target.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from cmu_jax.core import errors

_EPSILON = 1e-8
# Rows of the similarity matrix at a time: a pool of n images would need n^2.
_BLOCK = 4096


class Agreement(NamedTuple):
  """J and its parts, one value or one value an alpha.

  Attributes:
    J: the objective, adjusted_agreement - penalty_effective -
      penalty_coverage; -1e6 - (2 - s) if fewer than two classes have support.
    self_agreement: mean over samples and their k neighbours of "same
      predicted class".
    chance: P, the sum of squared mean class probabilities.
    adjusted_agreement: (SA - P) / (1 - P).
    penalty_effective: max(0, R - 1/P) / R, with R required classes.
    penalty_coverage: max(0, R - s) / R; its weight lambda is 1, as released.
    supported: s, classes predicted at least m times.
  """

  J: Float[Array, '*a']
  self_agreement: Float[Array, '*a']
  chance: Float[Array, '*a']
  adjusted_agreement: Float[Array, '*a']
  penalty_effective: Float[Array, '*a']
  penalty_coverage: Float[Array, '*a']
  supported: Int[Array, '*a']


class AlphaChoice(NamedTuple):
  """A selected coefficient.

  Attributes:
    alpha: the coefficient in theta - alpha tau.
    position: its index in the grid; None if the rule abstained.
    selected: False if the rule abstained.
  """

  alpha: float
  position: int | None
  selected: bool


# Alpha 0 leaves the model unchanged.
ABSTENTION = AlphaChoice(0.0, None, False)


def noise_grid() -> np.ndarray:
  """The 81 coefficients 0.00, 0.05, ..., 4.00 for label noise."""
  return np.arange(81) / 20


def poison_grid() -> np.ndarray:
  """The 100 coefficients 0.05, 0.10, ..., 5.00 for poison."""
  return np.arange(1, 101) / 20


def neighbour_count(samples: int, num_classes: int) -> int:
  """k = floor((N / C) / 2).

  Raises:
    UserError: k would be below 1, which takes at least 2 C proxy images.
  """
  k = samples // (2 * num_classes)
  errors.check(
    k >= 1,
    f'{samples} proxy images are too few for {num_classes} classes: at least '
    f'{2 * num_classes} are needed',
  )
  return k


def least_support(k: int) -> int:
  """Samples that a class needs to count as predicted."""
  # As in the released code: k + 1 samples for k = 1 and 2, else k.
  return min(k + 1, max(3, k))


def required_classes(num_classes: int, class_share: float) -> int:
  """R = max(2, min(C, ceil(gamma C)))."""
  # 0.07 * 100 is 7.000000000000001 in floating point, and 7 classes are meant.
  return max(2, min(num_classes, math.ceil(class_share * num_classes - 1e-9)))


def normalize_rows(features: Float[Array, 'n d']) -> Float[Array, 'n d']:
  """Scales rows to length one; rows of zeros stay."""
  norm = jnp.linalg.norm(features, axis=1, keepdims=True)
  return features / jnp.maximum(norm, jnp.finfo(features.dtype).tiny)


def neighbours(features: Float[Array, 'n d'], k: int) -> Int[Array, 'n k']:
  """The k nearest other samples by cosine; ties go to the lower index.

  Args:
    features: one row a sample, any scale.
    k: neighbours a sample, below n.
  """
  unit = normalize_rows(features)
  samples = features.shape[0]

  def nearest(rows: Int[Array, 'b']) -> Int[Array, 'b k']:
    # Products that are rounded to few digits would reorder close neighbours.
    similarity = jnp.matmul(
      unit[rows], unit.T, precision=jax.lax.Precision.HIGHEST
    )
    itself = rows[:, None] == jnp.arange(samples)[None, :]
    return jax.lax.top_k(jnp.where(itself, -jnp.inf, similarity), k)[1]

  if samples <= _BLOCK:
    return nearest(jnp.arange(samples))
  blocks = -(-samples // _BLOCK)
  # The last block repeats the last row, so that all blocks have one shape.
  rows = jnp.minimum(jnp.arange(blocks * _BLOCK), samples - 1)
  indices = jax.lax.map(nearest, rows.reshape(blocks, _BLOCK))
  return indices.reshape(-1, k)[:samples]


def agreement(
  features: Float[Array, 'n d'],
  logits: Float[Array, 'n c'],
  *,
  k: int,
  class_share: float = 1.0,
) -> Agreement:
  """J of one network on unlabelled images.

  Args:
    features: penultimate features; only their direction matters.
    logits: the output of the head on them.
    k: neighbours a sample, see `neighbour_count`.
    class_share: gamma, the share of the classes that must be predicted.

  Returns:
    J and its parts, as in the released code of CUTS (steps: neighbours,
    self-agreement, chance correction, class support, penalties).
  """
  predicted = jnp.argmax(logits, axis=1)
  probability = jnp.mean(jax.nn.softmax(logits, axis=1), axis=0)
  near = predicted[neighbours(features, k)]
  same = jnp.mean((near == predicted[:, None]).astype(features.dtype))
  classes = jnp.arange(logits.shape[1])[None, :]
  counts = jnp.sum(predicted[:, None] == classes, axis=0)
  return combine_agreement(
    same, probability, counts, k=k, class_share=class_share
  )


def combine_agreement(
  self_agreement: Float[Array, '*b'],
  probability: Float[Array, '*b c'],
  counts: Num[Array, '*b c'],
  *,
  k: int,
  class_share: float = 1.0,
) -> Agreement:
  """J from self-agreement, mean class probabilities and class counts.

  Args:
    self_agreement: the share of neighbours with the same prediction.
    probability: class probabilities, mean over samples.
    counts: samples predicted as each class; a bootstrap replicate has weighted
      counts.
    k: neighbours a sample.
    class_share: gamma, the share of the classes that must be predicted.
  """
  required = required_classes(probability.shape[-1], class_share)
  chance = jnp.sum(probability**2, axis=-1)
  adjusted = (self_agreement - chance) / jnp.maximum(_EPSILON, 1 - chance)
  effective = 1 / jnp.maximum(_EPSILON, chance)
  supported = jnp.sum(counts >= least_support(k), axis=-1)
  lacking = jnp.maximum(0, required - supported).astype(self_agreement.dtype)
  penalty_effective = jnp.maximum(0.0, required - effective) / required
  penalty_coverage = lacking / required
  score = adjusted - penalty_effective - penalty_coverage
  # Neighbours in a network with one prediction agree perfectly; J must not
  # reward that.
  collapsed = -1e6 - (2 - supported).astype(self_agreement.dtype)
  return Agreement(
    jnp.where(supported < 2, collapsed, score),
    self_agreement,
    chance,
    adjusted,
    penalty_effective,
    penalty_coverage,
    supported,
  )


def choose_best(
  alphas: np.ndarray, objective: np.ndarray, patience: int | None = None
) -> AlphaChoice:
  """Chooses the first grid point at which J is largest.

  Args:
    alphas: the grid, ascending.
    objective: J at each point; values that are not finite never win.
    patience: the number of consecutive drops after which the search stops, 10
      in the released code (`early_stop_patience`); None searches the whole
      grid.

  Returns:
    The choice; if alpha = 0 wins, the model stays as it is.
  """
  score = np.where(np.isfinite(objective), objective, -np.inf)
  if patience is not None:
    score = score[: _stop_after_drops(score, patience)]
  position = int(np.argmax(score))
  return AlphaChoice(
    float(alphas[position]), position, bool(np.isfinite(score[position]))
  )


def _stop_after_drops(score: np.ndarray, patience: int) -> int:
  """Counts the points up to `patience` drops in a row."""
  drops = 0
  for position in range(1, len(score)):
    drops = drops + 1 if score[position] < score[position - 1] else 0
    if drops >= patience:
      return position + 1
  return len(score)


def choose_smallest_below(
  alphas: np.ndarray, attack_rate: np.ndarray, threshold: float = 0.01
) -> AlphaChoice:
  """Chooses the smallest alpha whose attack success rounds to <= threshold."""
  # Rates are rounded to two decimals first, as published: the default
  # threshold accepts rates below 1.5 %.
  rounded = [round(float(rate), 2) for rate in attack_rate]
  for position, rate in enumerate(rounded):
    if rate <= threshold:
      return AlphaChoice(float(alphas[position]), position, True)
  return ABSTENTION


def attack_rate(
  logits: Float[Array, 'n c'],
  target: int,
  where: Bool[Array, 'n'] | None = None,
) -> Float[Array, '']:
  """The share of (triggered) samples predicted as the target class."""
  hit = jnp.argmax(logits, axis=1) == target
  return jnp.mean(hit.astype(logits.dtype), where=where)
