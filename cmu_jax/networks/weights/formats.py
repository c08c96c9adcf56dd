"""Weights as safetensors, npz, msgpack or an Orbax folder; never a pickle."""

import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
from flax import serialization

from cmu_jax.core import errors, files, tree
from cmu_jax.networks.weights import orbax_folders, sharded, stored
from cmu_jax.networks.weights.stored import SHARD_INDEX, StoredWeights

_FORMATS = ('.safetensors', '.npz', '.msgpack', 'an Orbax directory')


def read(path: os.PathLike | str) -> StoredWeights:
  """Reads weights.

  Args:
    path: a `.safetensors`, `.npz` or (Flax) `.msgpack` file, the
      `.safetensors.index.json` of weights in several files, or a directory
      written by Orbax (a checkpoint of this package included). Arrays that
      ml_dtypes left in an `.npz` as two bytes a number are read as bfloat16.

  Raises:
    UserError: the file is missing, a pickle, cut short or of another format;
      an array is no array of numbers.
  """
  path = stored.locate(path)
  stored.refuse_pickle(path)
  if path.is_dir():
    return stored.check_numbers(path, orbax_folders.read_folder(path))
  readers: dict[str, Callable[[pathlib.Path], StoredWeights]] = {
    SHARD_INDEX: sharded.read_index,
    '.safetensors': sharded.read_file,
    '.npz': _read_npz,
    '.msgpack': _read_msgpack,
  }
  suffix = next((s for s in readers if path.name.lower().endswith(s)), None)
  if suffix is None:
    raise errors.UserError(
      f'{path} is in no format known here; give {", ".join(_FORMATS)}'
    )
  return stored.check_numbers(path, readers[suffix](path))


def write(path: os.PathLike | str, content: StoredWeights) -> None:
  """Writes complete weights, in the format of `content.suffix`.

  Raises:
    UserError: the disk is full, or the place cannot be written.
  """
  path = pathlib.Path(path)
  if content.suffix == '.safetensors':
    data = sharded.write_file(content)
    files.write(path, lambda file: file.write(data))
  elif content.suffix == '.npz':
    arrays: dict[str, Any] = {**content.arrays}
    files.write(path, lambda file: np.savez(file, **arrays))
  elif content.suffix == '.msgpack':
    packed = serialization.msgpack_serialize(orbax_folders.nest(content.arrays))
    files.write(path, lambda file: file.write(packed))
  else:
    orbax_folders.write_folder(path, content)


def _read_npz(path: pathlib.Path) -> StoredWeights:
  try:
    # Opened here: np.load leaves the file open if it is cut short.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
      arrays = {name: archive[name] for name in archive.files}
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
  for name, value in arrays.items():
    # NumPy returns the members of a foreign zip as bytes.
    errors.check(
      isinstance(value, np.ndarray),
      f"{path}: '{name}' in it is no array; save it again with numpy.savez",
    )
  return StoredWeights(arrays, {}, '.npz')


def _read_msgpack(path: pathlib.Path) -> StoredWeights:
  try:
    loaded = serialization.msgpack_restore(path.read_bytes())
    leaves = tree.leaves_by_path(loaded if isinstance(loaded, dict) else {})
    arrays = {
      '/'.join(names): np.asarray(leaf) for names, leaf in leaves.items()
    }
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
  return StoredWeights(arrays, {}, '.msgpack')
