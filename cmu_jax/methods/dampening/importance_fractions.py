"""Importances for every identified fraction, from one pass over S_tr.

Squared gradients of single samples add up, so that those of nested sets S_f are
prefix sums over the order of identification (arXiv 2402.14015, section 3.2,
with the importances of `importance` of kind 'per_sample').
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PyTree

from cmu_jax.core import errors, tree
from cmu_jax.core.types import Batch, PRNGKey, Samples, Variables
from cmu_jax.methods.dampening import importance
from cmu_jax.methods.dampening.importance import Pair


def nested(
  key: PRNGKey,
  measure: importance.Measure,
  variables: Variables,
  batch: Batch,
  rank: Int[np.ndarray, 'n'],
  counts: Int[np.ndarray, 'f'],
) -> Pair:
  """Per-sample importances for every identified fraction, from one pass.

  Args:
    key: of augmentation.
    measure: of kind 'per_sample'.
    variables: the original network.
    batch: S_tr.
    rank: place of each sample in the order of identification; -1 outside S_m.
    counts: |S_f| of each fraction, rising.

  Returns:
    A pair whose leaves have a leading axis f: for S_f prefix sums over the
    order of identification, and what is left, each over its samples.

  Raises:
    UserError: another kind; squared batch means do not add up.
  """
  errors.check(
    measure.kind == 'per_sample',
    f"importances '{measure.kind}' are not additive; use kind 'per_sample'",
  )
  found = np.searchsorted(counts, rank, side='right')
  part = np.where(rank < 0, counts.size, found)
  nothing, parts = jnp.zeros(rank.shape, bool), []
  for position in range(counts.size + 1):
    title = f'importances (part {position + 1} of {counts.size + 1})'
    samples = Samples(batch, nothing, jnp.asarray(part == position))
    parts.append(importance.sums(key, measure, variables, samples, title)[0])
  forget, retain = _prefixes(tree.stack(parts))
  share = lambda x, n: x / np.maximum(n, 1).reshape(-1, *(1,) * (x.ndim - 1))
  return Pair(
    jax.tree.map(lambda x: share(x, rank.size - counts), retain),
    jax.tree.map(lambda x: share(x, counts), forget),
    jnp.int32(rank.size),
  )


def _prefixes(parts: PyTree) -> tuple[PyTree, PyTree]:
  """For every split of the leading axis, sums before and from it on."""
  before = jax.tree.map(lambda x: jnp.cumsum(x[:-1], axis=0), parts)
  after = jax.tree.map(lambda x: jnp.cumsum(x[:0:-1], axis=0)[::-1], parts)
  return before, after
