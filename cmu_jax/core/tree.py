"""Task vectors on any pytree of parameters.

A task vector tau has the structure of the parameters, with zeros at entries
that an operation must leave alone. An edit is therefore a single `tree_map`.
No function depends on a model class: dictionaries, NNX states and Equinox
modules all work.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import PRNGKey, Variables

Tree = TypeVar('Tree')
Predicate = Callable[[tuple[str, ...], jax.Array], bool]


def path_names(path: tuple) -> tuple[str, ...]:
  """Names along a key path: ('body', 'Dense_0', 'kernel')."""
  # The entries of a path differ by node type: DictKey has `key`, GetAttrKey has
  # `name`, SequenceKey has `idx`.
  return tuple(
    str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k))))
    for k in path
  )


def is_under(path: tuple[str, ...], modules: tuple[str, ...]) -> bool:
  """Tests whether a path lies in one of the modules 'body/conv1', 'head'."""
  prefixes = [tuple(module.split('/')) for module in modules]
  return any(path[: len(prefix)] == prefix for prefix in prefixes)


def leaves_by_path(tree: PyTree) -> dict[tuple[str, ...], Any]:
  """Leaves by the names along their paths, in order."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {path_names(path): leaf for path, leaf in leaves}


def is_float(leaf: Any) -> bool:
  """Tests whether a leaf is an array of floating-point numbers."""
  return hasattr(leaf, 'dtype') and jnp.issubdtype(leaf.dtype, jnp.floating)


def task_vector(
  start: Tree, end: Tree, eligible: Predicate | None = None
) -> Tree:
  """Computes end - start on eligible floating-point leaves, zero elsewhere.

  Leaves that are not floating-point arrays (counters, keys, functions) pass
  through unchanged; `edit` leaves them alone too.

  Args:
    start: parameters before fine-tuning.
    end: parameters after it, same structure.
    eligible: (path names, leaf) -> whether the leaf takes part; all by default.

  Raises:
    UserError: a leaf of `end` has another shape: it would broadcast.
  """
  array_checks.check_same_shapes('start and end', start, end)
  if eligible is not None:
    array_checks.check_callable(
      'eligible', eligible, 'a function, such as edit_predicate(variables)'
    )

  def difference(path, a, b):
    if not is_float(a):
      return a
    takes_part = eligible is None or eligible(path_names(path), a)
    return b - a if takes_part else jnp.zeros_like(a)

  return jax.tree_util.tree_map_with_path(difference, start, end)


def edit(
  params: Tree, tau: Tree, alpha: float | Float[Array, '...'] | int
) -> Tree:
  """Computes theta - alpha tau (CUTS, eq. for theta_u), in theta's dtype.

  Raises:
    UserError: a leaf of tau has another shape, or alpha is no single finite
      number.
  """
  array_checks.check_same_shapes('parameters and tau', params, tau)
  errors.check(
    jnp.ndim(alpha) == 0,
    f'alpha has shape {jnp.shape(alpha)}; give a single number, and a grid to '
    '`curve` or `jax.vmap`',
  )
  errors.check(
    array_checks.is_traced(alpha)
    or (not isinstance(alpha, str | None) and np.isfinite(alpha)),
    f'alpha is {alpha}; give a finite number',
  )
  # A float32 alpha would promote bfloat16 parameters: hence the cast.
  return jax.tree.map(
    lambda p, t: (p - alpha * t).astype(p.dtype) if is_float(p) else p,
    params,
    tau,
  )


def mean(stacked: Tree) -> Tree:
  """Averages every leaf over its leading axis."""
  return jax.tree.map(lambda x: jnp.mean(x, axis=0), stacked)


def stack(trees: Sequence[Tree]) -> Tree:
  """Stacks trees of the same structure along a new leading axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def index(stacked: Tree, position: int) -> Tree:
  """Selects a member of a stacked tree."""
  return jax.tree.map(lambda x: x[position], stacked)


def norm(tree: PyTree) -> Float[Array, '']:
  """Computes the Euclidean norm of all floating-point leaves together."""
  floats = [x for x in jax.tree.leaves(tree) if is_float(x)]
  return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in floats))


def owns_statistics(variables: Variables) -> Predicate:
  """Builds the predicate: does the module of a leaf have running statistics?

  True for BatchNorm's scale and bias, whatever the module is called; false for
  LayerNorm and GroupNorm, which have no running statistics.
  """
  # By structure, not by name: users call their BatchNorm modules as they like.
  paths = leaves_by_path(variables.batch_stats)
  owners = {path[:-1] for path in paths}
  return lambda path, leaf: path[:-1] in owners


def edit_predicate(
  variables: Variables, frozen: tuple[str, ...] = ()
) -> Predicate:
  """Selects the parameters that CUTS edits: not BatchNorm's, not frozen ones.

  Args:
    variables: the network, for its structure.
    frozen: top-level names that stay untouched, for example ('head',).

  Raises:
    UserError: a name that the parameters do not have would freeze nothing.
  """
  array_checks.check_type('variables', variables, Variables)
  names = {path[0] for path in leaves_by_path(variables.params) if path}
  for name in frozen:
    if name not in names:
      raise errors.unknown_name('frozen module', name, names)
  normalises = owns_statistics(variables)
  return lambda path, leaf: not normalises(path, leaf) and path[0] not in frozen


def random_like(key: PRNGKey, tau: Tree, distribution: str = 'normal') -> Tree:
  """Draws noise with the norm of every leaf of `tau`: a control direction.

  Args:
    tau: the task vector to imitate; leaves that are zero stay zero.
    distribution: 'normal' has zero mean; 'uniform' on [0, 1) is the authors'
      control, which also shifts the mean of every layer.

  Raises:
    UserError: an unknown distribution.
  """
  array_checks.check_key(key)
  draw = {'normal': jax.random.normal, 'uniform': jax.random.uniform}
  if distribution not in draw:
    raise errors.unknown_name('distribution', distribution, draw)
  leaves, structure = jax.tree.flatten(tau)
  # A key for every leaf, floating-point or not: the noise of a leaf does not
  # depend on the dtypes of the others.
  keys = jax.random.split(key, len(leaves))

  def imitate(k, leaf):
    if not is_float(leaf):
      return leaf
    noise = draw[distribution](k, leaf.shape, leaf.dtype)
    size = jnp.maximum(jnp.linalg.norm(noise), jnp.finfo(leaf.dtype).tiny)
    return noise * (jnp.linalg.norm(leaf) / size)

  imitations = [imitate(k, x) for k, x in zip(keys, leaves, strict=True)]
  return jax.tree.unflatten(structure, imitations)
