"""Task vectors as vectors: sums, angles, sparsity.

A task vector has the structure of the parameters. Leaves that are not
floating-point arrays take no part. NumPy leaves stay on the host, so that
vectors that exceed the memory of a device together can be used one at a time.

References:
  Editing Models with Task Arithmetic (arXiv 2212.04089, ICLR 2023).
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import errors, tree
from cmu_jax.methods.task_vectors import leaves


def task_vector(
  pretrained: PyTree,
  finetuned: PyTree,
  trainable: tree.Predicate | None = None,
) -> PyTree:
  """Returns tau = finetuned - pretrained where trainable, zero elsewhere.

  Args:
    pretrained: parameters before fine-tuning.
    finetuned: parameters after it.
    trainable: (path names, leaf) -> the leaf takes part; by default all do.
      Leaves that are no floating-point arrays never do.

  Raises:
    UserError: the networks differ in structure or in a shape.
  """
  leaves.check_like(pretrained, finetuned, 'the fine-tuned network')
  return tree.task_vector(pretrained, finetuned, trainable)


def edit(
  params: PyTree, tau: PyTree, alpha: float | Float[Array, '']
) -> PyTree:
  """Computes theta - alpha tau as `tree.edit` does; alpha > 0 forgets.

  Raises:
    UserError: the two differ in structure or in a shape.
  """
  leaves.check_like(params, tau, 'the task vector')
  return tree.edit(params, tau, alpha)


def stack(taus: Iterable[PyTree]) -> PyTree:
  """Stacks vectors along a new leading axis, all of them in memory.

  Raises:
    UserError: there is none, or they differ in structure or in a shape.
  """
  vectors = list(taus)
  errors.check(vectors, 'there are no task vectors to stack; give one or more')
  for vector in vectors[1:]:
    leaves.check_like(vectors[0], vector, 'a task vector')

  def stack_leaf(*values: Any) -> Any:
    # Counters are equal in all vectors: one copy takes part.
    if not tree.is_float(values[0]):
      return values[0]
    return leaves.array_module(values[0]).stack(values)

  return jax.tree.map(stack_leaf, *vectors)


norm = tree.norm


def gram(stacked: PyTree) -> Float[Array, 'q q']:
  """Returns inner products of vectors stacked along a leading axis."""

  def products(leaf: Any) -> Any:
    rows = leaves.widen(leaf).reshape(leaf.shape[0], -1)
    if leaves.array_module(rows) is np:
      return rows @ rows.T
    # 'highest': TF32 products would blur small angles.
    return jnp.matmul(rows, rows.T, precision='highest')

  return jnp.asarray(sum(map(products, leaves.split(stacked).floats)))


def cosine_matrix(stacked: PyTree) -> Float[Array, 'q q']:
  """Returns cosines between stacked vectors; 0 for a vector of zeros."""
  products = gram(stacked)
  size = jnp.sqrt(jnp.diag(products))
  scale = size[:, None] * size[None, :]
  # The inner `where` keeps 0 / 0 out of gradients.
  return jnp.where(scale > 0, products / jnp.where(scale > 0, scale, 1), 0)


def sparsify(tau: PyTree, keep: float) -> PyTree:
  """Keeps the entries of largest magnitude over all leaves; 0 elsewhere.

  Args:
    tau: the vector.
    keep: the share of entries to keep, in (0, 1]; rounded up to whole entries.
      Entries that tie with the smallest of them stay too.

  Raises:
    UserError: the share is not in (0, 1].
  """
  errors.check(0 < keep <= 1, f'sparsify: keep {keep} is not in (0, 1]')
  floats = leaves.split(tau).floats
  if keep == 1 or not floats:
    return tau
  total = sum(x.size for x in floats)
  # The margin undoes rounding: 0.07 * 100 must not become 8 entries.
  count = max(1, math.ceil(keep * total - 1e-9))
  xp = leaves.array_module(floats[0])
  sizes = xp.concatenate([xp.ravel(xp.abs(leaves.widen(x))) for x in floats])
  if xp is np:
    # Linear time instead of a sort; JAX has no fast partition.
    threshold = np.partition(sizes, total - count)[total - count]
  else:
    threshold = jnp.sort(sizes)[total - count]
  return jax.tree.map(
    lambda x: (
      x * (abs(leaves.widen(x)) >= threshold) if tree.is_float(x) else x
    ),
    tau,
  )
