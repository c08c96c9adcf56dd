r"""LiRA: per example, is this more like models with it or without it?

  score(x) = log N(t; mu_in, sigma_in) - log N(t; mu_out, sigma_out)

for the logit-scaled confidence t of the audited network; the Gaussians are of
reference models. Offline, with models without x alone, score(x) is the
probability that N(mu_out, sigma_out) lies below t.

References:
  Membership Inference Attacks From First Principles, arXiv 2112.03570,
  section 5 and, for a variance shared by all points, section 5.3.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import stats

from cmu_jax.core import errors

# What a caller gives, models by points; whether shapes agree is said in words.
ModelsByPoints = Num[np.ndarray, '_ _']
ModelsByPointsMask = Bool[np.ndarray, '_ _']
STD_FLOOR = 1e-3


class Gaussians(NamedTuple):
  """A Gaussian a point; NaN where there are too few models.

  Attributes:
    mean: of the statistic.
    std: of the statistic, at least the floor.
  """

  mean: Float[np.ndarray, '*k n']
  std: Float[np.ndarray, '*k n']


def check_finite(name: str, values: Num[np.ndarray, '...']) -> None:
  """Refuses statistics that no Gaussian fits.

  Raises:
    UserError: some are NaN or infinite.
  """
  bad = ~np.isfinite(values)
  errors.check(
    not bad.any(),
    f'{int(bad.sum())} of {values.size} {name} statistics are not finite; use '
    'the logit-scaled confidence, clipped where a logit is masked',
  )


def standard_deviations(
  variance: Float[np.ndarray, '*k n'], kind: str, floor: float
) -> Float[np.ndarray, '*k n']:
  """Standard deviations of each point, or one for all, at least the floor.

  Args:
    variance: of each point; NaN where it is unknown.
    kind: 'own' or 'pooled', the mean variance over points.
    floor: of the standard deviation.
  """
  if kind not in ('own', 'pooled'):
    raise errors.unknown_name('variance', kind, ('own', 'pooled'))
  known = np.isfinite(variance)
  if kind == 'pooled':
    count = known.sum(axis=-1, keepdims=True)
    total = np.where(known, variance, 0).sum(axis=-1, keepdims=True)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    variance = np.broadcast_to(mean, variance.shape)
  return np.maximum(np.sqrt(np.maximum(variance, 0)), floor)


def fit_gaussians(
  statistic: Num[np.ndarray, 'k n'],
  where: Bool[np.ndarray, 'k n'],
  variance: str = 'own',
  floor: float = STD_FLOOR,
) -> Gaussians:
  """The Gaussian of each point over the marked models.

  Args:
    statistic: of each point under each model.
    where: which of them count.
    variance: 'own' of each point (two models or more), or 'pooled'.
    floor: of the standard deviation.
  """
  count = where.sum(axis=0)
  total = np.where(where, statistic, 0).sum(axis=0)
  mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
  away = np.where(where, statistic - np.nan_to_num(mean)[None, :], 0) ** 2
  own = np.where(count > 1, away.sum(axis=0) / np.maximum(count - 1, 1), np.nan)
  return Gaussians(mean, standard_deviations(own, variance, floor))


def log_likelihood_ratio(
  statistic: Num[np.ndarray, '*k n'], first: Gaussians, second: Gaussians
) -> Float[np.ndarray, '*k n']:
  """log N(t; first) - log N(t; second)."""
  one, two = (
    stats.norm.logpdf(statistic, each.mean, each.std)
    for each in (first, second)
  )
  return one - two


def lira(
  target: Num[np.ndarray, '_'],
  references: ModelsByPoints,
  inside: ModelsByPointsMask,
  *,
  variance: str = 'own',
  floor: float = STD_FLOOR,
  online: bool = True,
) -> Float[np.ndarray, 'n']:
  """Scores every point; higher is more like a member.

  Args:
    target: logit-scaled confidence of each point under the audited network,
      [n].
    references: the same under each reference model, [k, n].
    inside: which reference was trained on which point.
    variance: 'own', or 'pooled' over points, which is better below about 64
      references.
    floor: of standard deviations.
    online: with models that were trained on the point; else without.

  Raises:
    UserError: values that are not finite, or a point with too few models.
  """
  errors.check(
    references.shape == inside.shape == (len(references), target.size),
    f'shapes differ: target {target.shape}, references {references.shape}, '
    f'membership {inside.shape}',
  )
  check_finite('target', target)
  check_finite('reference', references)
  out = fit_gaussians(references, ~inside, variance, floor)
  sides = {'without': out}
  if online:
    sides['with'] = fit_gaussians(references, inside, variance, floor)
  for name, side in sides.items():
    lacking = ~(np.isfinite(side.mean) & np.isfinite(side.std))
    errors.check(
      not lacking.any(),
      f'{int(lacking.sum())} points have too few references {name} them; '
      'train more',
    )
  if not online:
    return stats.norm.cdf(target, out.mean, out.std)
  return log_likelihood_ratio(target, sides['with'], out)
