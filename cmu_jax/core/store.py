"""Where a sweep keeps the networks as trained on S_tr.

One .npz a network, named by what it depends on. Not an Orbax checkpoint: that
is written by all processes of a distributed run together, and here every
process trains originals of its own.
"""

import pathlib
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import errors, files, manifest
from cmu_jax.training import train

_STEP = 'step'


def _read(path: pathlib.Path, template: PyTree) -> tuple[PyTree, int] | None:
  """The state in a file and its step; None if there is no file."""
  if not path.exists():
    return None
  wanted = manifest.named(template)
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


def _path(
  folder: pathlib.Path, name: str, kind: str = 'originals'
) -> pathlib.Path:
  return folder / kind / f'{name[:24]}.npz'


def drop(folder: pathlib.Path, name: str) -> None:
  """Removes a training that is needed no more."""
  _path(folder, name).unlink(missing_ok=True)


def saving(
  folder: pathlib.Path, name: str, seconds: float, kind: str = 'originals'
) -> train.Checkpoint:
  """Keeps a training, or another pytree, in folder/originals/<name>.npz.

  Args:
    folder: the sweep's.
    name: a digest of everything that the training depends on.
    seconds: how much work may be lost at most.
    kind: the folder in it.
  """
  path = _path(folder, name, kind)

  def save(state: PyTree, step: int) -> None:
    arrays: dict[str, Any] = {
      key: np.asarray(leaf) for key, leaf in manifest.named(state).items()
    }
    arrays[_STEP] = np.int64(step)
    files.write(path, lambda file: np.savez(file, **arrays))

  return train.Checkpoint(lambda template: _read(path, template), save, seconds)
