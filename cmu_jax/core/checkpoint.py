"""Checkpoints that are whole or absent, and recognised when they are not ours.

A checkpoint is a folder named after its step:

  folder/<step>/state/         the arrays, written by Orbax
  folder/<step>/manifest.json  fingerprint, tree, size and SHA-256 of each file

It is put together under a temporary name and renamed, so a run killed at any
moment leaves the earlier checkpoints as they were. One process at a time may
write to a folder (the work folder's lock sees to that).
"""

import contextlib
import logging
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from cmu_jax.core import errors, manifest

_STALE = re.compile(r'\.checkpoint-\d+-.*\.part')


def save(
  folder: os.PathLike | str,
  step: int,
  state: PyTree,
  fingerprint: str,
  keep: int = 2,
) -> pathlib.Path:
  """Writes folder/<step> whole, then drops older checkpoints beyond `keep`.

  Args:
    folder: where the checkpoints of one stage live.
    step: number of the checkpoint; the largest one is the newest.
    state: pytree of arrays (typed keys, NamedTuples and empty nodes included).
    fingerprint: of the configuration that the state belongs to.
    keep: how many checkpoints of this fingerprint stay, this one included.

  Returns:
    The folder of the new checkpoint.

  Raises:
    UserError: the disk is full or the folder cannot be written. The earlier
      checkpoints are as they were.
  """
  folder = pathlib.Path(folder).absolute()
  part: pathlib.Path | None = None
  try:
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    part = pathlib.Path(
      tempfile.mkdtemp(
        dir=folder, prefix=f'.checkpoint-{step}-', suffix='.part'
      )
    )
    _write(part, step, state, fingerprint)
    target = folder / str(step)
    _make_way(target, fingerprint)
    part.rename(target)
    _sync(folder)
    _prune(folder, step, fingerprint, keep)
    return target
  except OSError as error:
    raise errors.UserError(
      f'cannot write checkpoint {folder / str(step)}: '
      f'{error.strerror or error}; free some space or choose a writable '
      '--workdir, then give the same command again to continue'
    ) from error
  finally:
    if part is not None:
      shutil.rmtree(part, ignore_errors=True)


def restore(
  folder: os.PathLike | str, template: PyTree, fingerprint: str
) -> tuple[PyTree, int] | None:
  """Reads the newest checkpoint that is whole and fits, or returns None.

  Each one passed over is reported in a line on stderr and left where it is.

  Args:
    folder: where the checkpoints of one stage live; it need not exist.
    template: a state of the same structure, or its jax.ShapeDtypeStructs.
    fingerprint: of the configuration that the state must belong to.

  Returns:
    The state (arrays on the default device unless the template has shardings)
    and its step.
  """
  rejected, found = [], None
  for step in _steps(pathlib.Path(folder).absolute()):
    path = pathlib.Path(folder).absolute() / str(step)
    problem = manifest.problem(path, step, template, fingerprint)
    if problem is None:
      found = _read(path, template), step
      break
    rejected.append((path, problem))
  instead = f'step {found[1]} is used' if found else 'the stage starts afresh'
  for path, problem in rejected:
    print(f'checkpoint {path} {problem}; {instead}', file=sys.stderr)
  return found


def cached(
  folder: os.PathLike | str,
  fingerprint: str,
  template: PyTree | Callable[[], PyTree],
  compute: Callable[[], PyTree],
) -> PyTree:
  """The state of a finished stage: from its checkpoint, or computed and saved.

  Args:
    folder: of this stage alone.
    fingerprint: of everything that the stage depends on.
    template: as for restore, or a function that jax.eval_shape can trace.
    compute: () -> state, called when there is no good checkpoint.
  """
  like = jax.eval_shape(template) if callable(template) else template
  found = restore(folder, like, fingerprint)
  if found is not None:
    return found[0]
  state = compute()
  save(folder, 0, state, fingerprint, keep=1)
  return state


def _stored(leaves: dict[str, Any]) -> dict[str, Any]:
  """What goes to disk: Orbax refuses arrays without elements."""
  return {name: leaf for name, leaf in leaves.items() if leaf.size}


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
  """Turns Orbax's write failures into OSError, without its pages of logs.

  After a failure the logger stays silent: threads of Orbax that are still under
  way would print their tracebacks below the one line that says what happened.
  """
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
  except ValueError as error:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code is None:
      raise
    number = int(code[1])
    raise OSError(number, os.strerror(number)) from error
  logger.setLevel(level)


def _write(
  part: pathlib.Path, step: int, state: PyTree, fingerprint: str
) -> None:
  arrays = jax.tree.map(jnp.asarray, state)
  leaves = _stored(manifest.named(arrays))
  if leaves:
    with _plain_errors():
      ocp.save(part / 'state', leaves)
  manifest.write(part, step, arrays, fingerprint)
  for path in (*part.rglob('*'), part):
    _sync(path)


def _sync(path: pathlib.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _steps(folder: pathlib.Path) -> list[int]:
  """Steps in the folder, newest first."""
  if not folder.is_dir():
    return []
  names = (path.name for path in folder.iterdir() if path.is_dir())
  return sorted(
    (int(name) for name in names if re.fullmatch(r'0|[1-9]\d*', name)),
    reverse=True,
  )


def _read(path: pathlib.Path, template: PyTree) -> PyTree:
  leaves = {
    name: _target(leaf) for name, leaf in manifest.named(template).items()
  }
  stored = _stored(leaves)
  with _plain_errors():
    loaded = ocp.load(path / 'state', stored) if stored else {}
  empty = leaves.keys() - stored.keys()
  loaded |= {name: jnp.zeros_like(leaves[name]) for name in empty}
  values = [loaded[name] for name in leaves]
  return jax.tree.unflatten(jax.tree.structure(template), values)


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
  """Where a leaf goes; jax.eval_shape's have no sharding, Orbax needs one."""
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _make_way(target: pathlib.Path, fingerprint: str) -> None:
  """Frees a name: our own old checkpoint goes, anything else is set aside."""
  if not os.path.lexists(target):
    return
  if manifest.ours(target, fingerprint):
    stale = target.with_name(f'.checkpoint-{target.name}-old.part')
    target.rename(stale)
    shutil.rmtree(stale)
    return
  number = 1
  while os.path.lexists(
    aside := target.with_name(f'{target.name}.old{number}')
  ):
    number += 1
  target.rename(aside)
  print(f'{target} is not of this run: renamed to {aside}', file=sys.stderr)


def _prune(
  folder: pathlib.Path, step: int, fingerprint: str, keep: int
) -> None:
  """Drops our checkpoints older than `step`, all but the newest keep - 1."""
  older = [
    path
    for path in (folder / str(each) for each in _steps(folder) if each < step)
    if manifest.ours(path, fingerprint)
  ]
  for path in older[max(keep - 1, 0) :]:
    shutil.rmtree(path)


def _sweep(folder: pathlib.Path) -> None:
  """Drops what a killed save left behind."""
  for path in folder.iterdir():
    if path.is_dir() and _STALE.fullmatch(path.name):
      shutil.rmtree(path)
