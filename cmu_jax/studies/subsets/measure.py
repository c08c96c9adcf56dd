"""The numbers of a network after forgetting, from its logits on D and D_T.

Images are not augmented. UA is the accuracy on D_F itself, as in AMUN. Other
papers call its complement UA.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cmu_jax import audits
from cmu_jax.core import rng
from cmu_jax.core.types import Info
from cmu_jax.studies.engine import pool
from cmu_jax.studies.engine.pool import Groups, World
from cmu_jax.studies.engine.study import Context

_AREAS = ('ft_auc', 'fr_auc', 'rt_auc')
_RMIA = (
  *(f'{name}_rmia' for name in _AREAS),
  'ft_auc_rmia_ratio',
  'ft_tpr_1_percent_rmia',
  'rmia_tied',
)


class References(NamedTuple):
  """The reference networks of RMIA."""

  # Of the label of each point of the pool under each network.
  probability: Float[np.ndarray, 'k n']
  inside: Bool[np.ndarray, 'k n']  # which network was trained on which point


def split_pool(
  world: World,
  forget: Int[np.ndarray, 'm'],
  earlier: Int[np.ndarray, '_'] | None = None,
) -> Groups:
  """Splits the pool into D_F, D_R and D_T.

  Images of earlier requests are in no group.
  """
  # The pool has D first, see `pool.World`.
  positions = np.arange(world.pool.label.shape[0])
  test = positions >= world.dataset.train.label.shape[0]
  forgotten = np.isin(positions, forget)
  retain = ~forgotten & ~test
  if earlier is not None:
    retain[earlier] = False
  return Groups(forgotten, retain, test)


def _areas(score: Float[np.ndarray, 'n'], groups: Groups) -> list[float]:
  """Computes the FT, FR and RT AUC: each of two groups."""
  forget, retain, test = (score[group] for group in groups)
  pairs = (forget, test), (retain, forget), (retain, test)
  return [audits.auc(*pair) for pair in pairs]


def _rmia(
  context: Context[World],
  logits: Float[np.ndarray, 'n k'],
  groups: Groups,
  references: References | None,
) -> Info:
  """Attacks with RMIA, whose population is D_T; None without references."""
  # The columns stay, so that tables of all runs have the same ones.
  if references is None:
    return dict.fromkeys(_RMIA)
  options: Any = context.config.rmia
  result = audits.rmia(
    pool.compute_signal(context.world, options.signal, logits),
    references.probability,
    references.inside,
    groups.unseen,
    gamma=options.gamma,
  )
  # The ratio has no ties: its AUC tells where that of the score cannot.
  sides = result.ratio[groups.forget], result.ratio[groups.unseen]
  values = (
    *_areas(result.score, groups),
    audits.auc(*sides),
    audits.tpr_at(*sides, 0.01),
    result.tied,
  )
  return dict(zip(_RMIA, values, strict=True))


def measure(
  context: Context[World],
  logits: Float[np.ndarray, 'n k'],
  forget: Int[np.ndarray, 'm'],
  references: References | None,
  earlier: Int[np.ndarray, '_'] | None = None,
) -> Info:
  """Computes the numbers of a row.

  Images of earlier requests are not retained.

  Returns:
    forget_accuracy (UA), retain_accuracy (RA), test_accuracy (TA); ft_auc,
    fr_auc, rt_auc of the logit-scaled confidence, ft_auc_low and _high (95 %
    of the bootstrap), ft_tpr_1_percent; mis; and the same areas of RMIA.

  References:
    AMUN, arXiv 2503.00917, section 5.
  """
  world = context.world
  groups = split_pool(world, forget, earlier)
  hit = logits.argmax(axis=1) == np.asarray(world.pool.label)
  confidence = pool.compute_signal(world, 'logit_confidence', logits)
  # One key for all rows: their intervals share the resampled images.
  evaluation = audits.evaluate(
    rng.fold_in(0, 'bootstrap'),
    confidence[groups.forget],
    confidence[groups.unseen],
    replicates=context.config.evaluate.replicates,
  )
  # None if there are too few unseen images for such a low rate.
  low = evaluation.tpr_1_percent
  probability = pool.compute_signal(world, 'softmax', logits)
  return {
    'forget_accuracy': float(hit[groups.forget].mean()),
    'retain_accuracy': float(hit[groups.retain].mean()),
    'test_accuracy': float(hit[groups.unseen].mean()),
    **dict(zip(_AREAS, _areas(confidence, groups), strict=True)),
    'ft_auc_low': evaluation.auroc.low,
    'ft_auc_high': evaluation.auroc.high,
    'ft_tpr_1_percent': None if low is None else low.value,
    'mis': pool.attack_confidence(context, probability, groups),
    **_rmia(context, logits, groups, references),
  }
