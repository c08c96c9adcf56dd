r"""U-LiRA: can a forgotten point be told from one that was never seen?

For every point x two kinds of models: U, trained with x and then made to
forget it, and R, never trained on x. With Gaussians of the logit-scaled
confidence of both kinds, a model's own statistic t scores

  log N(t; mu_U, sigma_U) - log N(t; mu_R, sigma_R).

Every model is held out in turn from the Gaussians that score it, together with
one of the other kind, where published code holds out the last one of each: K
curves instead of one for the same trainings.

The fewer models a Gaussian is of, the lower it is on average where a new value
lies. Points that more models forgot have the higher ratios, and have more
ratios among the forgotten ones: pooled as they are, models that are all alike
part from themselves. So a ratio counts by its place among those of unseen
points that as many models forgot, and as many never saw.

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
# Beyond it a logit-scaled confidence says nothing more.
CONFIDENCE_CLIP = 60.0


class Ulira(NamedTuple):
  """Scores of held-out models.

  Attributes:
    forgotten: of points under models that were made to forget them: the share
      of `unseen` ratios, of points with as many models of each kind, that are
      lower; ties count half.
    unseen: the same of points under models that never saw them.
    by_model: AUC of each model that has points of both kinds, else of each
      pair of models, one of a kind. All are of the same points: their spread
      is over trainings only.
    models: how many models took part.
    members: where `forgotten` are, models by points, in the order of rows.
    others: where `unseen` are, likewise.
  """

  forgotten: Float[np.ndarray, 'p']
  unseen: Float[np.ndarray, 'q']
  by_model: Float[np.ndarray, 'k']
  models: int
  members: Bool[np.ndarray, '_ _']
  others: Bool[np.ndarray, '_ _']


def held_out_model(where: Bool[np.ndarray, 'k n']) -> Int[np.ndarray, 'k n']:
  """The marked model that is left out for each row: itself, or a partner.

  The partner of a row that is not marked itself is the marked one of the same
  rank, round and round. Left in, the other kind would have a model more than
  the row's own, and identical models would score below chance.
  """
  count = np.maximum(where.sum(axis=0), 1)[None, :]
  order = np.argsort(~where, axis=0, kind='stable')
  rank = np.where(where, where.cumsum(axis=0), (~where).cumsum(axis=0)) - 1
  return np.take_along_axis(order, rank % count, axis=0)


def leave_one_out_gaussians(
  statistic: Num[np.ndarray, 'k n'],
  where: Bool[np.ndarray, 'k n'],
  variance: str = 'pooled',
  floor: float = lira_scores.STD_FLOOR,
) -> lira_scores.Gaussians:
  """Gaussians of the marked models without the one `held` for the row, [k, n].

  Args:
    statistic: of each point under each model.
    where: which of them count.
    variance: 'own', or 'pooled' over points.
    floor: of standard deviations.
  """
  # Around a centre the squares do not cancel.
  rest = np.broadcast_to(where.sum(axis=0)[None, :] - 1, where.shape)
  total = np.where(where, statistic, 0).sum(axis=0)[None, :]
  centre = total / np.maximum(rest + 1, 1)
  away = np.where(where, statistic - centre, 0)
  gone = np.take_along_axis(away, held_out_model(where), axis=0)
  first = (away.sum(axis=0)[None, :] - gone) / np.maximum(rest, 1)
  squares = (away**2).sum(axis=0)[None, :] - gone**2
  own = (squares - rest * first**2) / np.maximum(rest - 1, 1)
  own = np.where(rest > 1, own, np.nan)
  mean = np.where(rest > 0, centre + first, np.nan)
  return lira_scores.Gaussians(
    mean, lira_scores.standard_deviations(own, variance, floor)
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
    forgotten: where the model was trained with the point and then forgot it.
    unseen: where the model was never trained on the point.
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
  clipped = np.clip(
    np.asarray(statistic, np.float64), -CONFIDENCE_CLIP, CONFIDENCE_CLIP
  )
  lira_scores.check_finite('model', clipped)
  sides = [
    leave_one_out_gaussians(clipped, w, variance, floor)
    for w in (forgotten, unseen)
  ]
  enough = (forgotten.sum(axis=0) >= MIN_MODELS) & (
    unseen.sum(axis=0) >= MIN_MODELS
  )
  errors.check(
    enough.any(),
    f'no point has {MIN_MODELS} models that forgot it and {MIN_MODELS} that '
    f'never saw '
    'it: cannot conclude; train more models',
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
  """Places among the others of points with as many models of each kind."""
  sizes = np.stack([members.sum(axis=0), others.sum(axis=0)])
  kinds, which = np.unique(sizes, axis=1, return_inverse=True)
  found = np.full(ratio.shape, np.nan)
  for i in np.flatnonzero(kinds.all(axis=0)):
    here = which.ravel() == i
    unseen = np.sort(ratio[:, here][others[:, here]])
    below = np.searchsorted(unseen, ratio[:, here], 'left')
    upto = np.searchsorted(unseen, ratio[:, here], 'right')
    found[:, here] = (below + upto) / (2 * unseen.size)
  return found


def _auc_by_model(
  score: Float[np.ndarray, 'k n'],
  members: Bool[np.ndarray, 'k n'],
  others: Bool[np.ndarray, 'k n'],
) -> Float[np.ndarray, '_']:
  rows = np.arange(len(score))
  own = (members.any(axis=1) & others.any(axis=1)).any()
  first = rows[members.any(axis=1)]
  second = rows[others.any(axis=1)]
  pairs = [(r, r) for r in np.intersect1d(first, second)] if own else []
  pairs = pairs or list(zip(first, second, strict=False))
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
  both = np.concatenate([unlearned, retrained])
  first = np.arange(len(both)) < len(unlearned)
  marks = np.broadcast_to(first[:, None], both.shape)
  return ulira(both, marks, ~marks, variance=variance, floor=floor)
