"""The floating-point leaves of a pytree, apart from everything else in it.

Only they can be moved or differentiated. Counters and keys go along as
arguments; functions, as Equinox modules hold them, are part of the structure.
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
    skeleton: all that is no array.
  """

  floats: list[Any]
  fixed: list[Any]
  skeleton: Skeleton


def _leaf_kind(leaf: Any) -> str:
  if tree.is_float(leaf):
    return _FLOAT
  array = hasattr(leaf, 'dtype') or isinstance(leaf, bool | int | float)
  return _ARRAY if array else _STATIC


def split(params: PyTree) -> Split:
  """Takes a pytree apart; `joined` puts it together."""
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
  """The pytree, with floating-point leaves in the dtypes they had."""
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
  """A leaf in float32 at least, where it lives: sums are made in it."""
  return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def array_module(leaf: Any) -> Any:
  """The module of functions for a leaf: NumPy's stay on the host."""
  return np if isinstance(leaf, np.ndarray | np.generic) else jnp


def check_like(params: PyTree, other: PyTree, what: str, lead: int = 0) -> None:
  """Raises UserError unless two trees have one structure and equal shapes.

  Args:
    params: what the other one must fit.
    other: a tree whose leaves may have leading axes more.
    what: its name in the message.
    lead: how many leading axes.
  """
  mine, theirs = tree.leaves_by_path(params), tree.leaves_by_path(other)
  if mine.keys() != theirs.keys():
    odd = sorted('/'.join(name) for name in mine.keys() ^ theirs.keys())
    raise errors.UserError(
      f"{what} and the parameters differ in structure at '{odd[0]}'; use "
      'vectors of the same network'
    )
  for name, leaf in mine.items():
    if not tree.is_float(leaf):
      continue
    shape = np.shape(theirs[name])
    errors.check(
      len(shape) >= lead and shape[lead:] == leaf.shape,
      f"{what} has shape {shape} at '{'/'.join(name)}', the parameters have "
      f'{leaf.shape}; use vectors of the same network'
      + (', stacked along a leading axis' if lead else ''),
    )
