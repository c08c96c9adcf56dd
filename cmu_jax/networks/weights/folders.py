"""Folders of Orbax: what users save, and what its interfaces read again."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cmu_jax.core import errors
from cmu_jax.core.types import PyTree


def read(path: pathlib.Path) -> PyTree:
  """The tree of a checkpoint, its arrays as NumPy.

  Args:
    path: what `StandardCheckpointer`, `PyTreeCheckpointer` or
      `orbax.checkpoint.v1` saved, a step of a `CheckpointManager`, or the
      folder of a manager that kept one step.

  Raises:
    UserError: there is no checkpoint, or several, or it is damaged.
  """
  # Orbax is slow to import, and most weights are files.
  import orbax.checkpoint as ocp

  folder = _only(path)
  try:
    handler = ocp.PyTreeCheckpointHandler()
    with _late_reads_unheard():
      listed = handler.metadata(folder).tree
      # As NumPy, for it may have been written on devices that are not here.
      whole = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), listed)
      return handler.restore(
        folder, args=ocp.args.PyTreeRestore(restore_args=whole)
      )
  except Exception as error:  # Orbax raises whatever its parts raise
    raise errors.UserError(
      f'{path} is not a directory that Orbax can read '
      f'({errors.first_line(error)}); copy it again'
    ) from error


@contextlib.contextmanager
def _late_reads_unheard() -> Iterator[None]:
  """Keeps reads that end after one has failed from printing tracebacks.

  They report to an event loop that Orbax has closed by then. After a failure it
  stays so, as they may end later still.
  """
  before = sys.unraisablehook

  def heard(late: Any) -> None:
    if str(late.exc_value) != 'Event loop is closed':
      before(late)

  sys.unraisablehook = heard
  yield
  sys.unraisablehook = before


def write(path: pathlib.Path, arrays: PyTree) -> None:
  """Writes a checkpoint whole.

  Without a folder of its own for the item, so that the interfaces of Orbax
  before and since its v1 read it by the path alone.

  Raises:
    UserError: the disk is full, or the place cannot be written.
  """
  import orbax.checkpoint as ocp

  try:
    # Orbax writes under a temporary name and renames by itself.
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path.absolute(), arrays, force=True)
  except (OSError, ValueError) as error:
    raise errors.UserError(
      f'cannot write {path}: {errors.first_line(error)}'
    ) from error


def _only(path: pathlib.Path) -> pathlib.Path:
  """The folder that holds the arrays: this one, or the only one in it."""
  found = [
    file.parent
    for depth in ('', '*/', '*/*/', '*/*/*/')
    for file in sorted(path.glob(f'{depth}_METADATA'))
  ]
  errors.check(
    found,
    f'{path} holds no whole Orbax checkpoint; give the folder of one, '
    'or a .safetensors, .npz or .msgpack file',
  )
  steps = ', '.join(str(folder.relative_to(path)) for folder in found[:10])
  errors.check(
    len(found) == 1, f'{path} holds several checkpoints: {steps}; give one'
  )
  return found[0].absolute()
