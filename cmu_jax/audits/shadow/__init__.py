"""Shadow models: K networks, each trained on half of the data.

  inside = shadow.assign_halves(key, 64, n)
  fit = shadow.ShadowTraining(inputs, optimizer, steps=500, batch_size=64)
  shadows = shadow.train(key, model, data, inside, fit)
  score = audits.lira(target, shadows.statistics['logit_confidence'], inside)

RMIA, LiRA and U-LiRA compare a network with them. Each model leaves its signals
at n points, and its weights on request.
"""

from cmu_jax.audits.shadow.groups import ShadowJob
from cmu_jax.audits.shadow.planning import (
  DEFAULT_SIGNALS,
  Plan,
  Shadows,
  ShadowTraining,
  Unlearn,
  assign_halves,
)
from cmu_jax.audits.shadow.training import (
  group_address,
  make_job,
  predict_seconds,
  split_groups,
  train,
  train_job,
  train_or_read_group,
)

__all__ = [
  'DEFAULT_SIGNALS',
  'Plan',
  'ShadowJob',
  'ShadowTraining',
  'Shadows',
  'Unlearn',
  'assign_halves',
  'group_address',
  'make_job',
  'predict_seconds',
  'split_groups',
  'train',
  'train_job',
  'train_or_read_group',
]
