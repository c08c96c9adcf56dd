"""Where a sweep keeps the networks as trained on S_tr.

One .npz a network, named by what it depends on. Not an Orbax checkpoint: that
is written by all processes of a distributed run together, and here every
process trains originals of its own.

What cells of a run found, each a file named by what it depends on.
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

_STEP = 'step'


def _read_checkpoint(
  path: pathlib.Path, template: PyTree
) -> tuple[PyTree, int] | None:
  """The state in a file and its step; None if there is no file."""
  if not path.exists():
    return None
  wanted = checkpoint.leaves_by_key(template)
  try:
    with np.load(path, allow_pickle=False) as stored:
      found = {name: stored[name] for name in stored.files}
    step = int(found.pop(_STEP))
    same = found.keys() == wanted.keys() and all(
      found[n].shape == wanted[n].shape and found[n].dtype == wanted[n].dtype
      for n in found
    )
  except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise errors.UserError(
      f'cannot read {path}: {error}; remove it to make it again'
    ) from error
  errors.check(
    same, f'{path} is not of this network: remove it to make it again'
  )
  values = [jnp.asarray(found[name]) for name in wanted]
  return jax.tree.unflatten(jax.tree.structure(template), values), step


def _checkpoint_path(
  folder: pathlib.Path, name: str, kind: str = 'originals'
) -> pathlib.Path:
  return folder / kind / f'{name[:24]}.npz'


def remove_checkpoint(folder: pathlib.Path, name: str) -> None:
  """Removes a training that is needed no more."""
  _checkpoint_path(folder, name).unlink(missing_ok=True)


class Checkpoint(NamedTuple):
  """Where a training saves itself.

  Attributes:
    restore: (template) -> (state, step) or None.
    save: (state, step), called between segments.
    seconds: how much work may be lost at most.
  """

  restore: Callable[[Any], tuple[Any, int] | None]
  save: Callable[[Any, int], Any]
  seconds: float = 30.0


NamedArrays = dict[str, Any]


def group_path(folder: pathlib.Path, name: str) -> pathlib.Path:
  """Where a group is kept; `name` is a digest of all that it depends on."""
  return folder / 'shadow' / f'{name[:24]}.npz'


def read_or_compute(
  where: pathlib.Path | None, compute: Callable[[], NamedArrays]
) -> NamedArrays:
  """The arrays of a group, from its file or computed and written.

  Args:
    where: the file; None for none.
    compute: () -> arrays by name.

  Raises:
    UserError: the file is broken, or cannot be written.
  """
  if where is None:
    return compute()
  if not where.exists():
    found = compute()
    files.write(where, lambda file: np.savez(file, **found))
    return found
  try:
    with where.open('rb') as file, np.load(file, allow_pickle=False) as stored:
      return {name: stored[name] for name in stored.files}
  except (OSError, ValueError, zipfile.BadZipFile) as error:
    raise errors.UserError(
      f'cannot read {where}: {error}; remove it to train its models again'
    ) from error


def npz_checkpoint(
  folder: pathlib.Path, name: str, seconds: float, kind: str = 'originals'
) -> Checkpoint:
  """Keeps a training, or another pytree, in folder/originals/<name>.npz.

  Args:
    folder: the sweep's.
    name: a digest of everything that the training depends on.
    seconds: how much work may be lost at most.
    kind: the folder in it.
  """
  path = _checkpoint_path(folder, name, kind)

  def save(state: PyTree, step: int) -> None:
    arrays: dict[str, Any] = {
      key: np.asarray(leaf)
      for key, leaf in checkpoint.leaves_by_key(state).items()
    }
    arrays[_STEP] = np.int64(step)
    files.write(path, lambda file: np.savez(file, **arrays))

  return Checkpoint(
    lambda template: _read_checkpoint(path, template), save, seconds
  )


def _record_path(folder: pathlib.Path, name: str) -> pathlib.Path:
  return folder / 'cells' / f'{name[:24]}.json'


def read_record(folder: pathlib.Path, name: str) -> Info | None:
  """What a cell found, or None if it is still to be done."""
  path = _record_path(folder, name)
  if not path.exists():
    return None
  record: Any = files.read_json(path)
  errors.check(
    isinstance(record, dict) and record.get('address') == name,
    f'{path} is not a cell of this sweep: remove it',
  )
  return record


def write_record(folder: pathlib.Path, name: str, record: Info) -> None:
  """Keeps what a cell found."""
  files.write_json(_record_path(folder, name), {'address': name, **record})
