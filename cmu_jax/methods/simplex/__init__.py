"""Means over a simplex of networks whose vertices are task vectors.

found = simplex.TaskSimplex(base, taus, scale=0.5)
chances = simplex.simplex_ensemble(fn, found, image, space='probabilities')
"""

from cmu_jax.methods.simplex.cubature import simplex_weights
from cmu_jax.methods.simplex.ensemble import (
  METHODS,
  Ensemble,
  SimplexWarning,
  simplex_ensemble,
)
from cmu_jax.methods.simplex.geometry import TaskSimplex
from cmu_jax.methods.simplex.moments import (
  Moments,
  head_ensemble,
  log_mean_exp_simplex,
  simplex_moments,
)

__all__ = [
  'METHODS',
  'Ensemble',
  'Moments',
  'SimplexWarning',
  'TaskSimplex',
  'head_ensemble',
  'log_mean_exp_simplex',
  'simplex_ensemble',
  'simplex_moments',
  'simplex_weights',
]
