r"""LiRA: a likelihood ratio of models with and without a point.

  score(x) = log N(t; mu_in, sigma_in) - log N(t; mu_out, sigma_out)

for the logit-scaled confidence t of the audited network. The Gaussians describe
reference models with and without x. The offline attack uses models without x
alone: score(x) is the probability that N(mu_out, sigma_out) lies below t.

References:
  Membership Inference Attacks From First Principles, arXiv 2112.03570,
  section 5 and, for a variance shared by all points, section 5.3.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import stats

from cmu_jax.core import array_checks, errors

# A caller's arrays, models by points: shapes that disagree get an error text.
ModelsByPoints = Num[np.ndarray, '_ _']
ModelsByPointsMask = Bool[np.ndarray, '_ _']
# A smaller standard deviation comes from saturated logits, not from certainty.
STD_FLOOR = 1e-3


class Gaussians(NamedTuple):
  """A Gaussian for each point; NaN for a point with too few models.

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
  """Standard deviations of each point, or of all points together.

  Args:
    variance: of each point; NaN if unknown.
    kind: 'own' or 'pooled', the mean variance over points.
    floor: smallest standard deviation.
  """
  if kind not in ('own', 'pooled'):
    raise errors.unknown_name('variance', kind, ('own', 'pooled'))
  if kind == 'pooled':
    finite = np.isfinite(variance)
    mean = masked_mean(variance, finite, axis=-1)
    # Points without a variance of their own get the shared one.
    variance = np.broadcast_to(mean, variance.shape)
  return np.maximum(np.sqrt(np.maximum(variance, 0)), floor)


def masked_mean(
  values: Num[np.ndarray, '*k n'], mask: Bool[np.ndarray, '*k n'], axis: int
) -> Float[np.ndarray, '...']:
  """The mean over marked entries along an axis of size 1; NaN without any."""
  count = mask.sum(axis=axis, keepdims=True)
  total = np.where(mask, values, 0).sum(axis=axis, keepdims=True)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def fit_gaussians(
  statistic: Num[np.ndarray, 'k n'],
  mask: Bool[np.ndarray, 'k n'],
  variance: str = 'own',
  floor: float = STD_FLOOR,
) -> Gaussians:
  """Fits the Gaussian of each point over the marked models.

  Args:
    statistic: of each point under each model.
    mask: marks the models of each point.
    variance: 'own' of each point (two models or more), or 'pooled'.
    floor: of the standard deviation.
  """
  count = mask.sum(axis=0)
  mean = masked_mean(statistic, mask, axis=0)
  # Two passes: sums of squares would cancel for large confidences.
  deviation = np.where(mask, statistic - np.nan_to_num(mean), 0) ** 2
  variances = np.where(
    count > 1, deviation.sum(axis=0) / np.maximum(count - 1, 1), np.nan
  )
  return Gaussians(mean[0], standard_deviations(variances, variance, floor))


def log_likelihood_ratio(
  statistic: Num[np.ndarray, '*k n'],
  numerator: Gaussians,
  denominator: Gaussians,
) -> Float[np.ndarray, '*k n']:
  """log N(t; numerator) - log N(t; denominator)."""
  return stats.norm.logpdf(
    statistic, numerator.mean, numerator.std
  ) - stats.norm.logpdf(statistic, denominator.mean, denominator.std)


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
    inside: marks the training points of each reference.
    variance: 'own', or 'pooled' over points, which is better below about 64
      references.
    floor: of standard deviations.
    online: uses models that were trained on the point; else models without it.

  Raises:
    UserError: values that are not finite, or a point with too few models.
  """
  for name, values in (
    ('target', target),
    ('references', references),
    ('membership', inside),
  ):
    array_checks.check_array(name, values)
  errors.check(
    references.shape == inside.shape == (len(references), target.size),
    f'shapes differ: target {target.shape}, references {references.shape}, '
    f'membership {inside.shape}',
  )
  check_finite('target', target)
  check_finite('reference', references)
  without = fit_gaussians(references, ~inside, variance, floor)
  sides = {'without': without}
  if online:
    sides['with'] = fit_gaussians(references, inside, variance, floor)
  # A NaN would pass through silently: it compares false with everything.
  for name, side in sides.items():
    lacking = ~(np.isfinite(side.mean) & np.isfinite(side.std))
    errors.check(
      not lacking.any(),
      f'{int(lacking.sum())} points have too few references {name} them; '
      'train more',
    )
  # Without models of the point, only its tail can be judged.
  if not online:
    return stats.norm.cdf(target, without.mean, without.std)
  return log_likelihood_ratio(target, sides['with'], without)
