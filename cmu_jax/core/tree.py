"""Task vectors on any pytree of parameters.

A task vector tau has the structure of the parameters; entries that an
operation must leave alone are zero, so an edit is one `tree_map`. Nothing here
knows a model class: dictionaries, NNX states and Equinox modules all work.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax.core.types import PRNGKey, Variables

Tree = TypeVar('Tree')
Predicate = Callable[[tuple[str, ...], jax.Array], bool]


def path_names(path: tuple) -> tuple[str, ...]:
  """The names along a key path: ('body', 'Dense_0', 'kernel')."""
  return tuple(
    str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k))))
    for k in path
  )


def is_under(path: tuple[str, ...], modules: tuple[str, ...]) -> bool:
  """Whether a path lies inside one of the modules 'body/conv1', 'head', ..."""
  parts = [tuple(module.split('/')) for module in modules]
  return any(path[: len(part)] == part for part in parts)


def leaves_by_path(tree: PyTree) -> dict[tuple[str, ...], Any]:
  """The leaves by the names along their paths, in order."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {path_names(path): leaf for path, leaf in leaves}


def is_float(leaf: Any) -> bool:
  """Whether a leaf is an array of floating-point numbers."""
  return hasattr(leaf, 'dtype') and jnp.issubdtype(leaf.dtype, jnp.floating)


def task_vector(
  start: Tree, end: Tree, eligible: Predicate | None = None
) -> Tree:
  """tau = end - start on eligible floating-point leaves, zero elsewhere.

  Leaves that are not floating-point arrays (counters, keys, functions) pass
  through as they are; `edit` leaves them alone too.

  Args:
    start: parameters before fine-tuning.
    end: parameters after it, same structure.
    eligible: (path names, leaf) -> whether the leaf takes part; all by default.
  """

  def difference(path, a, b):
    if not is_float(a):
      return a
    chosen = eligible is None or eligible(path_names(path), a)
    return b - a if chosen else jnp.zeros_like(a)

  return jax.tree_util.tree_map_with_path(difference, start, end)


def edit(
  params: Tree, tau: Tree, alpha: float | Float[Array, ''] | int
) -> Tree:
  """theta - alpha tau (CUTS, eq. for theta_u), in the dtype of theta."""
  return jax.tree.map(
    lambda p, t: (p - alpha * t).astype(p.dtype) if is_float(p) else p,
    params,
    tau,
  )


def mean(stacked: Tree) -> Tree:
  """The mean over the leading axis of every leaf."""
  return jax.tree.map(lambda x: jnp.mean(x, axis=0), stacked)


def stack(trees: Sequence[Tree]) -> Tree:
  """Trees of one structure, stacked along a new leading axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def index(stacked: Tree, position: int) -> Tree:
  """One member of a stacked tree."""
  return jax.tree.map(lambda x: x[position], stacked)


def norm(tree: PyTree) -> Float[Array, '']:
  """The Euclidean norm of all floating-point leaves together."""
  floats = [x for x in jax.tree.leaves(tree) if is_float(x)]
  return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in floats))


def owns_statistics(variables: Variables) -> Predicate:
  """A predicate: does a parameter belong to a module with running statistics?

  Found structurally: the module's path also occurs in `batch_stats`. True for
  BatchNorm's scale and bias, whatever the module is called; false for
  LayerNorm and GroupNorm, which keep none.
  """
  flat = jax.tree_util.tree_flatten_with_path(variables.batch_stats)[0]
  owners = {path_names(path)[:-1] for path, _ in flat}
  return lambda path, leaf: path[:-1] in owners


def edit_predicate(
  variables: Variables, frozen: tuple[str, ...] = ()
) -> Predicate:
  """Which parameters CUTS edits: all but BatchNorm's and frozen parts'.

  Args:
    variables: the network, for its structure.
    frozen: top-level names that stay untouched, for example ('head',).
  """
  normalised = owns_statistics(variables)
  return lambda path, leaf: (
    not normalised(path, leaf) and (path[0] not in frozen)
  )


def random_like(key: PRNGKey, tau: Tree, distribution: str = 'normal') -> Tree:
  """Noise with the norm of every leaf of `tau`: the control for its direction.

  Args:
    key: random key.
    tau: the task vector to imitate; leaves that are zero stay zero.
    distribution: 'normal' has zero mean; 'uniform' on [0, 1) is the authors'
      control, which also shifts the mean of every layer.
  """
  draw = {'normal': jax.random.normal, 'uniform': jax.random.uniform}
  leaves, structure = jax.tree.flatten(tau)
  keys = jax.random.split(key, len(leaves))

  def imitate(k, leaf):
    noise = draw[distribution](k, leaf.shape, leaf.dtype)
    size = jnp.maximum(jnp.linalg.norm(noise), jnp.finfo(leaf.dtype).tiny)
    return noise * (jnp.linalg.norm(leaf) / size)

  return jax.tree.unflatten(
    structure,
    [
      imitate(k, x) if is_float(x) else x
      for k, x in zip(keys, leaves, strict=True)
    ],
  )
