"""The floating-point leaves of a pytree, separated from all other leaves.

Only they can be moved or differentiated. Counters and keys are passed along as
arguments; functions, as in Equinox modules, are part of the structure.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import errors, tree

_FLOAT, _ARRAY, _STATIC = 'float', 'array', 'static'


class Skeleton(NamedTuple):
  """A pytree without its arrays; hashable.

  Attributes:
    structure: of the tree.
    kinds: of every leaf.
    dtypes: of the floating-point leaves.
    static: leaves that are no arrays.
  """

  structure: Any
  kinds: tuple[str, ...]
  dtypes: tuple[Any, ...]
  static: tuple[Any, ...]


class Split(NamedTuple):
  """A pytree in three parts.

  Attributes:
    floats: floating-point leaves.
    fixed: other arrays and numbers.
    skeleton: the structure, and leaves that are no arrays.
  """

  floats: list[Any]
  fixed: list[Any]
  skeleton: Skeleton


def _leaf_kind(leaf: Any) -> str:
  if tree.is_float(leaf):
    return _FLOAT
  # Python numbers are arguments too: as part of the skeleton, every value of a
  # step counter would compile anew.
  array = hasattr(leaf, 'dtype') or isinstance(leaf, bool | int | float)
  return _ARRAY if array else _STATIC


def split(params: PyTree) -> Split:
  """Splits a pytree into its floating-point leaves and the rest."""
  leaves, structure = jax.tree.flatten(params)
  kinds = tuple(_leaf_kind(leaf) for leaf in leaves)
  parts: dict[str, list[Any]] = {_FLOAT: [], _ARRAY: [], _STATIC: []}
  for kind, leaf in zip(kinds, leaves, strict=True):
    parts[kind].append(leaf)
  dtypes = tuple(leaf.dtype for leaf in parts[_FLOAT])
  return Split(
    parts[_FLOAT],
    parts[_ARRAY],
    Skeleton(structure, kinds, dtypes, tuple(parts[_STATIC])),
  )


def join(skeleton: Skeleton, floats: list[Any], fixed: list[Any]) -> PyTree:
  """Rebuilds a pytree, with floating-point leaves in their original dtypes."""
  # Sums run in float32 at least; the network expects its own dtypes.
  cast = [
    x if x.dtype == dtype else x.astype(dtype)
    for x, dtype in zip(floats, skeleton.dtypes, strict=True)
  ]
  parts = {
    _FLOAT: iter(cast),
    _ARRAY: iter(fixed),
    _STATIC: iter(skeleton.static),
  }
  leaves = [next(parts[kind]) for kind in skeleton.kinds]
  return jax.tree.unflatten(skeleton.structure, leaves)


def widen(leaf: Any) -> Any:
  """Casts a leaf to float32 at least, because sums of leaves follow."""
  return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def array_module(leaf: Any) -> Any:
  """Returns NumPy for leaves on the host, `jax.numpy` for others."""
  # `jax.numpy` would copy a NumPy leaf to the device.
  return np if isinstance(leaf, np.ndarray | np.generic) else jnp


def check_like(params: PyTree, other: PyTree, name: str, lead: int = 0) -> None:
  """Raises UserError unless two trees have one structure and equal shapes.

  Args:
    params: the tree that the other one must fit.
    other: a tree whose leaves may have additional leading axes.
    name: of the other tree, for the message.
    lead: number of these axes.
  """
  expected, actual = tree.leaves_by_path(params), tree.leaves_by_path(other)
  if expected.keys() != actual.keys():
    odd = sorted('/'.join(path) for path in expected.keys() ^ actual.keys())
    raise errors.UserError(
      f"{name} and the parameters differ in structure at '{odd[0]}'; use "
      'vectors of the same network'
    )
  # Counters may differ in shape, because they are not combined.
  for path, leaf in expected.items():
    if not tree.is_float(leaf):
      continue
    shape = np.shape(actual[path])
    errors.check(
      len(shape) >= lead and shape[lead:] == leaf.shape,
      f"{name} has shape {shape} at '{'/'.join(path)}', the parameters have "
      f'{leaf.shape}; use vectors of the same network'
      + (', stacked along a leading axis' if lead else ''),
    )
