"""Weights as safetensors, npz, msgpack or an Orbax folder; never a pickle."""

import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import msgpack
import numpy as np
import safetensors
from flax import serialization
from safetensors import numpy as safe_numpy

from cmu_jax.core import errors, files, tree
from cmu_jax.core.types import PyTree
from cmu_jax.networks.weights import folders

_PICKLED = ('.pt', '.pth', '.bin', '.ckpt', '.pkl', '.pickle', '.joblib')
# The names along a path as JAX prints it: .variables.params['body']['kernel']
_WORDS = re.compile(r'\w+')
# HF's list of which array is in which file.
_INDEX = '.safetensors.index.json'
_FORMATS = ('.safetensors', '.npz', '.msgpack', 'an Orbax directory')


class Stored(NamedTuple):
  """What a weights file holds.

  Attributes:
    arrays: by name as stored; nested names are joined by '/'.
    metadata: texts of a safetensors header, for example; {} elsewhere.
    suffix: '.safetensors', '.npz', '.msgpack' or '' for an Orbax directory.
    names: of an Orbax directory, the tree with each array's name in its place;
      None where nested names say it all.
  """

  arrays: dict[str, np.ndarray]
  metadata: dict[str, str]
  suffix: str
  names: PyTree = None


def there(path: os.PathLike | str) -> pathlib.Path:
  """The path of weights, if something is there.

  Raises:
    UserError: nothing is.
  """
  path = pathlib.Path(path).expanduser()
  index = path.with_name(f'{path.name}.index.json')
  hint = f'; they are in several files, give {index}' if index.is_file() else ''
  errors.check(path.exists(), f'the weights {path} do not exist{hint}')
  return path


def read(path: os.PathLike | str) -> Stored:
  """Reads weights.

  Args:
    path: a `.safetensors`, `.npz` or (Flax) `.msgpack` file, the
      `.safetensors.index.json` of weights in several files, or a directory
      written by Orbax (a checkpoint of this package included).

  Raises:
    UserError: the file is missing, a pickle, cut short or of another format;
      an array is no array of numbers.
  """
  path = there(path)
  suffix = '' if path.is_dir() else path.suffix.lower()
  if suffix in _PICKLED:
    raise errors.UserError(
      f'{path} is a pickle, which can run any code when it is opened; where '
      'you trust it, convert it once: safetensors.torch.save_file('
      "torch.load(FILE, weights_only=True), 'weights.safetensors')"
    )
  readers: dict[str, Callable[[pathlib.Path], Stored]] = {
    '.safetensors': _read_safetensors,
    '.npz': _read_npz,
    '.msgpack': _read_msgpack,
    '': _read_folder,
  }
  if path.name.endswith(_INDEX):
    suffix, readers = _INDEX, {_INDEX: _read_shards}
  if suffix not in readers or (suffix == '' and not path.is_dir()):
    raise errors.UserError(
      f'{path} is in no format known here; give {", ".join(_FORMATS)}'
    )
  found = readers[suffix](path)
  errors.check(found.arrays, f'{path} holds no arrays')
  for name, array in found.arrays.items():
    errors.check(
      array.dtype.kind in 'fiub' or array.dtype.name == 'bfloat16',
      f"{path}: '{name}' is of type {array.dtype}, not numbers",
    )
  return found


def write(path: os.PathLike | str, stored: Stored) -> None:
  """Writes weights whole, in the format of `stored.suffix`.

  Raises:
    UserError: the disk is full, or the place cannot be written.
  """
  path = pathlib.Path(path)
  if stored.suffix == '.safetensors':
    data = safe_numpy.save(
      {k: np.asarray(v, order='C') for k, v in stored.arrays.items()},
      stored.metadata or None,
    )
    files.write(path, lambda file: file.write(data))
  elif stored.suffix == '.npz':
    arrays: dict[str, Any] = {**stored.arrays}
    files.write(path, lambda file: np.savez(file, **arrays))
  elif stored.suffix == '.msgpack':
    packed = serialization.msgpack_serialize(_nested(stored.arrays))
    files.write(path, lambda file: file.write(packed))
  else:
    names = stored.names or _nested({name: name for name in stored.arrays})
    folders.write(path, jax.tree.map(lambda name: stored.arrays[name], names))


def side_file(path: os.PathLike | str) -> dict[str, Any]:
  """What `<weights>.json` says about a network; {} where there is none.

  Raises:
    UserError: the file is not a JSON object.
  """
  path = pathlib.Path(path).expanduser()
  beside = path.with_name(path.name + '.json')
  if not beside.is_file():
    beside = path.with_suffix('.json')
  if path.is_dir() or not beside.is_file():
    return {}
  value = files.read_json(beside)
  errors.check(
    isinstance(value, dict),
    f'{beside} must be a JSON object such as {{"mean": [0.5], "std": [0.5]}}',
  )
  return value


def _read_safetensors(path: pathlib.Path) -> Stored:
  try:
    with safetensors.safe_open(path, framework='numpy') as opened:
      arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
      return Stored(arrays, dict(opened.metadata() or {}), '.safetensors')
  except AttributeError as error:  # a number type that NumPy has not
    raise errors.UserError(
      f'{path} holds numbers of a type that is not known here '
      f'({errors.first_line(error)}); save them as float32'
    ) from error
  except (safetensors.SafetensorError, OSError, TypeError) as error:
    raise errors.UserError(
      f'{path} is not a whole safetensors file '
      f'({errors.first_line(error)}); save or copy it again'
    ) from error


def _read_shards(path: pathlib.Path) -> Stored:
  """Weights in several safetensors files, by their index."""
  index = files.read_json(path)
  table = index.get('weight_map') if isinstance(index, dict) else None
  errors.check(
    isinstance(table, dict) and table,
    f'{path} is no index of weights: it has no weight_map; copy it again',
  )
  assert isinstance(table, dict)
  found: dict[str, np.ndarray] = {}
  for name in dict.fromkeys(table.values()):
    part = path.parent / pathlib.Path(str(name)).name
    errors.check(
      part.is_file(), f'{path} names {part.name}, which is not there'
    )
    found |= _read_safetensors(part).arrays
  missing = [name for name in table if name not in found]
  errors.check(
    not missing,
    f"{path} names '{''.join(missing[:1])}', which its files do not hold; take "
    'files that belong together',
  )
  return Stored(found, {}, '.safetensors')


def _read_npz(path: pathlib.Path) -> Stored:
  try:
    with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
      found = {name: archive[name] for name in archive.files}
  except (
    AttributeError,  # a lone .npy array is no archive
    EOFError,
    MemoryError,  # a header may claim any size
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
  ) as error:
    raise errors.UserError(
      f'{path} is not a whole .npz archive of plain arrays '
      f'({errors.first_line(error)}); save it again with numpy.savez'
    ) from error
  for name, value in found.items():
    errors.check(
      isinstance(value, np.ndarray),
      f"{path}: '{name}' in it is no array; a file of torch.save is converted "
      'by safetensors.torch.save_file, others by numpy.savez',
    )
  return Stored(found, {}, '.npz')


def _read_msgpack(path: pathlib.Path) -> Stored:
  try:
    loaded = serialization.msgpack_restore(path.read_bytes())
    found = tree.flat(loaded if isinstance(loaded, dict) else {})
    arrays = {'/'.join(path): np.asarray(leaf) for path, leaf in found.items()}
  except (
    msgpack.exceptions.UnpackException,
    AttributeError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
  ) as error:
    raise errors.UserError(
      f'{path} is no whole msgpack of Flax parameters '
      f'({errors.first_line(error)}); copy it again'
    ) from error
  return Stored(arrays, {}, '.msgpack')


def _read_folder(path: pathlib.Path) -> Stored:
  leaves, structure = jax.tree.flatten_with_path(folders.read(path))
  names = ['/'.join(tree.path_names(where)) for where, _ in leaves]
  arrays = {
    n: np.asarray(leaf) for n, (_, leaf) in zip(names, leaves, strict=True)
  }
  ours = _of_training(arrays)
  if ours:
    return Stored(ours, {}, '')
  return Stored(arrays, {}, '', jax.tree.unflatten(structure, names))


def _of_training(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The variables alone, if this is a checkpoint of one of our trainings."""
  return {
    '/'.join(_WORDS.findall(name)): array
    for name, array in arrays.items()
    if name.startswith('.variables.')
  }


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
  """Names with '/' as dicts in dicts."""
  nested: dict[str, Any] = {}
  for name, value in values.items():
    *parents, last = name.split('/')
    place = nested
    for parent in parents:
      place = place.setdefault(parent, {})
    place[last] = value
  return nested
