r"""RMIA: is a point's probability raised more than that of other points?

  ratio(x) = p(x | theta) / p(x)
  score(x) = share of population points z with ratio(x) / ratio(z) >= gamma

where p(x) averages reference models. Score is a non-decreasing function of
ratio, the empirical distribution of ratio(z) at ratio(x) / gamma: its AUC is
that of the ratio for every gamma, except through ties. Where ratios spread by
less than gamma nearly all scores are equal and the AUC is 1/2 whatever leaks:
look at `tied` and at the AUC of `ratio` before calling that privacy.

References:
  Low-Cost High-Power Membership Inference Attacks, arXiv 2312.03262.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from cmu_jax.audits import lira_scores, roc_curves
from cmu_jax.core import errors

_MIN_PROBABILITY = 1e-30


class Rmia(NamedTuple):
  """What the attack makes of each point.

  Attributes:
    score: share of the population that the point dominates.
    ratio: p(x | theta) / p(x), which needs no gamma.
    tied: the share of points that have the most common score.
  """

  score: Float[np.ndarray, 'n']
  ratio: Float[np.ndarray, 'n']
  tied: float


def _masked_mean(
  values: Float[np.ndarray, 'k n'], where: Bool[np.ndarray, 'k n']
) -> Float[np.ndarray, 'n']:
  """Mean over marked models; NaN without any."""
  count = where.sum(axis=0)
  total = np.where(where, values, 0).sum(axis=0)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _check_references(
  references: lira_scores.ModelsByPoints, inside: lira_scores.ModelsByPointsMask
) -> Float[np.ndarray, 'k n']:
  errors.check(
    references.shape == inside.shape and references.size,
    f'references have shape {references.shape}, their membership '
    f'{inside.shape}: both are models by points, one model or more',
  )
  errors.check(
    np.isfinite(references).all(),
    'the references have values that are not finite; mend what made them',
  )
  return np.asarray(references, np.float64)


def _outside_mask(
  inside: lira_scores.ModelsByPointsMask,
  outside: lira_scores.ModelsByPointsMask | None,
) -> Bool[np.ndarray, 'k n']:
  if outside is None:
    return ~inside
  errors.check(
    outside.shape == inside.shape and not (inside & outside).any(),
    f'models with a point are marked in shape {inside.shape}, those without in '
    f'{outside.shape}: mark no model as both',
  )
  return outside


def online_probability(
  references: lira_scores.ModelsByPoints,
  inside: lira_scores.ModelsByPointsMask,
  outside: lira_scores.ModelsByPointsMask | None = None,
) -> Float[np.ndarray, 'n']:
  """p(x) = (mean over models with x + mean over models without) / 2.

  Where there is only one kind of model, its plain mean.

  Args:
    references: probability of each point's label under each reference model,
      [k, n].
    inside: which model was trained on which point.
    outside: which was not; None for all others. What is neither plays no part
      for the point.

  Raises:
    UserError: a point without any model.
  """
  values = _check_references(references, inside)
  outer = _outside_mask(inside, outside)
  within, without = _masked_mean(values, inside), _masked_mean(values, outer)
  alone = np.isnan(within) & np.isnan(without)
  errors.check(
    not alone.any(),
    f'{int(alone.sum())} points, the first {int(alone.argmax())}, have no '
    'reference at all; train more',
  )
  both = (within + without) / 2
  return np.where(np.isnan(both), np.fmax(within, without), both)


def offline_probability(
  references: lira_scores.ModelsByPoints,
  inside: lira_scores.ModelsByPointsMask,
  a: float = 0.3,
  outside: lira_scores.ModelsByPointsMask | None = None,
) -> Float[np.ndarray, 'n']:
  """p(x) = ((1 + a) p_out + 1 - a) / 2, of models without x alone.

  The mean of p_out and of what p_in is held to be, a p_out + 1 - a; a = 1 is
  p_out itself.

  Args:
    references: as for `online`.
    inside: likewise; such models are left out.
    a: 0 to 1; .3 is published for CIFAR-10.
    outside: as for `online`.

  Raises:
    UserError: a point is in every reference's training set.
  """
  errors.check(0 <= a <= 1, f'a is {a}; it must lie from 0 to 1')
  without = _masked_mean(
    _check_references(references, inside), _outside_mask(inside, outside)
  )
  alone = np.isnan(without)
  errors.check(
    not alone.any(),
    f'{int(alone.sum())} points, the first {int(alone.argmax())}, are in the '
    'training set of every reference; offline scores need one without',
  )
  return ((1 + a) * without + 1 - a) / 2


def dominated_share(
  ratio: Num[np.ndarray, 'n'],
  population: Num[np.ndarray, 'm'],
  gamma: float = 2.0,
  in_population: Bool[np.ndarray, 'n'] | None = None,
) -> Float[np.ndarray, 'n']:
  """The share of the population that each point dominates by gamma.

  Sorted once and looked up: O((n + m) log m).

  Args:
    ratio: of the points.
    population: ratios of the population.
    gamma: 1 or more.
    in_population: which points are in the population themselves; they are not
      compared with themselves. None for none.

  Raises:
    UserError: gamma below 1, or nothing to compare with.
  """
  errors.check(gamma >= 1, f'gamma is {gamma}; it must be at least 1')
  self = np.zeros(ratio.shape, bool) if in_population is None else in_population
  rest = population.size - self.astype(int)
  errors.check(
    (rest > 0).all(), 'the population has no other point to compare with'
  )
  below = np.searchsorted(np.sort(population), ratio / gamma, side='right')
  # A point reaches itself at gamma = 1 only.
  return (below - (self & (gamma == 1))) / rest


def rmia(
  target: Num[np.ndarray, '_'],
  references: lira_scores.ModelsByPoints,
  inside: lira_scores.ModelsByPointsMask,
  population: Bool[np.ndarray, '_'],
  *,
  gamma: float = 2.0,
  a: float | None = None,
  outside: lira_scores.ModelsByPointsMask | None = None,
) -> Rmia:
  """Scores every point of a pool.

  Points are not compared with themselves where all are in the population. Where
  only some are, they stay in: one comparison less would lift the scores of
  those alone above equal ones, and where most scores tie, as they do once the
  attack saturates, that alone decides the AUC.

  Args:
    target: probability of each point's label under the audited network, by
      the same signal as for the references.
    references: the same under each reference model.
    inside: which reference was trained on which point.
    population: which points are z; by default of the literature non-members of
      the target.
    gamma: by which a point must exceed another one.
    a: of the offline attack; None for the online one.
    outside: which reference was not trained on which point, as for `online`.
  """
  errors.check(
    np.isfinite(target).all() and target.shape == references.shape[1:],
    f'the target has {target.size} values for {references.shape[-1]} points, '
    'or some that are not finite',
  )
  errors.check(
    population.shape == target.shape and population.any(),
    f'the population marks {int(population.sum())} of {population.size} '
    f'points, of {target.size}; mark some of them',
  )
  mean = (
    online_probability(references, inside, outside)
    if a is None
    else offline_probability(references, inside, a, outside)
  )
  ratio = np.maximum(target, _MIN_PROBABILITY) / np.maximum(
    mean, _MIN_PROBABILITY
  )
  own = population if population.all() else None
  found = dominated_share(ratio, ratio[population], gamma, own)
  return Rmia(found, ratio, roc_curves.tied_share(found))
