"""Stored arrays to a network's variables and back, by name.

Two conventions are understood, and recognised by the names that are there:

* ours: 'params/body/conv1/kernel' and 'batch_stats/body/norm1/mean', also with
  dots, and also below a prefix such as 'variables';
* PyTorch's state dicts, through the family's `torch_name`, also below a prefix
  such as 'module.' (DataParallel) or '_orig_mod.' (torch.compile). The leaves:

      ours                  PyTorch              layout
      kernel, 4 axes        weight               h w i o  <->  o i h w
      kernel, 2 axes        weight               i o      <->  o i
      scale, bias           weight, bias         as it is
      mean, var             running_mean, _var   as it is
      others                by their whole path  as it is

  The head may be called fc, linear, classifier or head. Counters of batches
  (num_batches_tracked) are kept and otherwise ignored.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import errors, tree
from cmu_jax.types import Variables

_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_HEADS = ('fc', 'linear', 'classifier', 'head', 'heads.head')
_PREFIXES = ('module.', '_orig_mod.', 'model.', 'state_dict.', 'net.')
_IGNORED = 'num_batches_tracked'
_SHOWN = 20


class Layout(NamedTuple):
  """Where every leaf of a network is stored.

  Attributes:
    names: path of a leaf, 'params/body/conv1/kernel', to its stored name.
    torch: whether kernels are stored as PyTorch has them.
  """

  names: dict[str, str]
  torch: bool


def fit(
  arrays: dict[str, np.ndarray],
  template: Variables,
  torch_name: Callable[[str], str] | None,
  where: str,
) -> tuple[Variables, Layout]:
  """The variables of a network from stored arrays.

  Args:
    arrays: by stored name, see `files.read`.
    template: the network's variables, or their jax.ShapeDtypeStructs.
    torch_name: of the network's family, see `models.Family`.
    where: what error messages call the file.

  Returns:
    The variables in float32, and where each leaf was found.

  Raises:
    UserError: names are missing or left over, a shape differs, a value is not
      finite. Every mismatch is one line.
  """
  leaves = _leaves(template)
  layout = _recognised(arrays, leaves, torch_name)
  problems = _problems(arrays, leaves, layout)
  if problems:
    more = len(problems) - _SHOWN
    lines = [f'{where}: {problem}' for problem in problems[:_SHOWN]]
    raise errors.Several(
      '\n'.join([*lines, *([f'{where}: and {more} more'] if more > 0 else [])])
    )
  values = [
    jnp.asarray(_ours(path, arrays[layout.names[path]], layout), jnp.float32)
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
    name = layout.names[path]
    value = np.asarray(leaf)
    if layout.torch:
      value = _to_torch(path, value)
    result[name] = value.astype(arrays[name].dtype)
  return result


def torch_names(
  template: Variables, torch_name: Callable[[str], str]
) -> dict[str, str]:
  """PyTorch's name of every leaf: the table that `fit` goes by."""
  return {path: _torch(path, torch_name) for path in _leaves(template)}


def _leaves(variables: Any) -> dict[str, Any]:
  """Leaves by path, 'params/body/conv1/kernel'."""
  return {'/'.join(path): leaf for path, leaf in tree.flat(variables).items()}


def _torch(path: str, torch_name: Callable[[str], str]) -> str:
  module, _, leaf = path.partition('/')[2].rpartition('/')
  if leaf not in _LEAVES:
    return torch_name(f'{module}/{leaf}')
  name = torch_name(module)
  return f'{name}{"" if name.endswith("_") else "."}{_LEAVES[leaf]}'


def _recognised(
  arrays: dict[str, np.ndarray],
  leaves: dict[str, Any],
  torch_name: Callable[[str], str] | None,
) -> Layout:
  """The convention under which most leaves are found."""
  options = [
    Layout({p: prefix + p.replace('/', mark) for p in leaves}, False)
    for mark in '/.'
    for prefix in ('', f'variables{mark}')
  ]
  if torch_name is not None:
    plain = {path: _torch(path, torch_name) for path in leaves}
    for head in (None, *_HEADS):
      for prefix in ('', *_PREFIXES):
        names = {
          path: prefix + _renamed_head(path, name, head)
          for path, name in plain.items()
        }
        options.append(Layout(names, True))
  return max(options, key=lambda o: len(arrays.keys() & set(o.names.values())))


def _renamed_head(path: str, name: str, head: str | None) -> str:
  if head is None or not path.startswith('params/head/'):
    return name
  return f'{head}.{name.rpartition(".")[2]}'


def _problems(
  arrays: dict[str, np.ndarray], leaves: dict[str, Any], layout: Layout
) -> list[str]:
  """One line for each thing that does not fit."""
  used = set(layout.names.values())
  missing = [n for n in layout.names.values() if n not in arrays]
  extra = [n for n in arrays if n not in used and not n.endswith(_IGNORED)]
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
  return found


def _stored_shape(
  path: str, shape: tuple[int, ...], layout: Layout
) -> tuple[int, ...]:
  order = _axes(path, len(shape)) if layout.torch else range(len(shape))
  return tuple(shape[axis] for axis in order)


def _axes(path: str, rank: int) -> list[int]:
  """Axes of our leaf in PyTorch's order."""
  if path.endswith('/kernel') and rank == 4:
    return [3, 2, 0, 1]
  if path.endswith('/kernel') and rank == 2:
    return [1, 0]
  return list(range(rank))


def _to_torch(path: str, value: np.ndarray) -> np.ndarray:
  return np.transpose(value, _axes(path, value.ndim))


def _ours(path: str, array: np.ndarray, layout: Layout) -> np.ndarray:
  if not layout.torch:
    return array
  return np.transpose(array, np.argsort(_axes(path, array.ndim)))


def num_classes(arrays: dict[str, np.ndarray]) -> int:
  """The number of outputs, from the shape of the head.

  Raises:
    UserError: no head is found.
  """
  for name, array in arrays.items():
    module, _, leaf = name.replace('/', '.').rpartition('.')
    if array.ndim == 2 and any(
      module == head or module.endswith('.' + head) for head in _HEADS
    ):
      return int(array.shape[0 if leaf == 'weight' else 1])
  raise errors.UserError(
    'the weights hold no head, a matrix called '
    f'{", ".join(f"{head}.weight" for head in _HEADS)} or head/kernel; is it a '
    'classifier?'
  )
