"""Means over a simplex of networks whose vertices are task vectors.

task_simplex = simplex.TaskSimplex(base, taus, scale=0.5)
mean = simplex.simplex_ensemble(fn, task_simplex, image, space='probabilities')
"""

from cmu_jax.methods.simplex.cubature import simplex_weights
from cmu_jax.methods.simplex.ensemble import (
  METHODS,
  Ensemble,
  SimplexWarning,
  simplex_ensemble,
)
from cmu_jax.methods.simplex.geometry import TaskSimplex

__all__ = [
  'METHODS',
  'Ensemble',
  'SimplexWarning',
  'TaskSimplex',
  'simplex_ensemble',
  'simplex_weights',
]
