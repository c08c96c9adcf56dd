"""Cache of decoded images, in memory-mapped .npy files.

Each source with its options has a folder, written under a temporary name and
then renamed. Its contents.json has the size and checksum of every file.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cmu_jax.core import errors, files, progress
from cmu_jax.data.sources.common import SplitArrays

# Raised when the layout of a cache folder changes: old folders are left alone.
FORMAT = 1
CONTENTS = 'contents.json'
FIELDS = SplitArrays._fields[:4]
BLOCK = 1 << 26


def default_dir() -> pathlib.Path:
  """Returns $CMU_JAX_CACHE, or ~/.cache/cmu_jax."""
  folder = os.environ.get('CMU_JAX_CACHE') or '~/.cache/cmu_jax'
  return files.expand(folder)


def cache_folder(
  root: pathlib.Path, name: str, facts: Mapping[str, Any]
) -> pathlib.Path:
  """Returns the folder for the arrays of a source with these facts."""
  # The facts change with the files, so a changed source gets a new folder.
  text = json.dumps([FORMAT, name, facts], sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:16]
  readable = re.sub(r'[^A-Za-z0-9]+', '_', name)[-40:].strip('_')
  return root / f'{readable}-{digest}'


def _warn(message: str) -> None:
  print(f'cmu_jax: {message}', file=sys.stderr, flush=True)


def _checksum(array: np.ndarray) -> int:
  """Computes CRC-32 of the array's bytes, to find damage, not forgery."""
  # In blocks, so that a mapped array is never in memory as a whole.
  flat = array.reshape(-1).view(np.uint8)
  total = 0
  with progress.bar('checking the data cache', flat.size, 'bytes') as advance:
    for start in range(0, flat.size, BLOCK):
      block = flat[start : start + BLOCK]
      total = zlib.crc32(memoryview(block), total)
      advance(block.size)
  return total


def _read_array(path: pathlib.Path, entry: Mapping[str, int]) -> np.ndarray:
  """Maps a cached array; ValueError if it differs from the written array."""
  size = path.stat().st_size
  if size != entry['size']:
    raise ValueError(f'{path.name} has {size} bytes, not {entry["size"]}')
  # Mapped: arrays larger than the memory must not be read at once.
  array = np.load(path, mmap_mode='r', allow_pickle=False)
  if _checksum(array) != entry['crc32']:
    raise ValueError(f'{path.name} has another checksum')
  return array


def read(folder: pathlib.Path) -> SplitArrays | None:
  """Reads the arrays of a cache folder; None if it is absent or damaged."""
  try:
    if not folder.exists():
      return None
    contents = files.read_json(folder / CONTENTS)
    arrays = {
      field: _read_array(folder / f'{field}.npy', contents['files'][field])
      for field in FIELDS
    }
    return SplitArrays(**arrays, class_names=tuple(contents['class_names']))
  # A damaged cache is no mistake of the user: decode again.
  except (OSError, ValueError, KeyError, TypeError) as error:
    _warn(f'the data cache {folder} is damaged ({error}); decoding again')
    return None


def _write_arrays(folder: pathlib.Path, arrays: SplitArrays) -> None:
  """Writes the arrays and, last, their sizes and checksums."""
  entries = {}
  for field in FIELDS:
    array = np.ascontiguousarray(getattr(arrays, field))
    path = folder / f'{field}.npy'
    np.save(path, array, allow_pickle=False)
    entries[field] = {'size': path.stat().st_size, 'crc32': _checksum(array)}
  contents = {'files': entries, 'class_names': list(arrays.class_names)}
  files.write_json(folder / CONTENTS, contents)


def write(folder: pathlib.Path, arrays: SplitArrays) -> None:
  """Writes the arrays to `folder`, completely or not at all."""
  temporary: pathlib.Path | None = None
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(
      tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}.')
    )
    _write_arrays(temporary, arrays)
    # A folder that is there is damaged, or another process was quicker.
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
  except (OSError, ValueError) as error:
    # Without a cache the next run decodes again: slower, but no error.
    _warn(
      f'going on without a data cache in {folder.parent} ({error}); '
      'set CMU_JAX_CACHE to a writable folder'
    )
  finally:
    if temporary is not None:
      shutil.rmtree(temporary, ignore_errors=True)


def read_or_build(
  root: os.PathLike | str | None,
  name: str,
  facts: Mapping[str, Any],
  build: Callable[[], SplitArrays],
) -> SplitArrays:
  """Reads the arrays of earlier equal facts, or builds and writes them.

  Args:
    root: folder of all caches; None for `default_dir()`.
    name: the source as the user wrote it.
    facts: JSON values that change whenever the arrays would.
    build: decodes the source.
  """
  try:
    parent = default_dir() if root is None else files.expand(root)
  except errors.UserError as error:
    if root is not None:
      raise
    _warn(f'no data cache: {error}')
    return build()
  folder = cache_folder(parent, name, facts)
  arrays = read(folder)
  if arrays is None:
    arrays = build()
    write(folder, arrays)
  return arrays
