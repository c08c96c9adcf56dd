"""Task vectors on any pytree: algebra, merges, negation.

tau = task_vectors.task_vector(pretrained, finetuned)
merged = task_vectors.negmerge(taus)
forgotten = task_vectors.edit(pretrained, merged, 0.5)
"""

from cmu_jax.methods.task_vectors.algebra import (
  cosine_matrix,
  edit,
  gram,
  norm,
  sparsify,
  stack,
  task_vector,
)
from cmu_jax.methods.task_vectors.diversify import FineTuneConfig, diversify
from cmu_jax.methods.task_vectors.merges import (
  magmax,
  negmerge,
  stream,
  ties,
  uniform,
)
from cmu_jax.methods.task_vectors.negation import (
  SweepResult,
  choose,
  negation_sweep,
)

__all__ = [
  'FineTuneConfig',
  'SweepResult',
  'choose',
  'cosine_matrix',
  'diversify',
  'edit',
  'gram',
  'magmax',
  'negation_sweep',
  'negmerge',
  'norm',
  'sparsify',
  'stack',
  'stream',
  'task_vector',
  'ties',
  'uniform',
]
