"""Weights as safetensors, npz, msgpack or an Orbax folder; never a pickle."""

import contextlib
import os
import pathlib
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import msgpack
import numpy as np
import safetensors
from flax import serialization
from safetensors import numpy as safe_numpy

from cmu_jax.core import errors, files, tree
from cmu_jax.core.types import PyTree

_PICKLE_SUFFIXES = (
  '.pt',
  '.pth',
  '.bin',
  '.ckpt',
  '.pkl',
  '.pickle',
  '.joblib',
)
# The names along a path as JAX prints it: .variables.params['body']['kernel']
_WORD = re.compile(r'\w+')
# HF's list of which array is in which file.
_SHARD_INDEX = '.safetensors.index.json'
_FORMATS = ('.safetensors', '.npz', '.msgpack', 'an Orbax directory')


class StoredWeights(NamedTuple):
  """The content of a weights file.

  Attributes:
    arrays: by name as stored; nested names are joined by '/'.
    metadata: texts of a safetensors header, for example; {} elsewhere.
    suffix: '.safetensors', '.npz', '.msgpack' or '' for an Orbax directory.
    names: of an Orbax directory, the tree with each array's name in its place;
      None where the names' slashes give the tree.
  """

  arrays: dict[str, np.ndarray]
  metadata: dict[str, str]
  suffix: str
  names: PyTree = None


def locate(path: os.PathLike | str) -> pathlib.Path:
  """Returns the path of existing weights.

  Raises:
    UserError: there is nothing.
  """
  path = pathlib.Path(path).expanduser()
  index = path.with_name(f'{path.name}.index.json')
  hint = f'; they are in several files, give {index}' if index.is_file() else ''
  errors.check(path.exists(), f'the weights {path} do not exist{hint}')
  return path


def read(path: os.PathLike | str) -> StoredWeights:
  """Reads weights.

  Args:
    path: a `.safetensors`, `.npz` or (Flax) `.msgpack` file, the
      `.safetensors.index.json` of weights in several files, or a directory
      written by Orbax (a checkpoint of this package included).

  Raises:
    UserError: the file is missing, a pickle, cut short or of another format;
      an array is no array of numbers.
  """
  path = locate(path)
  suffix = '' if path.is_dir() else path.suffix.lower()
  if suffix in _PICKLE_SUFFIXES:
    raise errors.UserError(
      f'{path} is a pickle, which can run any code when it is opened; where '
      'you trust it, convert it once: safetensors.torch.save_file('
      "torch.load(FILE, weights_only=True), 'weights.safetensors')"
    )
  readers: dict[str, Callable[[pathlib.Path], StoredWeights]] = {
    '.safetensors': _read_safetensors,
    '.npz': _read_npz,
    '.msgpack': _read_msgpack,
    '': _read_orbax,
  }
  if path.name.endswith(_SHARD_INDEX):
    suffix, readers = _SHARD_INDEX, {_SHARD_INDEX: _read_shards}
  if suffix not in readers or (suffix == '' and not path.is_dir()):
    raise errors.UserError(
      f'{path} is in no format known here; give {", ".join(_FORMATS)}'
    )
  stored = readers[suffix](path)
  errors.check(stored.arrays, f'{path} holds no arrays')
  for name, array in stored.arrays.items():
    # NumPy knows bfloat16 as a type of ml_dtypes, whose kind is 'V'.
    errors.check(
      array.dtype.kind in 'fiub' or array.dtype.name == 'bfloat16',
      f"{path}: '{name}' is of type {array.dtype}, not numbers",
    )
  return stored


def write(path: os.PathLike | str, stored: StoredWeights) -> None:
  """Writes complete weights, in the format of `stored.suffix`.

  Raises:
    UserError: the disk is full, or the place cannot be written.
  """
  path = pathlib.Path(path)
  if stored.suffix == '.safetensors':
    # safetensors writes the memory of an array: a transposed view would be
    # written in the wrong order.
    data = safe_numpy.save(
      {k: np.asarray(v, order='C') for k, v in stored.arrays.items()},
      stored.metadata or None,
    )
    files.write(path, lambda file: file.write(data))
  elif stored.suffix == '.npz':
    arrays: dict[str, Any] = {**stored.arrays}
    files.write(path, lambda file: np.savez(file, **arrays))
  elif stored.suffix == '.msgpack':
    packed = serialization.msgpack_serialize(_nest(stored.arrays))
    files.write(path, lambda file: file.write(packed))
  else:
    names = stored.names or _nest({name: name for name in stored.arrays})
    _save_orbax(path, jax.tree.map(lambda name: stored.arrays[name], names))


def _read_safetensors(path: pathlib.Path) -> StoredWeights:
  try:
    with safetensors.safe_open(path, framework='numpy') as opened:
      arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
      return StoredWeights(
        arrays, dict(opened.metadata() or {}), '.safetensors'
      )
  except AttributeError as error:  # a number type that NumPy lacks
    raise errors.UserError(
      f'{path} holds numbers of a type that is not known here '
      f'({errors.first_line(error)}); save them as float32'
    ) from error
  except (safetensors.SafetensorError, OSError, TypeError) as error:
    raise errors.UserError(
      f'{path} is not a whole safetensors file '
      f'({errors.first_line(error)}); save or copy it again'
    ) from error


def _read_shards(path: pathlib.Path) -> StoredWeights:
  """Reads weights in several safetensors files, by their index."""
  index = files.read_json(path)
  table = index.get('weight_map') if isinstance(index, dict) else None
  errors.check(
    isinstance(table, dict) and table,
    f'{path} is no index of weights: it has no weight_map; copy it again',
  )
  assert isinstance(table, dict)
  arrays: dict[str, np.ndarray] = {}
  for name in dict.fromkeys(table.values()):
    # The basename alone: an index must not lead out of its folder.
    shard = path.parent / pathlib.Path(str(name)).name
    errors.check(
      shard.is_file(), f'{path} names {shard.name}, which is not there'
    )
    arrays |= _read_safetensors(shard).arrays
  missing = [name for name in table if name not in arrays]
  errors.check(
    not missing,
    f"{path} names '{''.join(missing[:1])}', which its files do not hold; take "
    'files that belong together',
  )
  return StoredWeights(arrays, {}, '.safetensors')


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
    # torch.save writes a zip as well, whose members NumPy returns as bytes.
    errors.check(
      isinstance(value, np.ndarray),
      f"{path}: '{name}' in it is no array; a file of torch.save is converted "
      'by safetensors.torch.save_file, others by numpy.savez',
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


def _read_orbax(path: pathlib.Path) -> StoredWeights:
  """Reads a checkpoint that users or this package saved by Orbax.

  Args:
    path: a folder that `StandardCheckpointer`, `PyTreeCheckpointer` or
      `orbax.checkpoint.v1` saved, a step of a `CheckpointManager`, or the
      folder of a manager that kept a single step.

  Raises:
    UserError: there is no checkpoint, or several, or it is damaged.
  """
  # Orbax is slow to import, and most weights are files.
  import orbax.checkpoint as ocp

  folder = _find_checkpoint(path)
  try:
    handler = ocp.PyTreeCheckpointHandler()
    with _silence_late_reads():
      listed = handler.metadata(folder).tree
      # Restored as NumPy, because the devices that saved it may not be here.
      args = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), listed)
      restored = handler.restore(
        folder, args=ocp.args.PyTreeRestore(restore_args=args)
      )
  except Exception as error:  # Orbax raises whatever its parts raise
    raise errors.UserError(
      f'{path} is not a directory that Orbax can read '
      f'({errors.first_line(error)}); copy it again'
    ) from error
  leaves, structure = jax.tree.flatten_with_path(restored)
  names = ['/'.join(tree.path_names(key_path)) for key_path, _ in leaves]
  arrays = {
    name: np.asarray(leaf)
    for name, (_, leaf) in zip(names, leaves, strict=True)
  }
  variables = _training_variables(arrays)
  if variables:
    return StoredWeights(variables, {}, '')
  return StoredWeights(arrays, {}, '', jax.tree.unflatten(structure, names))


def _training_variables(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The variables alone, if this is a checkpoint of our own training."""
  return {
    '/'.join(_WORD.findall(name)): array
    for name, array in arrays.items()
    if name.startswith('.variables.')
  }


@contextlib.contextmanager
def _silence_late_reads() -> Iterator[None]:
  """Keeps reads that end after a failed read from printing tracebacks."""
  # Late reads report to an event loop that Orbax has closed. After a failure
  # the hook stays in place, because reads may end later still.
  original = sys.unraisablehook

  def hook(late: Any) -> None:
    if str(late.exc_value) != 'Event loop is closed':
      original(late)

  sys.unraisablehook = hook
  yield
  sys.unraisablehook = original


def _save_orbax(path: pathlib.Path, arrays: PyTree) -> None:
  """Writes a checkpoint that Orbax reads by the path alone.

  Raises:
    UserError: the disk is full, or the place cannot be written.
  """
  import orbax.checkpoint as ocp

  try:
    # Orbax writes under a temporary name and renames by itself. Without a
    # folder for the item, its interfaces before and since v1 read the path.
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path.absolute(), arrays, force=True)
  except (OSError, ValueError) as error:
    raise errors.UserError(
      f'cannot write {path}: {errors.first_line(error)}'
    ) from error


def _find_checkpoint(path: pathlib.Path) -> pathlib.Path:
  """The folder that holds the arrays: this, or the only such folder in it."""
  folders = [
    file.parent
    for depth in ('', '*/', '*/*/', '*/*/*/')
    for file in sorted(path.glob(f'{depth}_METADATA'))
  ]
  errors.check(
    folders,
    f'{path} holds no whole Orbax checkpoint; give the folder of one, '
    'or a .safetensors, .npz or .msgpack file',
  )
  steps = ', '.join(str(folder.relative_to(path)) for folder in folders[:10])
  errors.check(
    len(folders) == 1, f'{path} holds several checkpoints: {steps}; give one'
  )
  return folders[0].absolute()


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
  """Turns names with '/' into dicts in dicts."""
  nested: dict[str, Any] = {}
  for name, value in values.items():
    *parents, leaf = name.split('/')
    node = nested
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return nested
