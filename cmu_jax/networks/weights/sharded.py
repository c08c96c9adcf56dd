"""Weights in safetensors files: a single file, or several with an index."""

import pathlib
import re
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np
import safetensors
from safetensors import numpy as safe_numpy

from cmu_jax.core import errors, files
from cmu_jax.networks.weights.stored import SHARD_INDEX, StoredWeights

_SHARD = re.compile(r'-\d+-of-\d+\.safetensors$')
_MAX_NAMES = 5


def read_file(path: pathlib.Path) -> StoredWeights:
  """Reads a single safetensors file.

  Raises:
    UserError: the file is damaged, or is one of several that belong together.
  """
  if _SHARD.search(path.name):
    # A part of a network would be reported as weights of another network.
    for index in sorted(path.parent.glob(f'*{SHARD_INDEX}')):
      errors.check(
        path.name not in _read_table(index).values(),
        f'{path} holds a part of the weights; give {index}',
      )
  arrays, metadata, _ = _load(path)
  return StoredWeights(arrays, metadata, '.safetensors')


def read_index(path: pathlib.Path) -> StoredWeights:
  """Reads weights in several files, each array from the file of the index.

  Args:
    path: JSON whose `weight_map` has the file of each array by name.

  Raises:
    UserError: names the files and the arrays that are missing.
  """
  table = _read_table(path)
  shards: dict[str, list[str]] = defaultdict(list)
  for name, file in table.items():
    shards[file].append(name)
  absent = [file for file in shards if not (path.parent / file).is_file()]
  errors.check(
    not absent,
    f'{path} names {_list_names(absent)}, which {_are(absent)} not there; put '
    'all files of the weights into one folder',
  )
  arrays: dict[str, np.ndarray] = {}
  metadata: dict[str, str] = {}
  surplus: list[str] = []
  for file, names in shards.items():
    part, header, extra = _load(path.parent / file, names)
    arrays |= part
    metadata = {**header, **metadata}
    surplus += [f'{name} in {file}' for name in extra]
  missing = [
    f"'{name}' in {file}" for name, file in table.items() if name not in arrays
  ]
  errors.check(
    not missing,
    f'{path} names {_list_names(missing)}, which {_are(missing)} not there; '
    'take files that belong together',
  )
  note = (
    f'Left out, because {path.name} does not name them there: '
    f'{_list_names(surplus)}.'
  )
  # The order of the index, whatever the order of the files.
  arrays = {name: arrays[name] for name in table}
  return StoredWeights(
    arrays, metadata, '.safetensors', notes=(note,) if surplus else ()
  )


def write_file(stored: StoredWeights) -> bytes:
  """The content of a safetensors file."""
  # safetensors writes the memory of an array: a transposed view would be
  # written in the wrong order.
  return safe_numpy.save(
    {k: np.asarray(v, order='C') for k, v in stored.arrays.items()},
    stored.metadata or None,
  )


def _read_table(path: pathlib.Path) -> dict[str, str]:
  """The file of each array, by name."""
  index = files.read_json(path)
  table = index.get('weight_map') if isinstance(index, dict) else None
  errors.check(
    isinstance(table, dict) and table,
    f'{path} is no index of weights: it has no weight_map; copy it again',
  )
  assert isinstance(table, dict)
  for name, file in table.items():
    errors.check(
      _is_inside(file),
      f"{path}: the file of '{name}' is {file!r:.60}; it must be the name of a "
      'file in the same folder',
    )
  return table


def _is_inside(file: Any) -> bool:
  """True for a file's name that does not lead out of the folder."""
  if not isinstance(file, str) or file in ('', '..'):
    return False
  return file == pathlib.PurePath(file).name


def _load(
  path: pathlib.Path, names: Collection[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
  """Reads a file's arrays, all or by name; the names left out come third."""
  try:
    with safetensors.safe_open(path, framework='numpy') as opened:
      present = list(opened.keys())
      chosen = [n for n in present if names is None or n in names]
      arrays = {name: opened.get_tensor(name) for name in chosen}
      metadata = dict(opened.metadata() or {})
      return arrays, metadata, [n for n in present if n not in arrays]
  except (AttributeError, KeyError) as error:  # a type that NumPy lacks
    raise errors.UserError(
      f'{path} holds numbers of a type that is not known here '
      f'({errors.first_line(error)}); save them as float32'
    ) from error
  except (safetensors.SafetensorError, OSError, TypeError) as error:
    raise errors.UserError(
      f'{path} is not a whole safetensors file '
      f'({errors.first_line(error)}); save or copy it again'
    ) from error


def _list_names(names: list[str]) -> str:
  """Up to five names, and the number of the others."""
  surplus = len(names) - _MAX_NAMES
  text = ', '.join(names[:_MAX_NAMES])
  return f'{text} and {surplus} more' if surplus > 0 else text


def _are(names: list[str]) -> str:
  return 'is' if len(names) == 1 else 'are'
