r"""RMIA: compares the rise of a point's probability with that of other points.

  ratio(x) = p(x | theta) / p(x)
  score(x) = share of population points z with ratio(x) / ratio(z) >= gamma

where p(x) averages reference models. The score is a non-decreasing function of
the ratio (the empirical distribution of ratio(z) at ratio(x) / gamma), so its
AUC is that of the ratio for every gamma, except through ties. If ratios vary by
less than gamma, nearly all scores are equal and the AUC is 1/2 despite a leak:
check `tied` and the AUC of `ratio` before claiming privacy.

References:
  Low-Cost High-Power Membership Inference Attacks, arXiv 2312.03262.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from cmu_jax.audits import roc_curves
from cmu_jax.audits.lira_scores import (
  ModelsByPoints,
  ModelsByPointsMask,
  masked_mean,
)
from cmu_jax.core import array_checks, errors

_MIN_PROBABILITY = 1e-30


class Rmia(NamedTuple):
  """The scores of every point.

  Attributes:
    score: share of the population that the point dominates.
    ratio: p(x | theta) / p(x), which needs no gamma.
    tied: the share of points that have the most common score.
  """

  score: Float[np.ndarray, 'n']
  ratio: Float[np.ndarray, 'n']
  tied: float


def _check_references(
  references: ModelsByPoints, inside: ModelsByPointsMask
) -> Float[np.ndarray, 'k n']:
  array_checks.check_array('references', references)
  array_checks.check_array('their membership', inside)
  errors.check(
    references.shape == inside.shape and references.size,
    f'references have shape {references.shape}, their membership '
    f'{inside.shape}: both are models by points, with at least one model',
  )
  errors.check(
    np.isfinite(references).all(),
    'the references have values that are not finite; correct their source',
  )
  # In float32, ratios of probabilities near 1 would be tied.
  return np.asarray(references, np.float64)


def _outside_mask(
  inside: ModelsByPointsMask, outside: ModelsByPointsMask | None
) -> Bool[np.ndarray, 'k n']:
  # Without a third kind of model, every other model is outside.
  if outside is None:
    return ~inside
  errors.check(
    outside.shape == inside.shape and not (inside & outside).any(),
    f'models with a point are marked in shape {inside.shape}, models without '
    f'it in {outside.shape}: mark no model as both',
  )
  return outside


def online_probability(
  references: ModelsByPoints,
  inside: ModelsByPointsMask,
  outside: ModelsByPointsMask | None = None,
) -> Float[np.ndarray, 'n']:
  """p(x) = (mean over models with x + mean over models without x) / 2.

  A point with a single kind of model gets its plain mean.

  Args:
    references: probability of each point's label under each reference model,
      [k, n].
    inside: marks the training points of each model.
    outside: marks the points that a model was not trained on; None for all
      others. A model that is neither is ignored for the point.

  Raises:
    UserError: a point without any model.
  """
  values = _check_references(references, inside)
  outer = _outside_mask(inside, outside)
  within = masked_mean(values, inside, axis=0)[0]
  without = masked_mean(values, outer, axis=0)[0]
  lacking = np.isnan(within) & np.isnan(without)
  errors.check(
    not lacking.any(),
    f'{int(lacking.sum())} points, the first {int(lacking.argmax())}, have no '
    'reference at all; train more',
  )
  # Without prior knowledge, members and non-members are equally likely.
  mean = (within + without) / 2
  return np.where(np.isnan(mean), np.fmax(within, without), mean)


def offline_probability(
  references: ModelsByPoints,
  inside: ModelsByPointsMask,
  a: float = 0.3,
  outside: ModelsByPointsMask | None = None,
) -> Float[np.ndarray, 'n']:
  """p(x) = ((1 + a) p_out + 1 - a) / 2, of models without x alone.

  It is the mean of p_out and the approximation a p_out + 1 - a of p_in; a = 1
  is p_out itself.

  Args:
    references: as for `online_probability`.
    inside: likewise; models with the point are ignored.
    a: 0 to 1; .3 is published for CIFAR-10.
    outside: as for `online_probability`.

  Raises:
    UserError: a point is in every reference's training set.
  """
  errors.check(0 <= a <= 1, f'a is {a}; it must lie from 0 to 1')
  values = _check_references(references, inside)
  without = masked_mean(values, _outside_mask(inside, outside), axis=0)[0]
  lacking = np.isnan(without)
  errors.check(
    not lacking.any(),
    f'{int(lacking.sum())} points, the first {int(lacking.argmax())}, are in '
    'the training set of every reference; offline scores need a model without '
    'the point',
  )
  return ((1 + a) * without + 1 - a) / 2


def dominated_share(
  ratio: Num[np.ndarray, 'n'],
  population: Num[np.ndarray, 'm'],
  gamma: float = 2.0,
  in_population: Bool[np.ndarray, 'n'] | None = None,
) -> Float[np.ndarray, 'n']:
  """The share of the population that each point dominates by gamma.

  Args:
    ratio: of the points.
    population: ratios of the population.
    gamma: 1 or more.
    in_population: marks points that belong to the population; they are not
      compared with themselves. None for no such points.

  Raises:
    UserError: gamma below 1, or a population without other points.
  """
  errors.check(gamma >= 1, f'gamma is {gamma}; it must be at least 1')
  is_self = (
    np.zeros(ratio.shape, bool) if in_population is None else in_population
  )
  others = population.size - is_self.astype(int)
  errors.check(
    (others > 0).all(), 'the population has no other point to compare with'
  )
  # Sorted, a point needs a look-up instead of m comparisons.
  below = np.searchsorted(np.sort(population), ratio / gamma, side='right')
  # A point dominates itself at gamma = 1 only.
  return (below - (is_self & (gamma == 1))) / others


def rmia(
  target: Num[np.ndarray, '_'],
  references: ModelsByPoints,
  inside: ModelsByPointsMask,
  population: Bool[np.ndarray, '_'],
  *,
  gamma: float = 2.0,
  a: float | None = None,
  outside: ModelsByPointsMask | None = None,
) -> Rmia:
  """Scores every point of a pool.

  Args:
    target: probability of each point's label under the audited network, by
      the same signal as for the references.
    references: the same under each reference model.
    inside: marks the training points of each reference.
    population: marks the points z; in the literature, non-members of the
      target.
    gamma: factor by which a point must exceed another point.
    a: of the offline attack; None for the online attack.
    outside: as for `online_probability`.
  """
  for name, values in (
    ('target', target),
    ('references', references),
    ('population', population),
  ):
    array_checks.check_array(name, values)
  errors.check(
    np.isfinite(target).all() and target.shape == references.shape[1:],
    f'the target has {target.size} values for {references.shape[-1]} points, '
    'or values that are not finite',
  )
  errors.check(
    population.shape == target.shape and population.any(),
    f'the population marks {int(population.sum())} of {population.size} '
    f'points, of {target.size}; mark at least one point',
  )
  mean = (
    online_probability(references, inside, outside)
    if a is None
    else offline_probability(references, inside, a, outside)
  )
  # An underflown probability must not divide by zero.
  ratio = np.maximum(target, _MIN_PROBABILITY) / np.maximum(
    mean, _MIN_PROBABILITY
  )
  # Points are not compared with themselves only if all are in the population.
  # Otherwise a comparison less would lift the scores of those points above
  # equal ones, and if the attack saturates, such ties decide the AUC.
  in_population = population if population.all() else None
  score = dominated_share(ratio, ratio[population], gamma, in_population)
  return Rmia(score, ratio, roc_curves.tied_share(score))
