"""Checkpoints that are whole or absent, with a manifest of their content.

A checkpoint is a folder named after its step:

  folder/<step>/state/         the arrays, written by Orbax
  folder/<step>/manifest.json  fingerprint, tree, size and SHA-256 of each file

It is written under a temporary name and renamed, so a run killed at any moment
leaves the earlier checkpoints unchanged. A single process at a time may write
to a folder (the lock of the work folder ensures that). The manifest tells a
checkpoint that is truncated, altered or of another run before it is read.
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
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from cmu_jax.core import errors

MANIFEST = 'manifest.json'
_SCHEMA = 1
_STALE = re.compile(r'\.checkpoint-\d+-.*\.part')


def leaves_by_key(state: PyTree) -> dict[str, Any]:
  """Leaves by the text of their path, in order, without the structure."""
  # A state that is a single leaf has an empty path.
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(path) or '.': leaf for path, leaf in leaves}


def save(
  folder: os.PathLike | str,
  step: int,
  state: PyTree,
  fingerprint: str,
  keep: int = 2,
) -> pathlib.Path:
  """Writes folder/<step>, then removes older checkpoints beyond `keep`.

  Args:
    folder: folder for the checkpoints of a single stage.
    step: number of the checkpoint; the largest is the newest.
    state: pytree of arrays (typed keys, NamedTuples and empty nodes included).
    fingerprint: of the configuration that the state belongs to.
    keep: number of checkpoints of this fingerprint to keep, with this one.

  Returns:
    The folder of the new checkpoint.

  Raises:
    UserError: the disk is full or the folder is not writable. The earlier
      checkpoints are unchanged.
  """
  folder = pathlib.Path(folder).absolute()
  temporary: pathlib.Path | None = None
  try:
    folder.mkdir(parents=True, exist_ok=True)
    # Nobody else writes here, so the owner of a temporary folder is dead.
    _remove_stale(folder)
    temporary = pathlib.Path(
      tempfile.mkdtemp(
        dir=folder, prefix=f'.checkpoint-{step}-', suffix='.part'
      )
    )
    _write_state(temporary, step, state, fingerprint)
    target = folder / str(step)
    _free_name(target, fingerprint)
    temporary.rename(target)
    # The rename itself is durable only once the folder is on the disk.
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
    if temporary is not None:
      shutil.rmtree(temporary, ignore_errors=True)


def restore(
  folder: os.PathLike | str, template: PyTree, fingerprint: str
) -> tuple[PyTree, int] | None:
  """Reads the newest checkpoint that is whole and fits, or returns None.

  A line on stderr reports each checkpoint that is skipped; it is not removed.

  Args:
    folder: folder of the checkpoints of a single stage; it need not exist.
    template: a state of the same structure, or its jax.ShapeDtypeStructs.
    fingerprint: of the configuration that the state must belong to.

  Returns:
    The state (arrays on the default device unless the template has shardings)
    and its step.
  """
  folder = pathlib.Path(folder).absolute()
  rejected, restored = [], None
  for step in _list_steps(folder):
    path = folder / str(step)
    problem = _find_problem(path, step, template, fingerprint)
    if problem is None:
      restored = _read_state(path, template), step
      break
    rejected.append((path, problem))
  instead = 'the stage starts afresh'
  if restored is not None:
    instead = f'step {restored[1]} is used'
  for path, problem in rejected:
    print(f'checkpoint {path} {problem}; {instead}', file=sys.stderr)
  return restored


def _without_empty(leaves: dict[str, Any]) -> dict[str, Any]:
  """Drops arrays without elements, because Orbax refuses them."""
  return {name: leaf for name, leaf in leaves.items() if leaf.size}


@contextlib.contextmanager
def _raise_os_errors() -> Iterator[None]:
  """Turns Orbax's write failures into OSError, without its pages of logs."""
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
  except ValueError as error:
    # Orbax (TensorStore) reports a full disk in the text of a ValueError.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code is None:
      raise
    number = int(code[1])
    raise OSError(number, os.strerror(number)) from error
  # Not in a `finally`: after a failure, threads of Orbax that still run would
  # print their tracebacks below the one-line error.
  logger.setLevel(level)


def _write_state(
  temporary: pathlib.Path, step: int, state: PyTree, fingerprint: str
) -> None:
  # Orbax wants arrays: states contain Python and NumPy scalars too.
  arrays = jax.tree.map(jnp.asarray, state)
  leaves = _without_empty(leaves_by_key(arrays))
  if leaves:
    with _raise_os_errors():
      ocp.save(temporary / 'state', leaves)
  manifest = {
    'schema': _SCHEMA,
    'fingerprint': fingerprint,
    'step': step,
    'tree': _tree_entries(arrays),
    'files': {
      name: _size_and_sha256(temporary / name)
      for name in _list_files(temporary)
    },
  }
  text = json.dumps(manifest, indent=1)
  (temporary / MANIFEST).write_text(text, encoding='utf-8')
  # Every file and folder: the rename must not reach the disk before them.
  for path in (*temporary.rglob('*'), temporary):
    _flush_to_disk(path)


def _flush_to_disk(path: pathlib.Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _list_steps(folder: pathlib.Path) -> list[int]:
  """Lists the steps in the folder, newest first."""
  if not folder.is_dir():
    return []
  # Canonical numbers only, because 07 and 7 would be the same step.
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
    arrays = ocp.load(path / 'state', stored) if stored else {}
  empty = leaves.keys() - stored.keys()
  arrays |= {name: jnp.zeros_like(leaves[name]) for name in empty}
  values = [arrays[name] for name in leaves]
  return jax.tree.unflatten(jax.tree.structure(template), values)


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
  """Adds a sharding, which Orbax needs and jax.eval_shape leaves out."""
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _free_name(target: pathlib.Path, fingerprint: str) -> None:
  """Removes our own old checkpoint of this name, renames a foreign one."""
  # lexists, because a broken link occupies the name too.
  if not os.path.lexists(target):
    return
  if _has_fingerprint(target, fingerprint):
    # Renamed first: a kill during rmtree must not leave half a checkpoint.
    stale = target.with_name(f'.checkpoint-{target.name}-old.part')
    target.rename(stale)
    shutil.rmtree(stale)
    return
  # Renamed, not removed: it may be the result of another run.
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
  """Removes our checkpoints older than `step`, except the newest keep - 1."""
  # Checkpoints of other configurations in this folder stay.
  older = [
    path
    for path in (folder / str(n) for n in _list_steps(folder) if n < step)
    if _has_fingerprint(path, fingerprint)
  ]
  for path in older[max(keep - 1, 0) :]:
    shutil.rmtree(path)


def _remove_stale(folder: pathlib.Path) -> None:
  """Removes the temporary folders of a killed save."""
  for path in folder.iterdir():
    if path.is_dir() and _STALE.fullmatch(path.name):
      shutil.rmtree(path)


def _has_fingerprint(folder: pathlib.Path, fingerprint: str) -> bool:
  """Tests whether a checkpoint has this fingerprint, whole or not."""
  manifest = _read_manifest(folder)
  return manifest is not None and manifest['fingerprint'] == fingerprint


def _find_problem(
  folder: pathlib.Path, step: int, template: PyTree, fingerprint: str
) -> str | None:
  """Finds the reason to skip a checkpoint, as the end of a sentence."""
  manifest = _read_manifest(folder)
  if manifest is None:
    return f'has no readable {MANIFEST} of this version'
  if manifest['fingerprint'] != fingerprint:
    return 'belongs to another configuration'
  if manifest['step'] != step:
    return f'says it is of step {manifest["step"]}'
  # The tree first: it costs nothing, and the digests read every file.
  mismatch = _first_mismatch(manifest['tree'], template)
  return mismatch or _first_damage(folder, manifest['files'])


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
  """Reads the manifest, or returns None if it is not of this version."""
  try:
    manifest = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return None
  # By type: a foreign manifest.json must not raise an error later.
  kinds = {'fingerprint': str, 'step': int, 'tree': list, 'files': dict}
  if not isinstance(manifest, dict) or manifest.get('schema') != _SCHEMA:
    return None
  fits = all(isinstance(manifest.get(key), kind) for key, kind in kinds.items())
  return manifest if fits else None


def _first_mismatch(tree: list[list[Any]], template: PyTree) -> str | None:
  """Finds the first leaf that differs between a manifest and the template."""
  entries = _tree_entries(template)
  for stored, expected in zip(tree, entries, strict=False):
    if stored != expected:
      return f'holds {stored}, where {expected} is needed'
  if len(tree) != len(entries):
    return f'holds {len(tree)} arrays, where {len(entries)} are needed'
  return None


def _first_damage(folder: pathlib.Path, files: dict[str, Any]) -> str | None:
  """Finds the first file that differs from its record in the manifest."""
  for name in sorted(files.keys() | set(_list_files(folder))):
    if name not in files:
      return f'has a file that was not saved with it, {name}'
    if not (folder / name).is_file():
      return f'lacks {name}'
    if _size_and_sha256(folder / name) != files[name]:
      size = (folder / name).stat().st_size
      return f'is cut short or altered: {name} of {size} bytes'
  return None
