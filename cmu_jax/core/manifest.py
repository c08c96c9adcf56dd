"""What a checkpoint says about itself, and whether that is true.

manifest.json lists the fingerprint, the tree (path, shape and dtype of every
leaf) and the size and SHA-256 of every file, so that a checkpoint which is cut
short, altered or of another run is told from a good one before it is read.
"""

import hashlib
import json
import pathlib
from typing import Any

import jax
from jaxtyping import PyTree

SCHEMA = 1
NAME = 'manifest.json'


def named(state: PyTree) -> dict[str, Any]:
  """The leaves by their path, in order; the structure is left behind."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(path) or '.': leaf for path, leaf in leaves}


def write(
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
    'tree': _tree(state),
    'files': {name: _digest(folder / name) for name in _files(folder)},
  }
  (folder / NAME).write_text(json.dumps(manifest, indent=1), encoding='utf-8')


def ours(folder: pathlib.Path, fingerprint: str) -> bool:
  """Whether the folder is a checkpoint of this fingerprint, whole or not."""
  manifest = _read(folder)
  return manifest is not None and manifest['fingerprint'] == fingerprint


def problem(
  folder: pathlib.Path, step: int, template: PyTree, fingerprint: str
) -> str | None:
  """Why a checkpoint cannot be used, as the end of a sentence; None if it can.

  Args:
    folder: of one checkpoint.
    step: that its name says.
    template: a pytree of arrays or jax.ShapeDtypeStructs that it has to fit.
    fingerprint: that it has to have.
  """
  manifest = _read(folder)
  if manifest is None:
    return f'has no readable {NAME} of this version'
  if manifest['fingerprint'] != fingerprint:
    return 'belongs to another configuration'
  if manifest['step'] != step:
    return f'says it is of step {manifest["step"]}'
  return _misfit(manifest['tree'], template) or _damage(
    folder, manifest['files']
  )


def _tree(state: PyTree) -> list[list[Any]]:
  return [
    [name, list(leaf.shape), str(leaf.dtype)]
    for name, leaf in named(state).items()
  ]


def _files(folder: pathlib.Path) -> list[str]:
  return sorted(
    path.relative_to(folder).as_posix()
    for path in folder.rglob('*')
    if path.is_file() and path != folder / NAME
  )


def _digest(path: pathlib.Path) -> list[Any]:
  with path.open('rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  return [path.stat().st_size, digest]


def _read(folder: pathlib.Path) -> dict[str, Any] | None:
  """The manifest, or None where there is none that this version wrote."""
  try:
    manifest = json.loads((folder / NAME).read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return None
  kinds = {'fingerprint': str, 'step': int, 'tree': list, 'files': dict}
  if not isinstance(manifest, dict) or manifest.get('schema') != SCHEMA:
    return None
  fits = all(isinstance(manifest.get(key), kind) for key, kind in kinds.items())
  return manifest if fits else None


def _misfit(tree: list[list[Any]], template: PyTree) -> str | None:
  """The first leaf in which a manifest's tree and the template differ."""
  wanted = _tree(template)
  for have, want in zip(tree, wanted, strict=False):
    if have != want:
      return f'holds {have}, where {want} is needed'
  if len(tree) != len(wanted):
    return f'holds {len(tree)} arrays, where {len(wanted)} are needed'
  return None


def _damage(folder: pathlib.Path, files: dict[str, Any]) -> str | None:
  """The first file that is not as it was written."""
  for name in sorted(files.keys() | set(_files(folder))):
    if name not in files:
      return f'has a file that was not saved with it, {name}'
    if not (folder / name).is_file():
      return f'lacks {name}'
    if _digest(folder / name) != files[name]:
      size = (folder / name).stat().st_size
      return f'is cut short or altered: {name} of {size} bytes'
  return None
