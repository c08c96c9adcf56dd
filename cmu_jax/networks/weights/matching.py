"""Matches stored arrays to a network's variables and back, by name.

Two conventions are recognised by the names in the file:

* ours: 'params/body/conv1/kernel' and 'batch_stats/body/norm1/mean', also with
  dots, below any prefix ('variables', 'model'), or without 'params' (Flax
  ports); the state of a training may lie beside them;
* PyTorch's state dicts, through the family's `torch_name`, also below a prefix
  such as 'module.' (DataParallel) or '_orig_mod.' (torch.compile). The leaves:

      ours                  PyTorch              layout
      kernel, 4 axes        weight               h w i o  <->  o i h w
      kernel, 2 axes        weight               i o      <->  o i
      scale, bias           weight, bias         unchanged
      mean, var             running_mean, _var   unchanged
      others                by their full path   unchanged

  The head may be called fc, linear, classifier or head. Counters of batches
  (num_batches_tracked) and other arrays that are no parameters are ignored and
  stay in the file.

A family may know further layouts, some of which stack several leaves in a
single array.
"""

import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.core import errors, tree
from cmu_jax.core.types import Variables

HEADS = ('fc', 'linear', 'classifier', 'head', 'heads.head')
_TORCH_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_PREFIXES = ('module.', '_orig_mod.', 'model.', 'state_dict.', 'net.')
# Prefixes of the body alone: the head beside it has none.
_BODY_PREFIXES = ('dinov2.', 'dinov2_with_registers.')
_IGNORED = (
  'num_batches_tracked',
  'position_ids',
  'input_resolution',
  'context_length',
  'vocab_size',
  'mask_token',
)
# Further fields of the state of a training, such as Flax's TrainState.
_TRAINING_FIELDS = (
  'step',
  'epoch',
  'opt_state',
  'optimizer',
  'rng',
  'dropout_rng',
)
_MAX_PROBLEMS = 20


class Layout(NamedTuple):
  """The place of every leaf of a network in a file.

  Attributes:
    names: path of a leaf, 'params/body/conv1/kernel', to its stored name.
      Leaves without a name are made from others and are not stored.
    torch: True if kernels are stored as in PyTorch.
    thirds: index of a leaf among the three that share an array, by path;
      other leaves have an array to themselves.
    untransposed: kernels that are stored as ours although `torch` is true.
  """

  names: dict[str, str]
  torch: bool
  thirds: Mapping[str, int] = types.MappingProxyType({})
  untransposed: frozenset[str] = frozenset()


def head_names(torch_name: Callable[[str], str] | None) -> tuple[str, ...]:
  """Possible names of the last layer in the files of a family.

  Args:
    torch_name: see `networks.Family`; its own name for the head is included.
  """
  names = HEADS if torch_name is None else (*HEADS, torch_name('head'))
  return tuple(dict.fromkeys(names))


def is_head(name: str, heads: Collection[str]) -> bool:
  """True if an array belongs to a last layer with one of the given names."""
  module = name.replace('/', '.').rpartition('.')[0]
  return any(module == head or module.endswith(f'.{head}') for head in heads)


def count_classes(
  arrays: dict[str, np.ndarray], heads: Collection[str] = HEADS
) -> int:
  """Reads the number of outputs off the shape of the head.

  Args:
    arrays: by stored name.
    heads: possible names of the head, see `head_names`.

  Raises:
    UserError: there is no head, or it has fewer than two outputs.
  """
  for name, array in arrays.items():
    # A bias belongs to the head as well, but the matrix tells both its axes.
    if array.ndim == 2 and is_head(name, heads):
      torch = name.replace('/', '.').endswith('.weight')
      count = int(array.shape[0 if torch else 1])
      errors.check(
        count >= 2,
        f"the head '{name}' has {count} output{'' if count == 1 else 's'}; a "
        'classifier has one for each of at least 2 classes',
      )
      return count
  raise errors.UserError(
    'the weights hold no head, a matrix called '
    f'{", ".join(f"{head}.weight" for head in heads)} or head/kernel; is it a '
    'classifier?'
  )


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
  leaves = _leaves(template)
  layout = _choose_layout(arrays, leaves, torch_name, extra_layout)
  problems = _find_problems(arrays, leaves, layout)
  if problems:
    lines = [f'{source}: {problem}' for problem in problems[:_MAX_PROBLEMS]]
    surplus = len(problems) - _MAX_PROBLEMS
    if surplus > 0:
      lines.append(f'{source}: and {surplus} more')
    raise errors.MultipleErrors('\n'.join(lines))
  return take(arrays, template, layout), layout


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
    for path, leaf in _leaves(template).items()
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
  for path, leaf in _leaves(variables).items():
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


def torch_names(
  template: Variables, torch_name: Callable[[str], str]
) -> dict[str, str]:
  """PyTorch's name of every leaf: the table that `fit` uses."""
  return {
    path: _torch_leaf_name(path, torch_name) for path in _leaves(template)
  }


def _leaves(variables: Any) -> dict[str, Any]:
  """Leaves by path, 'params/body/conv1/kernel'."""
  leaves = tree.leaves_by_path(variables)
  return {'/'.join(path): leaf for path, leaf in leaves.items()}


def _torch_leaf_name(path: str, torch_name: Callable[[str], str]) -> str:
  module, _, leaf = path.partition('/')[2].rpartition('/')
  # A free parameter, such as a class token: the family names it by its path.
  if leaf not in _TORCH_LEAVES:
    return torch_name(f'{module}/{leaf}')
  name = torch_name(module)
  return f'{name}{"" if name.endswith("_") else "."}{_TORCH_LEAVES[leaf]}'


def _choose_layout(
  arrays: dict[str, np.ndarray],
  leaves: dict[str, Any],
  torch_name: Callable[[str], str] | None,
  extra_layout: Callable[[list[str]], Layout] | None,
) -> Layout:
  """Finds the convention that explains most names."""
  options = [
    Layout({p: prefix + p.replace('/', mark) for p in leaves}, False)
    for mark in '/.'
    for prefix in _find_prefixes(arrays, next(iter(leaves)).replace('/', mark))
  ]
  flax_port = {path: path.removeprefix('params/') for path in leaves}
  options.append(Layout(flax_port, False))
  if torch_name is not None:
    plain = {path: _torch_leaf_name(path, torch_name) for path in leaves}
    # Users rename the head of a published network and wrap the network, so
    # that every pair of head and prefix is tried.
    for head in (None, *HEADS):
      for prefix in ('', *_PREFIXES, *_BODY_PREFIXES):
        names = {
          path: _rename(path, name, prefix, head)
          for path, name in plain.items()
        }
        options.append(Layout(names, True))
  if extra_layout is not None:
    options.append(extra_layout(list(leaves)))
  # Most, not all: the errors then name the few arrays that are wrong.
  return max(options, key=lambda o: len(arrays.keys() & set(o.names.values())))


def _find_prefixes(arrays: Collection[str], leaf: str) -> list[str]:
  """Prefixes of a leaf's name in a file, the shortest first."""
  prefixes = [name.removesuffix(leaf) for name in arrays if name.endswith(leaf)]
  return sorted({'', *prefixes}, key=len)


def _rename(path: str, name: str, prefix: str, head: str | None) -> str:
  """PyTorch's name of a leaf in a wrapper, with another name of the head."""
  if not path.startswith('params/head/'):
    return prefix + name
  renamed = f'{head}.{name.rpartition(".")[2]}' if head else name
  return renamed if prefix in _BODY_PREFIXES else prefix + renamed


def _find_problems(
  arrays: dict[str, np.ndarray], leaves: dict[str, Any], layout: Layout
) -> list[str]:
  """One line for each mismatch."""
  used = dict.fromkeys(layout.names.values())
  missing = [n for n in used if n not in arrays]
  extra = [n for n in arrays if n not in used and not _may_remain(n, layout)]
  problems = [f"'{n}' is missing; is it another network?" for n in missing]
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


def _may_remain(name: str, layout: Layout) -> bool:
  """True if an array that no leaf uses may lie in the file."""
  training = not layout.torch and name.split('/')[0] in _TRAINING_FIELDS
  return training or name.endswith(_IGNORED)


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
