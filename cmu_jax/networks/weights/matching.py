"""The last layer in a file of weights: its names, how many classes.

Stored arrays to a network's variables and back, by name.

Two conventions are understood, and recognised by the names that are there:

* ours: 'params/body/conv1/kernel' and 'batch_stats/body/norm1/mean', also with
  dots, below whatever holds them ('variables', 'model'), or without 'params'
  (Flax ports); a state of a training may lie beside them and is kept;
* PyTorch's state dicts, through the family's `torch_name`, also below a prefix
  such as 'module.' (DataParallel) or '_orig_mod.' (torch.compile). The leaves:

      ours                  PyTorch              layout
      kernel, 4 axes        weight               h w i o  <->  o i h w
      kernel, 2 axes        weight               i o      <->  o i
      scale, bias           weight, bias         as it is
      mean, var             running_mean, _var   as it is
      others                by their whole path  as it is

  The head may be called fc, linear, classifier or head. Counters of batches
  (num_batches_tracked) and what else is no parameter are kept and otherwise
  ignored.

A family may know further layouts, also such as stack several leaves in one
array.
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


def head_names(torch_name: Callable[[str], str] | None) -> tuple[str, ...]:
  """What the last layer may be called in the files of a family.

  Args:
    torch_name: see `networks.Family`; its own name for the head is among them.
  """
  own = HEADS if torch_name is None else (*HEADS, torch_name('head'))
  return tuple(dict.fromkeys(own))


def is_head(name: str, names: Collection[str]) -> bool:
  """Whether an array belongs to a last layer of one of these names."""
  module = name.replace('/', '.').rpartition('.')[0]
  return any(module == head or module.endswith(f'.{head}') for head in names)


def count_classes(
  arrays: dict[str, np.ndarray], names: Collection[str] = HEADS
) -> int:
  """The number of outputs, from the shape of the head.

  Args:
    arrays: by stored name.
    names: what the head may be called, see `known`.

  Raises:
    UserError: no head is found, or one of fewer than two outputs.
  """
  for name, array in arrays.items():
    if array.ndim == 2 and is_head(name, names):
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
    f'{", ".join(f"{head}.weight" for head in names)} or head/kernel; is it a '
    'classifier?'
  )


_LEAVES = {
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
# What else a state of a training holds, such as Flax's TrainState.
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
  """Where every leaf of a network is stored.

  Attributes:
    names: path of a leaf, 'params/body/conv1/kernel', to its stored name.
      Leaves without one are made from others and are not stored.
    torch: whether kernels are stored as PyTorch has them.
    thirds: which third of its array a leaf is, by path; others are the whole.
    plain: kernels that are stored as ours although `torch` is true.
  """

  names: dict[str, str]
  torch: bool
  thirds: Mapping[str, int] = types.MappingProxyType({})
  untransposed: frozenset[str] = frozenset()


def fit(
  arrays: dict[str, np.ndarray],
  template: Variables,
  torch_name: Callable[[str], str] | None,
  source: str,
  extra_layout: Callable[[list[str]], Layout] | None = None,
) -> tuple[Variables, Layout]:
  """The variables of a network from stored arrays.

  Args:
    arrays: by stored name, see `files.read`.
    template: the network's variables, or their jax.ShapeDtypeStructs.
    torch_name: of the network's family, see `networks.Family`.
    source: what error messages call the file.
    extra_layout: paths of all leaves to one more layout that the family has.

  Returns:
    The variables in float32, and where each leaf was found.

  Raises:
    UserError: names are missing or left over, a shape differs, a value is not
      finite. Every mismatch is one line.
  """
  leaves = _leaves(template)
  layout = _choose_layout(arrays, leaves, torch_name, extra_layout)
  problems = _find_problems(arrays, leaves, layout)
  if problems:
    more = len(problems) - _MAX_PROBLEMS
    lines = [f'{source}: {problem}' for problem in problems[:_MAX_PROBLEMS]]
    raise errors.MultipleErrors(
      '\n'.join([*lines, *([f'{source}: and {more} more'] if more > 0 else [])])
    )
  values = [
    jnp.asarray(_to_leaf(path, arrays[layout.names[path]], layout), jnp.float32)
    for path in leaves
  ]
  return jax.tree.unflatten(jax.tree.structure(template), values), layout


def put_back(
  variables: Variables, arrays: dict[str, np.ndarray], layout: Layout
) -> dict[str, np.ndarray]:
  """The stored arrays with a network's variables in their places.

  Names, order, layout and number types stay those of `arrays`; so does what
  the network does not have, such as counters.
  """
  result = dict(arrays)
  for path, leaf in _leaves(variables).items():
    if path not in layout.names:
      continue
    name = layout.names[path]
    value = np.transpose(
      np.asarray(leaf), _stored_axes(path, leaf.ndim, layout)
    )
    value = value.astype(arrays[name].dtype)
    if path in layout.thirds:
      pieces = np.split(result[name], 3)
      pieces[layout.thirds[path]] = value
      value = np.concatenate(pieces)
    result[name] = value
  return result


def torch_names(
  template: Variables, torch_name: Callable[[str], str]
) -> dict[str, str]:
  """PyTorch's name of every leaf: the table that `fit` goes by."""
  return {
    path: _torch_leaf_name(path, torch_name) for path in _leaves(template)
  }


def _leaves(variables: Any) -> dict[str, Any]:
  """Leaves by path, 'params/body/conv1/kernel'."""
  return {
    '/'.join(path): leaf
    for path, leaf in tree.leaves_by_path(variables).items()
  }


def _torch_leaf_name(path: str, torch_name: Callable[[str], str]) -> str:
  module, _, leaf = path.partition('/')[2].rpartition('/')
  if leaf not in _LEAVES:
    return torch_name(f'{module}/{leaf}')
  name = torch_name(module)
  return f'{name}{"" if name.endswith("_") else "."}{_LEAVES[leaf]}'


def _choose_layout(
  arrays: dict[str, np.ndarray],
  leaves: dict[str, Any],
  torch_name: Callable[[str], str] | None,
  other: Callable[[list[str]], Layout] | None,
) -> Layout:
  """The convention under which most leaves are found."""
  options = [
    Layout({p: prefix + p.replace('/', mark) for p in leaves}, False)
    for mark in '/.'
    for prefix in _find_prefixes(arrays, next(iter(leaves)).replace('/', mark))
  ]
  bare = {path: path.removeprefix('params/') for path in leaves}
  options.append(Layout(bare, False))
  if torch_name is not None:
    plain = {path: _torch_leaf_name(path, torch_name) for path in leaves}
    for head in (None, *HEADS):
      for prefix in ('', *_PREFIXES, *_BODY_PREFIXES):
        names = {
          path: ('' if _lacks_prefix(path, prefix) else prefix)
          + _rename_head(path, name, head)
          for path, name in plain.items()
        }
        options.append(Layout(names, True))
  if other is not None:
    options.append(other(list(leaves)))
  return max(options, key=lambda o: len(arrays.keys() & set(o.names.values())))


def _find_prefixes(arrays: Collection[str], leaf: str) -> list[str]:
  """What stands before a leaf's name in a file, the shortest first."""
  found = [name.removesuffix(leaf) for name in arrays if name.endswith(leaf)]
  return sorted({'', *found}, key=len)


def _lacks_prefix(path: str, prefix: str) -> bool:
  return prefix in _BODY_PREFIXES and path.startswith('params/head/')


def _rename_head(path: str, name: str, head: str | None) -> str:
  if head is None or not path.startswith('params/head/'):
    return name
  return f'{head}.{name.rpartition(".")[2]}'


def _find_problems(
  arrays: dict[str, np.ndarray], leaves: dict[str, Any], layout: Layout
) -> list[str]:
  """One line for each thing that does not fit."""
  used = dict.fromkeys(layout.names.values())
  missing = [n for n in used if n not in arrays]
  extra = [n for n in arrays if n not in used and not _may_remain(n, layout)]
  found = [f"'{n}' is missing; is it another network?" for n in missing]
  found += [f"'{n}' belongs to no part of the network" for n in extra]
  for path, leaf in leaves.items():
    name = layout.names[path]
    if name not in arrays:
      continue
    array = arrays[name]
    expected = _stored_shape(path, leaf.shape, layout)
    if array.shape != expected:
      found.append(
        f"'{name}' has shape {array.shape}, the network has {expected}"
      )
    elif not np.isfinite(array.astype(np.float32)).all():
      found.append(f"'{name}' holds NaN or infinity; the weights are damaged")
    elif path.endswith('/var') and (array < 0).any():
      found.append(f"'{name}' holds a negative variance; it is damaged")
  return list(dict.fromkeys(found))


def _may_remain(name: str, layout: Layout) -> bool:
  """Whether what no leaf uses may lie beside them."""
  of_training = not layout.torch and name.split('/')[0] in _TRAINING_FIELDS
  return of_training or name.endswith(_IGNORED)


def _stored_shape(
  path: str, shape: tuple[int, ...], layout: Layout
) -> tuple[int, ...]:
  found = tuple(shape[axis] for axis in _stored_axes(path, len(shape), layout))
  if path in layout.thirds:
    return (3 * found[0], *found[1:])
  return found


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
  return np.transpose(array, np.argsort(_stored_axes(path, array.ndim, layout)))
