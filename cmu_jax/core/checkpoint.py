"""What a checkpoint says about itself, and whether that is true.

manifest.json lists the fingerprint, the tree (path, shape and dtype of every
leaf) and the size and SHA-256 of every file, so that a checkpoint which is cut
short, altered or of another run is told from a good one before it is read.

Checkpoints that are whole or absent, and recognised when they are not ours.

A checkpoint is a folder named after its step:

  folder/<step>/state/         the arrays, written by Orbax
  folder/<step>/manifest.json  fingerprint, tree, size and SHA-256 of each file

It is put together under a temporary name and renamed, so a run killed at any
moment leaves the earlier checkpoints as they were. One process at a time may
write to a folder (the work folder's lock sees to that).
"""

import contextlib
import hashlib
import json
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

from cmu_jax.core import errors

SCHEMA = 1
MANIFEST = 'manifest.json'


def leaves_by_key(state: PyTree) -> dict[str, Any]:
  """The leaves by their path, in order; the structure is left behind."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(path) or '.': leaf for path, leaf in leaves}


def _write_manifest(
  folder: pathlib.Path, step: int, state: PyTree, fingerprint: str
) -> None:
  """Writes the manifest of the files that `folder` holds.

  Args:
    folder: of one checkpoint, with the arrays in place.
    step: number of the checkpoint.
    state: pytree of arrays that the files hold.
    fingerprint: of the configuration that the state belongs to.
  """
  manifest = {
    'schema': SCHEMA,
    'fingerprint': fingerprint,
    'step': step,
    'tree': _tree_entries(state),
    'files': {
      name: _size_and_sha256(folder / name) for name in _list_files(folder)
    },
  }
  (folder / MANIFEST).write_text(
    json.dumps(manifest, indent=1), encoding='utf-8'
  )


def _has_fingerprint(folder: pathlib.Path, fingerprint: str) -> bool:
  """Whether the folder is a checkpoint of this fingerprint, whole or not."""
  manifest = _read_manifest(folder)
  return manifest is not None and manifest['fingerprint'] == fingerprint


def _find_problem(
  folder: pathlib.Path, step: int, template: PyTree, fingerprint: str
) -> str | None:
  """Why a checkpoint cannot be used, as the end of a sentence; None if it can.

  Args:
    folder: of one checkpoint.
    step: that its name says.
    template: a pytree of arrays or jax.ShapeDtypeStructs that it has to fit.
    fingerprint: that it has to have.
  """
  manifest = _read_manifest(folder)
  if manifest is None:
    return f'has no readable {MANIFEST} of this version'
  if manifest['fingerprint'] != fingerprint:
    return 'belongs to another configuration'
  if manifest['step'] != step:
    return f'says it is of step {manifest["step"]}'
  return _first_mismatch(manifest['tree'], template) or _first_damage(
    folder, manifest['files']
  )


def _tree_entries(state: PyTree) -> list[list[Any]]:
  return [
    [name, list(leaf.shape), str(leaf.dtype)]
    for name, leaf in leaves_by_key(state).items()
  ]


def _list_files(folder: pathlib.Path) -> list[str]:
  return sorted(
    path.relative_to(folder).as_posix()
    for path in folder.rglob('*')
    if path.is_file() and path != folder / MANIFEST
  )


def _size_and_sha256(path: pathlib.Path) -> list[Any]:
  with path.open('rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  return [path.stat().st_size, digest]


def _read_manifest(folder: pathlib.Path) -> dict[str, Any] | None:
  """The manifest, or None where there is none that this version wrote."""
  try:
    manifest = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return None
  kinds = {'fingerprint': str, 'step': int, 'tree': list, 'files': dict}
  if not isinstance(manifest, dict) or manifest.get('schema') != SCHEMA:
    return None
  fits = all(isinstance(manifest.get(key), kind) for key, kind in kinds.items())
  return manifest if fits else None


def _first_mismatch(tree: list[list[Any]], template: PyTree) -> str | None:
  """The first leaf in which a manifest's tree and the template differ."""
  wanted = _tree_entries(template)
  for have, want in zip(tree, wanted, strict=False):
    if have != want:
      return f'holds {have}, where {want} is needed'
  if len(tree) != len(wanted):
    return f'holds {len(tree)} arrays, where {len(wanted)} are needed'
  return None


def _first_damage(folder: pathlib.Path, files: dict[str, Any]) -> str | None:
  """The first file that is not as it was written."""
  for name in sorted(files.keys() | set(_list_files(folder))):
    if name not in files:
      return f'has a file that was not saved with it, {name}'
    if not (folder / name).is_file():
      return f'lacks {name}'
    if _size_and_sha256(folder / name) != files[name]:
      size = (folder / name).stat().st_size
      return f'is cut short or altered: {name} of {size} bytes'
  return None


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
    _remove_stale(folder)
    part = pathlib.Path(
      tempfile.mkdtemp(
        dir=folder, prefix=f'.checkpoint-{step}-', suffix='.part'
      )
    )
    _write_state(part, step, state, fingerprint)
    target = folder / str(step)
    _free_name(target, fingerprint)
    part.rename(target)
    _flush_to_disk(folder)
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
  for step in _list_steps(pathlib.Path(folder).absolute()):
    path = pathlib.Path(folder).absolute() / str(step)
    problem = _find_problem(path, step, template, fingerprint)
    if problem is None:
      found = _read_state(path, template), step
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


def _without_empty(leaves: dict[str, Any]) -> dict[str, Any]:
  """What goes to disk: Orbax refuses arrays without elements."""
  return {name: leaf for name, leaf in leaves.items() if leaf.size}


@contextlib.contextmanager
def _raise_os_errors() -> Iterator[None]:
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


def _write_state(
  part: pathlib.Path, step: int, state: PyTree, fingerprint: str
) -> None:
  arrays = jax.tree.map(jnp.asarray, state)
  leaves = _without_empty(leaves_by_key(arrays))
  if leaves:
    with _raise_os_errors():
      ocp.save(part / 'state', leaves)
  _write_manifest(part, step, arrays, fingerprint)
  for path in (*part.rglob('*'), part):
    _flush_to_disk(path)


def _flush_to_disk(path: pathlib.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _list_steps(folder: pathlib.Path) -> list[int]:
  """Steps in the folder, newest first."""
  if not folder.is_dir():
    return []
  names = (path.name for path in folder.iterdir() if path.is_dir())
  return sorted(
    (int(name) for name in names if re.fullmatch(r'0|[1-9]\d*', name)),
    reverse=True,
  )


def _read_state(path: pathlib.Path, template: PyTree) -> PyTree:
  leaves = {
    name: _with_sharding(leaf) for name, leaf in leaves_by_key(template).items()
  }
  stored = _without_empty(leaves)
  with _raise_os_errors():
    loaded = ocp.load(path / 'state', stored) if stored else {}
  empty = leaves.keys() - stored.keys()
  loaded |= {name: jnp.zeros_like(leaves[name]) for name in empty}
  values = [loaded[name] for name in leaves]
  return jax.tree.unflatten(jax.tree.structure(template), values)


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
  """Where a leaf goes; jax.eval_shape's have no sharding, Orbax needs one."""
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _free_name(target: pathlib.Path, fingerprint: str) -> None:
  """Frees a name: our own old checkpoint goes, anything else is set aside."""
  if not os.path.lexists(target):
    return
  if _has_fingerprint(target, fingerprint):
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
    for path in (
      folder / str(each) for each in _list_steps(folder) if each < step
    )
    if _has_fingerprint(path, fingerprint)
  ]
  for path in older[max(keep - 1, 0) :]:
    shutil.rmtree(path)


def _remove_stale(folder: pathlib.Path) -> None:
  """Drops what a killed save left behind."""
  for path in folder.iterdir():
    if path.is_dir() and _STALE.fullmatch(path.name):
      shutil.rmtree(path)
