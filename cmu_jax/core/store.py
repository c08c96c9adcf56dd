"""Results of cells, each in a file named by its address.

The address is a digest of everything that the content depends on:

  folder/cells/<address>.json       the record of a cell
  folder/<kind>/<address>.npz       a training, or another pytree of arrays

Pytrees are not Orbax checkpoints: all processes of a distributed run write such
a checkpoint together, and here every process has trainings of its own.
"""

import pathlib
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import checkpoint, errors, files
from cmu_jax.core.types import Info

NamedArrays = dict[str, Any]

_STEP = 'step'
# 96 bits of the SHA-256: short enough for a file name, and free of collisions.
_ADDRESS_LENGTH = 24


class Checkpoint(NamedTuple):
  """File in which a training saves itself.

  Attributes:
    restore: (template) -> (state, step) or None.
    save: (state, step), called between segments.
    seconds: how much work a kill may lose at most.
  """

  restore: Callable[[Any], tuple[Any, int] | None]
  save: Callable[[Any, int], Any]
  seconds: float = 30.0


def _record_path(folder: pathlib.Path, address: str) -> pathlib.Path:
  return folder / 'cells' / f'{address[:_ADDRESS_LENGTH]}.json'


def read_record(folder: pathlib.Path, address: str) -> Info | None:
  """Reads the record of a cell, or returns None if it is not computed yet."""
  path = _record_path(folder, address)
  if not path.exists():
    return None
  record: Any = files.read_json(path)
  # File names hold a part of the address only.
  errors.check(
    isinstance(record, dict) and record.get('address') == address,
    f'{path} is not a cell of this sweep: remove it',
  )
  return record


def write_record(folder: pathlib.Path, address: str, record: Info) -> None:
  """Writes the record of a cell."""
  path = _record_path(folder, address)
  files.write_json(path, {'address': address, **record})


def arrays_path(folder: pathlib.Path, address: str, kind: str) -> pathlib.Path:
  """Path of the arrays of this kind and address."""
  return folder / kind / f'{address[:_ADDRESS_LENGTH]}.npz'


def _read_arrays(path: pathlib.Path) -> NamedArrays:
  try:
    # Opened here, because np.load leaves a truncated file open.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except (OSError, ValueError, zipfile.BadZipFile) as error:
    raise errors.UserError(
      f'cannot read {path}: {error}; remove it to make it again'
    ) from error


def read_or_compute(
  path: pathlib.Path | None, compute: Callable[[], NamedArrays]
) -> NamedArrays:
  """Reads arrays from their file, or computes and writes them.

  Args:
    path: the file; None to keep nothing.
    compute: () -> arrays by name.

  Raises:
    UserError: the file is broken, or not writable.
  """
  if path is None:
    return compute()
  if not path.exists():
    arrays = compute()
    files.write(path, lambda file: np.savez(file, **arrays))
    return arrays
  return _read_arrays(path)


def _read_checkpoint(
  path: pathlib.Path, template: PyTree
) -> tuple[PyTree, int] | None:
  """Reads the state in a file and its step; None if there is no file."""
  if not path.exists():
    return None
  # The file of an older version of the code may have other leaves.
  expected = checkpoint.leaves_by_key(template)
  arrays = _read_arrays(path)
  step = int(arrays.pop(_STEP, -1))
  same = step >= 0 and arrays.keys() == expected.keys()
  errors.check(
    same
    and all(
      arrays[n].shape == expected[n].shape
      and arrays[n].dtype == expected[n].dtype
      for n in arrays
    ),
    f'{path} is not of this network: remove it to make it again',
  )
  values = [jnp.asarray(arrays[name]) for name in expected]
  return jax.tree.unflatten(jax.tree.structure(template), values), step


def npz_checkpoint(
  folder: pathlib.Path, address: str, seconds: float, kind: str = 'originals'
) -> Checkpoint:
  """Builds the checkpoint of a training, or of another pytree of arrays.

  Args:
    folder: of the study.
    address: digest of everything that the training depends on.
    seconds: how much work a kill may lose at most.
    kind: name of the folder for such trainings.
  """
  path = arrays_path(folder, address, kind)

  def save(state: PyTree, step: int) -> None:
    arrays: NamedArrays = {
      key: np.asarray(leaf)
      for key, leaf in checkpoint.leaves_by_key(state).items()
    }
    # Beside the leaves, whose keys start with a bracket or a dot.
    arrays[_STEP] = np.int64(step)
    files.write(path, lambda file: np.savez(file, **arrays))

  return Checkpoint(
    lambda template: _read_checkpoint(path, template), save, seconds
  )


def remove_checkpoint(folder: pathlib.Path, address: str) -> None:
  """Removes the checkpoint of a training that is no longer needed."""
  arrays_path(folder, address, 'originals').unlink(missing_ok=True)
