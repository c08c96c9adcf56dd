r"""U-LiRA: a test that tells forgotten points from points never seen.

For every point x, two kinds of models: U, trained with x and then made to
forget it, and R, never trained on x. With Gaussians of the logit-scaled
confidence of both kinds, a model with statistic t scores

  log N(t; mu_U, sigma_U) - log N(t; mu_R, sigma_R).

Every model is held out in turn from the Gaussians that score it, together with
a model of the other kind. Published code holds out the last model of each kind;
the same trainings give K curves instead of one.

The density of a Gaussian at a new value is lower on average if fewer models
determine it. Points that more models forgot have higher ratios, and more of the
ratios among the forgotten ones: pooled directly, identical models would be told
apart. A ratio therefore counts by its rank among unseen points with the same
number of models of each kind.

References:
  Inexact Unlearning Needs More Careful Evaluations, arXiv 2403.01218.
  Deep Unlearning: Fast and Efficient Gradient-free Class Forgetting,
  arXiv 2312.00761: all points of one class, K = 8.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from cmu_jax.audits import lira_scores, roc_curves
from cmu_jax.core import errors

# One model is held out, and a variance needs two more.
MIN_MODELS = 3
# Larger confidences carry no more evidence, but dominate a Gaussian.
CONFIDENCE_CLIP = 60.0


class Ulira(NamedTuple):
  """Scores of held-out models.

  Attributes:
    forgotten: scores of points under models that forgot them: the share of
      lower `unseen` ratios, among points with as many models of each kind;
      ties count half.
    unseen: the same of points under models that never saw them.
    by_model: AUC of each model that has points of both kinds, else of each
      pair of models of different kinds. All share the same points: their
      spread is over trainings only.
    models: number of models.
    members: marks the entries of `forgotten`, models by points, row by row.
    others: marks the entries of `unseen`, likewise.
  """

  forgotten: Float[np.ndarray, 'p']
  unseen: Float[np.ndarray, 'q']
  by_model: Float[np.ndarray, 'k']
  models: int
  members: Bool[np.ndarray, '_ _']
  others: Bool[np.ndarray, '_ _']


def held_out_model(mask: Bool[np.ndarray, 'k n']) -> Int[np.ndarray, 'k n']:
  """The marked model that is left out for each row: itself, or a partner.

  An unmarked row gets the marked model of the same rank, cyclically.
  """
  # With the partner left in, the other kind would have a model more than the
  # row's own kind, and identical models would score below chance.
  count = np.maximum(mask.sum(axis=0), 1)[None, :]
  order = np.argsort(~mask, axis=0, kind='stable')
  rank = np.where(mask, mask.cumsum(axis=0), (~mask).cumsum(axis=0)) - 1
  return np.take_along_axis(order, rank % count, axis=0)


def leave_one_out_gaussians(
  statistic: Num[np.ndarray, 'k n'],
  mask: Bool[np.ndarray, 'k n'],
  variance: str = 'pooled',
  floor: float = lira_scores.STD_FLOOR,
) -> lira_scores.Gaussians:
  """Gaussians of the marked models without the held-out model, [k, n].

  Args:
    statistic: of each point under each model.
    mask: marks the models of each point.
    variance: 'own', or 'pooled' over points.
    floor: of standard deviations.
  """
  count = np.broadcast_to(mask.sum(axis=0)[None, :] - 1, mask.shape)
  total = np.where(mask, statistic, 0).sum(axis=0)[None, :]
  # Deviations from a centre: raw sums of squares would cancel.
  centre = total / np.maximum(count + 1, 1)
  deviation = np.where(mask, statistic - centre, 0)
  held_out = np.take_along_axis(deviation, held_out_model(mask), axis=0)
  shift = (deviation.sum(axis=0)[None, :] - held_out) / np.maximum(count, 1)
  squares = (deviation**2).sum(axis=0)[None, :] - held_out**2
  variances = (squares - count * shift**2) / np.maximum(count - 1, 1)
  variances = np.where(count > 1, variances, np.nan)
  mean = np.where(count > 0, centre + shift, np.nan)
  return lira_scores.Gaussians(
    mean, lira_scores.standard_deviations(variances, variance, floor)
  )


def ulira(
  statistic: lira_scores.ModelsByPoints,
  forgotten: lira_scores.ModelsByPointsMask,
  unseen: lira_scores.ModelsByPointsMask,
  *,
  variance: str = 'pooled',
  floor: float = lira_scores.STD_FLOOR,
) -> Ulira:
  """Per-example U-LiRA over models that forgot different points.

  Args:
    statistic: logit-scaled confidence of each point under each model, [k, n];
      clipped to +-60 here.
    forgotten: marks points that the model was trained on and then forgot.
    unseen: marks points that the model was never trained on.
    variance: 'pooled' over points, or 'own' of each.
    floor: of standard deviations.

  Raises:
    UserError: a value is not a number, or no point has three models of each
      kind.
  """
  errors.check(
    statistic.shape == forgotten.shape == unseen.shape,
    f'shapes differ: statistics {statistic.shape}, forgotten '
    f'{forgotten.shape}, unseen {unseen.shape}',
  )
  errors.check(
    not (forgotten & unseen).any(),
    'some points are marked as forgotten and as unseen by the same model',
  )
  # A masked logit gives an infinite confidence.
  clipped = np.clip(
    np.asarray(statistic, np.float64), -CONFIDENCE_CLIP, CONFIDENCE_CLIP
  )
  lira_scores.check_finite('model', clipped)
  sides = [
    leave_one_out_gaussians(clipped, mask, variance, floor)
    for mask in (forgotten, unseen)
  ]
  enough = (forgotten.sum(axis=0) >= MIN_MODELS) & (
    unseen.sum(axis=0) >= MIN_MODELS
  )
  errors.check(
    enough.any(),
    f'no point has {MIN_MODELS} models that forgot it and {MIN_MODELS} that '
    'never saw it: cannot conclude; train more models',
  )
  members, others = forgotten & enough[None, :], unseen & enough[None, :]
  score = _lower_shares(
    lira_scores.log_likelihood_ratio(clipped, *sides), members, others
  )
  by_model = _auc_by_model(score, members, others)
  return Ulira(
    score[members], score[others], by_model, len(score), members, others
  )


def _lower_shares(
  ratio: Float[np.ndarray, 'k n'],
  members: Bool[np.ndarray, 'k n'],
  others: Bool[np.ndarray, 'k n'],
) -> Float[np.ndarray, 'k n']:
  """Shares of lower ratios among unseen points with as many models."""
  # Points with equal numbers of models have comparable densities.
  sizes = np.stack([members.sum(axis=0), others.sum(axis=0)])
  kinds, kind = np.unique(sizes, axis=1, return_inverse=True)
  shares = np.full(ratio.shape, np.nan)
  for i in np.flatnonzero(kinds.all(axis=0)):
    points = kind.ravel() == i
    unseen = np.sort(ratio[:, points][others[:, points]])
    below = np.searchsorted(unseen, ratio[:, points], 'left')
    at_most = np.searchsorted(unseen, ratio[:, points], 'right')
    shares[:, points] = (below + at_most) / (2 * unseen.size)
  return shares


def _auc_by_model(
  score: Float[np.ndarray, 'k n'],
  members: Bool[np.ndarray, 'k n'],
  others: Bool[np.ndarray, 'k n'],
) -> Float[np.ndarray, '_']:
  """AUC of each model with points of both kinds, else of pairs of models."""
  forgetting = np.flatnonzero(members.any(axis=1))
  unaware = np.flatnonzero(others.any(axis=1))
  mixed = np.intersect1d(forgetting, unaware)
  # Class forgetting has models of either kind, but none with both.
  pairs = [(model, model) for model in mixed] or list(
    zip(forgetting, unaware, strict=False)
  )
  return np.array(
    [
      roc_curves.auc(score[i][members[i]], score[j][others[j]])
      for i, j in pairs
    ]
  )


def ulira_of_class(
  unlearned: Num[np.ndarray, 'k n'],
  retrained: Num[np.ndarray, 'r n'],
  *,
  variance: str = 'pooled',
  floor: float = lira_scores.STD_FLOOR,
) -> Ulira:
  """U-LiRA of one forgotten class.

  Args:
    unlearned: logit-scaled confidence of the points of the class under models
      that were trained with the class and then forgot it.
    retrained: the same under models trained without the class.
    variance: as for `ulira`.
    floor: as for `ulira`.

  Raises:
    UserError: fewer than three models of a kind.
  """
  models = np.concatenate([unlearned, retrained])
  is_unlearned = np.arange(len(models)) < len(unlearned)
  mask = np.broadcast_to(is_unlearned[:, None], models.shape)
  return ulira(models, mask, ~mask, variance=variance, floor=floor)
