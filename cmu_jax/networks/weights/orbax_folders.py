"""Weights in a directory that Orbax wrote."""

import contextlib
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from cmu_jax.core import errors, tree
from cmu_jax.networks.weights.stored import StoredWeights

# The names along a path as JAX prints it: .variables.params['body']['kernel']
_WORD = re.compile(r'\w+')


def read_folder(path: pathlib.Path) -> StoredWeights:
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


def write_folder(path: pathlib.Path, stored: StoredWeights) -> None:
  """Writes a checkpoint that Orbax reads by the path alone.

  Raises:
    UserError: the disk is full, or the place cannot be written.
  """
  import orbax.checkpoint as ocp

  names = stored.names or nest({name: name for name in stored.arrays})
  arrays = jax.tree.map(lambda name: stored.arrays[name], names)
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


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
  """Turns names with '/' into dicts in dicts."""
  nested: dict[str, Any] = {}
  for name, value in values.items():
    *parents, leaf = name.split('/')
    node = nested
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return nested
