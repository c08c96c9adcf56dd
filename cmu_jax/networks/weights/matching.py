"""Matches stored arrays to a network's variables and back, by name.

The place of each array is found by `names`. A family may know further layouts,
some of which stack several leaves in a single array.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.core import errors
from cmu_jax.core.types import Variables
from cmu_jax.networks.weights import names
from cmu_jax.networks.weights.names import Layout

_MAX_PROBLEMS = 20


def fit(
  arrays: dict[str, np.ndarray],
  template: Variables,
  torch_name: Callable[[str], str] | None,
  source: str,
  extra_layout: Callable[[list[str]], Layout] | None = None,
) -> tuple[Variables, Layout]:
  """Makes the variables of a network from stored arrays.

  Args:
    arrays: by stored name, see `formats.read`.
    template: the network's variables, or their jax.ShapeDtypeStructs.
    torch_name: of the network's family, see `networks.Family`.
    source: name of the file in error messages.
    extra_layout: paths of all leaves to one more layout of the family.

  Returns:
    The variables in float32, and the place of each leaf in the file.

  Raises:
    UserError: names are missing or superfluous, a shape differs, a value is
      not finite. Every mismatch is one line.
  """
  leaves = names.leaves(template)
  layout = names.choose_layout(
    arrays, list(leaves), torch_name, extra_layout, source
  )
  problems = _find_problems(arrays, leaves, layout)
  if problems:
    lines = [f'{source}: {problem}' for problem in problems[:_MAX_PROBLEMS]]
    surplus = len(problems) - _MAX_PROBLEMS
    if surplus > 0:
      lines.append(f'{source}: and {surplus} more')
    raise errors.MultipleErrors('\n'.join(lines))
  return take(arrays, template, layout), layout


def count_fitting(
  arrays: dict[str, np.ndarray],
  template: Variables,
  torch_name: Callable[[str], str] | None,
) -> tuple[int, int]:
  """Counts the leaves of a network that stored arrays fit by name and shape.

  Args:
    arrays: by stored name.
    template: the network's variables, or their jax.ShapeDtypeStructs.
    torch_name: of the network's family, see `networks.Family`.

  Returns:
    The number of leaves that fit, and that of leaves and surplus arrays.

  Raises:
    UserError: none of the names is of this network.
  """
  leaves = names.leaves(template)
  layout = names.choose_layout(
    arrays, list(leaves), torch_name, None, 'the weights file'
  )
  fitting = sum(
    layout.names[path] in arrays
    and arrays[layout.names[path]].shape
    == _stored_shape(path, leaf.shape, layout)
    for path, leaf in leaves.items()
  )
  used = {*layout.names.values()}
  surplus = [
    name
    for name in arrays
    if name not in used and not names.may_remain(name, layout)
  ]
  return fitting, len(leaves) + len(surplus)


def take(
  arrays: Mapping[str, np.ndarray], template: Variables, layout: Layout
) -> Variables:
  """Takes a network's variables, float32, from arrays that fit.

  Args:
    arrays: by stored name.
    template: the network's variables. Leaves without a name in `layout` are
      taken from it; the others may be jax.ShapeDtypeStructs.
    layout: see `fit`.
  """
  # Half precision is widened: edits by a small step would round away.
  values = [
    jnp.asarray(_to_leaf(path, arrays[layout.names[path]], layout), jnp.float32)
    if path in layout.names
    else leaf
    for path, leaf in names.leaves(template).items()
  ]
  return jax.tree.unflatten(jax.tree.structure(template), values)


def put_back(
  variables: Variables, arrays: dict[str, np.ndarray], layout: Layout
) -> dict[str, np.ndarray]:
  """Replaces stored arrays by a network's variables.

  Names, order, layout and number types stay those of `arrays`; so do arrays
  that the network does not have, such as counters. An array whose values exceed
  the range of its type becomes float32.
  """
  result = dict(arrays)
  for path, leaf in names.leaves(variables).items():
    if path not in layout.names:
      continue
    name = layout.names[path]
    value = np.transpose(
      np.asarray(leaf), _stored_axes(path, leaf.ndim, layout)
    )
    if path in layout.thirds:
      # `result`, not `arrays`: the other two thirds may have been replaced.
      pieces = np.split(result[name], 3)
      index = layout.thirds[path]
      pieces[index] = _cast(value, pieces[index])
      value = np.concatenate(pieces)
    else:
      value = _cast(value, arrays[name])
    result[name] = value
  return result


def _cast(value: np.ndarray, stored: np.ndarray) -> np.ndarray:
  """Turns float32 into the type of stored numbers, if they fit into it."""
  if stored.dtype == np.float64 and stored.shape == value.shape:
    # Weights that no edit touched keep the digits that float32 lacks.
    return np.where(value == stored.astype(np.float32), stored, value)
  with np.errstate(over='ignore'):
    cast = value.astype(stored.dtype)
  return cast if np.isfinite(cast).all() else value


def _find_problems(
  arrays: dict[str, np.ndarray], leaves: dict[str, Any], layout: Layout
) -> list[str]:
  """One line for each mismatch."""
  used = dict.fromkeys(layout.names.values())
  missing = [n for n in used if n not in arrays]
  unused = [n for n in arrays if n not in used]
  extra = [n for n in unused if not names.may_remain(n, layout)]
  problems = [f"'{n}' is missing; is it another network?" for n in missing]
  statistics = {n for p, n in layout.names.items() if p.startswith('batch_st')}
  if statistics and statistics == {*missing}:
    problems = [
      f"the file lacks the statistics of BatchNorm ('{missing[0]}' and "
      f'{len(missing) - 1} more); save them beside the parameters'
    ]
  problems += [f"'{n}' belongs to no part of the network" for n in extra]
  integers: dict[str, str] = {}
  for path, leaf in leaves.items():
    name = layout.names[path]
    if name not in arrays:
      continue
    array = arrays[name]
    # A single line says it of all arrays, see below.
    if array.dtype.kind in 'iub':
      integers[name] = str(array.dtype)
      continue
    expected = _stored_shape(path, leaf.shape, layout)
    if array.shape != expected:
      problems.append(
        f"'{name}' has shape {array.shape}, the network has {expected}"
      )
    # NaN in a file would pass every method and spoil every result.
    elif not np.isfinite(array.astype(np.float32)).all():
      problems.append(
        f"'{name}' holds NaN or infinity; the weights are damaged"
      )
    elif path.endswith('/var') and (array < 0).any():
      problems.append(f"'{name}' holds a negative variance; it is damaged")
  if integers:
    name = next(iter(integers))
    problems.append(
      f"the network's numbers are {', '.join(sorted({*integers.values()}))} in "
      f"{len(integers)} arrays ('{name}' for example), which no small step "
      'changes; store them as float32'
    )
  # Leaves that share an array report its problems three times.
  return list(dict.fromkeys(problems))


def _stored_shape(
  path: str, shape: tuple[int, ...], layout: Layout
) -> tuple[int, ...]:
  axes = _stored_axes(path, len(shape), layout)
  stored = tuple(shape[axis] for axis in axes)
  return (3 * stored[0], *stored[1:]) if path in layout.thirds else stored


def _stored_axes(path: str, rank: int, layout: Layout) -> list[int]:
  """Axes of our leaf in the order in which they are stored."""
  kernel = layout.torch and path.endswith('/kernel')
  if kernel and rank == 4:
    return [3, 2, 0, 1]
  if kernel and rank == 2 and path not in layout.untransposed:
    return [1, 0]
  return list(range(rank))


def _to_leaf(path: str, array: np.ndarray, layout: Layout) -> np.ndarray:
  if path in layout.thirds:
    array = np.split(array, 3)[layout.thirds[path]]
  axes = _stored_axes(path, array.ndim, layout)
  return np.transpose(array, np.argsort(axes))
