"""Task vectors as vectors: sums, angles, projections, layers, sparsity.

A task vector has the structure of the parameters. Leaves that are not
floating-point arrays take no part. NumPy leaves stay on the host, so that
vectors larger than a device together can be worked on one at a time.

References:
  Editing Models with Task Arithmetic (arXiv 2212.04089, ICLR 2023).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import errors, tree
from cmu_jax.methods.task_vectors import leaves


class Projection(NamedTuple):
  """A vector within the span of others.

  Attributes:
    coefficients: of the others; least squares of least norm.
    inside: the nearest vector in the span.
    share: its squared norm, as a share of the squared norm of the vector.
  """

  coefficients: Float[Array, 'q']
  inside: PyTree
  share: Float[Array, '']


def task_vector(
  pretrained: PyTree,
  finetuned: PyTree,
  trainable: tree.Predicate | None = None,
) -> PyTree:
  """tau = finetuned - pretrained where trainable, zero elsewhere.

  Args:
    pretrained: parameters before fine-tuning.
    finetuned: parameters after it.
    trainable: (path names, leaf) -> whether the leaf takes part; all of them
      by default. Leaves that are no floating-point arrays never do.

  Raises:
    UserError: the networks differ in structure or in a shape.
  """
  leaves.check_like(pretrained, finetuned, 'the fine-tuned network')
  return tree.task_vector(pretrained, finetuned, trainable)


def apply_task_vector(
  params: PyTree, tau: PyTree, scale: float | Float[Array, '']
) -> PyTree:
  """theta + scale tau, in the dtypes of theta; a negative scale forgets.

  Raises:
    UserError: the two differ in structure or in a shape.
  """
  leaves.check_like(params, tau, 'the task vector')
  return tree.edit(params, tau, -scale)


def stack(taus: Iterable[PyTree]) -> PyTree:
  """Vectors along a new leading axis; all of them are in memory then.

  Raises:
    UserError: there is none, or they differ in structure or in a shape.
  """
  found = list(taus)
  errors.check(found, 'there are no task vectors to stack; give one or more')
  for other in found[1:]:
    leaves.check_like(found[0], other, 'a task vector')

  def stacked(first: Any, *others: Any) -> Any:
    if not tree.is_float(first):
      return first
    return leaves.array_module(first).stack([first, *others])

  return jax.tree.map(stacked, *found)


def _wide_floats(tau: PyTree) -> list[Any]:
  return [leaves.widen(x) for x in leaves.split(tau).floats]


def _flat_dot(a: Any, b: Any) -> Any:
  """Products over all axes but the first: [q, ...], [p, ...] -> [q, p]."""
  a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
  if leaves.array_module(a) is np and leaves.array_module(b) is np:
    return a @ b.T
  return jnp.matmul(a, b.T, precision='highest')


def dot(a: PyTree, b: PyTree) -> Float[Array, '']:
  """The inner product over all floating-point leaves."""
  pairs = zip(_wide_floats(a), _wide_floats(b), strict=True)
  return jnp.asarray(sum(_flat_dot(x[None], y[None])[0, 0] for x, y in pairs))


norm = tree.norm


def gram(stacked: PyTree) -> Float[Array, 'q q']:
  """Inner products of vectors stacked along a leading axis."""
  return jnp.asarray(sum(_flat_dot(x, x) for x in _wide_floats(stacked)))


def cosine_matrix(stacked: PyTree) -> Float[Array, 'q q']:
  """Cosines between vectors stacked along a leading axis; 0 beside a zero."""
  products = gram(stacked)
  size = jnp.sqrt(jnp.diag(products))
  scale = size[:, None] * size[None, :]
  return jnp.where(scale > 0, products / jnp.where(scale > 0, scale, 1), 0)


def combine(stacked: PyTree, weights: Float[Array, 'q']) -> PyTree:
  """sum_i weights_i tau_i of vectors stacked along a leading axis."""

  def total(leaf: Any) -> Any:
    if not tree.is_float(leaf):
      return leaf
    wide = leaves.widen(leaf)
    rows = jnp.asarray(weights, wide.dtype)
    return jnp.tensordot(rows, wide, 1, precision='highest').astype(leaf.dtype)

  return jax.tree.map(total, stacked)


def projections(tau: PyTree, stacked: PyTree) -> Projection:
  """What a vector has in common with the span of others.

  Args:
    tau: the vector.
    stacked: the others along a leading axis; they may depend on each other.
  """
  pairs = zip(_wide_floats(tau), _wide_floats(stacked), strict=True)
  inner = jnp.asarray(sum(_flat_dot(y, x[None])[:, 0] for x, y in pairs))
  inverse = jnp.linalg.pinv(gram(stacked), hermitian=True)
  coefficients = jnp.matmul(inverse, inner, precision='highest')
  whole = dot(tau, tau)
  share = jnp.vdot(coefficients, inner) / jnp.where(whole > 0, whole, 1)
  return Projection(coefficients, combine(stacked, coefficients), share)


def scale_layers(
  tau: PyTree, scales: Mapping[str, Any] | Callable[[tuple[str, ...]], Any]
) -> PyTree:
  """A vector with a factor for each layer.

  Args:
    tau: the vector.
    scales: factors by module path ('body/layer_1', 'head'); what is in none of
      them keeps its size, and of nested ones the longest counts. Or a function
      from the names along a leaf's path to its factor.

  Raises:
    UserError: no parameter lies in one of the modules.
  """
  flat = tree.leaves_by_path(tau)
  if not callable(scales):
    for name in scales:
      errors.check(
        any(tree.is_under(path, (name,)) for path in flat),
        f"scale_layers: no parameter lies in '{name}'; the first one is in "
        f"'{'/'.join(next(iter(flat))[:-1])}'",
      )

  def factor(path: tuple[str, ...]) -> Any:
    if callable(scales):
      return scales(path)
    within = [name for name in scales if tree.is_under(path, (name,))]
    return scales[max(within, key=len)] if within else 1

  def scaled(path: Any, leaf: Any) -> Any:
    if not tree.is_float(leaf):
      return leaf
    return (factor(tree.path_names(path)) * leaf).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(scaled, tau)


def sparsify(tau: PyTree, keep: float) -> PyTree:
  """The entries of largest magnitude, of all leaves together; 0 elsewhere.

  Args:
    tau: the vector.
    keep: the share that stays, in (0, 1]; rounded up to whole entries.
      Entries as large as the smallest one that stays do too.

  Raises:
    UserError: the share is not in (0, 1].
  """
  errors.check(0 < keep <= 1, f'sparsify: keep {keep} is not in (0, 1]')
  floats = leaves.split(tau).floats
  if keep == 1 or not floats:
    return tau
  total = sum(x.size for x in floats)
  count = max(1, math.ceil(keep * total - 1e-9))
  xp = leaves.array_module(floats[0])
  sizes = xp.concatenate([xp.ravel(xp.abs(leaves.widen(x))) for x in floats])
  if xp is np:
    least = np.partition(sizes, total - count)[total - count]
  else:
    least = jnp.sort(sizes)[total - count]
  return jax.tree.map(
    lambda x: x * (abs(leaves.widen(x)) >= least) if tree.is_float(x) else x,
    tau,
  )
