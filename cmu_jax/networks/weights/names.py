"""Finds the place of a network's variables in a file, by the names there.

Two conventions are recognised:

* ours: 'params/body/conv1/kernel' and 'batch_stats/body/norm1/mean', also with
  dots, without 'params' (Flax ports), without both (NNX), and with a last
  'value' (the state of an NNX module); the state of a training may lie beside
  them;
* PyTorch's state dicts, through the family's `torch_name`. The leaves:

      ours                  PyTorch              layout
      kernel, 4 axes        weight               h w i o  <->  o i h w
      kernel, 2 axes        weight               i o      <->  o i
      scale, bias           weight, bias         unchanged
      mean, var             running_mean, _var   unchanged
      others                by their full path   unchanged

  The head may be called fc, linear, classifier or head.

Wrappers put prefixes before the names, such as 'module.' (DataParallel),
'_orig_mod.' (torch.compile), 'model.' or chains of these: any prefix that the
names of the body share is left out. The head may have another prefix or none.
Counters such as num_batches_tracked are ignored and stay in the file.
"""

import types
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cmu_jax.core import errors, tree

HEADS = ('fc', 'linear', 'classifier', 'head', 'heads.head')
_TORCH_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
# Arrays of these names are no part of a network, whatever module has them.
_COUNTERS = {
  *('num_batches_tracked', 'n_averaged', 'total_ops', 'total_params'),
  *('position_ids', 'input_resolution', 'context_length', 'vocab_size'),
  'mask_token',
}
# Further fields of the state of a training, such as Flax's TrainState.
_TRAINING_FIELDS = {
  *('step', 'epoch', 'opt_state', 'optimizer', 'rng', 'dropout_rng'),
}
# Random streams of NNX's dropout.
_STREAMS = {'rngs', 'rng'}
_NNX_SUFFIX = 'value'


class Layout(NamedTuple):
  """The place of every leaf of a network in a file.

  Attributes:
    names: path of a leaf, 'params/body/conv1/kernel', to its stored name.
      Leaves without a name are made from others and are not stored.
    torch: True if kernels are stored as in PyTorch.
    thirds: index of a leaf among the three that share an array, by path;
      other leaves have an array to themselves.
    untransposed: kernels that are stored as ours although `torch` is true.
    prefix: of a wrapper, before the names of the body.
  """

  names: dict[str, str]
  torch: bool
  thirds: Mapping[str, int] = types.MappingProxyType({})
  untransposed: frozenset[str] = frozenset()
  prefix: str = ''


def head_names(torch_name: Callable[[str], str] | None) -> tuple[str, ...]:
  """Possible names of the last layer in the files of a family.

  Args:
    torch_name: see `networks.Family`; its own name for the head is included.
  """
  names = HEADS if torch_name is None else (*HEADS, torch_name('head'))
  return tuple(dict.fromkeys(names))


def is_head(name: str, heads: Collection[str]) -> bool:
  """True if an array belongs to a last layer with one of the given names."""
  module = '.'.join(_words(name)[:-1])
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
      torch = _words(name)[-1] == 'weight'
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


def torch_names(
  template: Any, torch_name: Callable[[str], str]
) -> dict[str, str]:
  """PyTorch's name of every leaf: the table that `matching.fit` uses.

  Args:
    template: the network's variables, or paths of its leaves.
    torch_name: see `networks.Family`.
  """
  paths = template if isinstance(template, list) else list(leaves(template))
  return {path: _torch_leaf_name(path, torch_name) for path in paths}


def leaves(variables: Any) -> dict[str, Any]:
  """Leaves by path, 'params/body/conv1/kernel'."""
  found = tree.leaves_by_path(variables)
  return {'/'.join(path): leaf for path, leaf in found.items()}


def choose_layout(
  arrays: Mapping[str, np.ndarray],
  paths: list[str],
  torch_name: Callable[[str], str] | None,
  extra_layout: Callable[[list[str]], Layout] | None,
  source: str,
) -> Layout:
  """Finds the convention and the prefix that explain most names.

  Args:
    arrays: by stored name.
    paths: of the network's leaves.
    torch_name: of the network's family, see `networks.Family`.
    extra_layout: paths of all leaves to one more layout of the family.
    source: name of the file in error messages.

  Raises:
    UserError: the file holds several networks, or none of these names.
  """
  options = [*_our_layouts(arrays, paths)]
  if torch_name is not None:
    plain = Layout(torch_names(paths, torch_name), True)
    options += _wrapped_layouts(arrays, plain, head_names(torch_name))
  if extra_layout is not None:
    options += _wrapped_layouts(arrays, extra_layout(paths), ())
  counts = [len(arrays.keys() & set(o.names.values())) for o in options]
  # Most, not all: the errors then name the few arrays that are wrong.
  best = max(counts)
  chosen = options[counts.index(best)]
  usual = torch_names(paths, torch_name) if torch_name else {}
  errors.check(
    best,
    f'{source}: none of its names is of this network: it has '
    f'{_list_some(list(arrays))}, the network needs '
    f'{_list_some([*usual.values()] or paths)}; is it another --model?',
  )
  # The moments of an optimizer have the names of the network too.
  free = {n for n in arrays if not may_remain(n, chosen)}
  rivals = {
    frozenset(free & set(option.names.values())): option.prefix
    for option, count in zip(reversed(options), reversed(counts), strict=True)
    if count == best
  }
  prefixes = {v for k, v in rivals.items() if len(k) == best}
  # Half: the prefix of a block inside the network explains few names.
  errors.check(
    len(prefixes) < 2 or 2 * best < len(paths),
    f'{source} holds several networks, under the prefixes '
    f'{_list_some(sorted(prefixes))}; keep the arrays of one of them',
  )
  return chosen


def may_remain(name: str, layout: Layout) -> bool:
  """True if an array that no leaf uses may lie in the file."""
  words = _words(name)
  training = not layout.torch and words[0] in _TRAINING_FIELDS
  return training or words[-1] in _COUNTERS or bool(_STREAMS & {*words[:-1]})


def describe(arrays: Mapping[str, Any], layout: Layout) -> tuple[str, ...]:
  """Sentences on names that were shortened, and on arrays left alone."""
  notes = []
  if layout.prefix:
    notes.append(
      f"The names in the weights file begin with '{layout.prefix}', the prefix "
      'of a wrapper, which is left out.'
    )
  used = {*layout.names.values()}
  counts = Counter(
    _label(name)
    for name in arrays
    if name not in used and may_remain(name, layout)
  )
  if counts:
    listed = [
      name if count == 1 else f'{name} ({count} arrays)'
      for name, count in counts.items()
    ]
    notes.append(
      'Arrays that are no part of the network stay in the file as they are: '
      f'{", ".join(listed)}.'
    )
  return tuple(notes)


def _words(name: str) -> list[str]:
  """Parts of a stored name, without the 'value' of an NNX variable."""
  words = name.replace('/', '.').split('.')
  return words[:-1] if len(words) > 1 and words[-1] == _NNX_SUFFIX else words


def _label(name: str) -> str:
  """The name under which an array is counted as ignored."""
  words = _words(name)
  return words[0] if words[0] in _TRAINING_FIELDS else words[-1]


def _list_some(names: list[str]) -> str:
  text = ', '.join(f"'{name}'" for name in names[:3])
  return f'{text}, ...' if len(names) > 3 else text


def _our_layouts(arrays: Collection[str], paths: list[str]) -> Iterator[Layout]:
  """Layouts of Flax's names: linen's, of ports without 'params', NNX's."""
  tables = (
    {path: path for path in paths},
    {path: path.removeprefix('params/') for path in paths},
    {path: path.partition('/')[2] for path in paths},
  )
  for table in tables:
    for mark in '/.':
      for suffix in ('', mark + _NNX_SUFFIX):
        names = {p: n.replace('/', mark) + suffix for p, n in table.items()}
        for prefix in _find_prefixes(arrays, list(names.values())):
          wrapped = {path: prefix + name for path, name in names.items()}
          yield Layout(wrapped, False, prefix=prefix)


def _wrapped_layouts(
  arrays: Mapping[str, np.ndarray], plain: Layout, heads: tuple[str, ...]
) -> Iterator[Layout]:
  """Layouts of PyTorch's names, in wrappers and with other heads.

  Args:
    arrays: by stored name.
    plain: without a wrapper.
    heads: possible names of the head; () where the head keeps its name.
  """
  is_body = lambda path: not path.startswith('params/head/')
  body = [name for path, name in plain.names.items() if is_body(path)]
  # Users rename the head of a published network, and wrap the body alone, so
  # that every pair of prefix and head is tried.
  modules = dict.fromkeys(
    name.rpartition('.')[0] for name in arrays if is_head(name, heads)
  )
  for prefix in _find_prefixes(arrays, body):
    wrapped = {path: prefix + name for path, name in plain.names.items()}
    for module in (None, *modules):
      renamed = {
        path: name
        if module is None or is_body(path)
        else f'{module}.{name.rpartition(".")[2]}'
        for path, name in wrapped.items()
      }
      yield plain._replace(names=renamed, prefix=prefix)


def _find_prefixes(arrays: Collection[str], names: list[str]) -> list[str]:
  """Prefixes of a network's names in a file, the shortest first."""
  # Long names lie deep in the network and nowhere else; the first is there in
  # networks of another depth too.
  probes = {*names[:1], *sorted(names, key=len)[-2:]}
  prefixes = {
    name.removesuffix(probe)
    for probe in probes
    for name in arrays
    if name.endswith(probe)
  }
  whole = {p for p in prefixes if p and p[-1] in './'}
  return ['', *sorted(whole, key=lambda p: (len(p), p))]


def _torch_leaf_name(path: str, torch_name: Callable[[str], str]) -> str:
  module, _, leaf = path.partition('/')[2].rpartition('/')
  # A free parameter, such as a class token: the family names it by its path.
  if leaf not in _TORCH_LEAVES:
    return torch_name(f'{module}/{leaf}')
  name = torch_name(module)
  return f'{name}{"" if name.endswith("_") else "."}{_TORCH_LEAVES[leaf]}'
