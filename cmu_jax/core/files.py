"""Files written whole: a temporary name in the same folder, then a rename."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from cmu_jax.core import errors

# '.' + the final name + '.' + what tempfile makes up + '.part'
_TEMPORARY = re.compile(r'\..+\.[a-z0-9_]{8}\.part')


@contextlib.contextmanager
def atomic_path(path: os.PathLike | str) -> Iterator[pathlib.Path]:
  """Yields a temporary path that becomes `path` if the block succeeds.

  Raises:
    UserError: the folder cannot be written or the disk is full. The file that
      was there before, if any, is left as it was.
  """
  path = pathlib.Path(path)
  temporary: pathlib.Path | None = None
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
      dir=path.parent, prefix=f'.{path.name}.', suffix='.part'
    )
    os.close(handle)
    temporary = pathlib.Path(name)
    yield temporary
    with temporary.open('rb') as written:
      os.fsync(written.fileno())
    temporary.chmod(0o644)
    temporary.replace(path)
  except OSError as error:
    raise errors.UserError(
      f'cannot write {path}: {error.strerror or error}; free some space or '
      'choose a writable folder'
    ) from error
  finally:
    if temporary is not None:
      temporary.unlink(missing_ok=True)


def remove_temporaries(folder: os.PathLike | str) -> None:
  """Drops the temporaries that a killed process left in a folder.

  Only for a folder that no other process is writing to.
  """
  for path in pathlib.Path(folder).glob('.*.part'):
    if _TEMPORARY.fullmatch(path.name) and path.is_file():
      path.unlink()


def write(path: os.PathLike | str, save: Callable[[IO[bytes]], Any]) -> None:
  """Calls save(file) on a temporary binary file, then renames it to path."""
  with atomic_path(path) as temporary, temporary.open('wb') as file:
    save(file)


def digest(*paths: os.PathLike | str) -> str:
  """SHA-256 of the names and bytes of files, and of all files in folders.

  Args:
    *paths: one that does not exist counts as nothing.

  Raises:
    UserError: a file cannot be read.
  """
  total = hashlib.sha256()
  for path in map(pathlib.Path, paths):
    inside = sorted(p for p in path.rglob('*') if p.is_file())
    for file in [path] if path.is_file() else inside:
      try:
        with file.open('rb') as opened:
          content = hashlib.file_digest(opened, 'sha256').hexdigest()
      except OSError as error:
        raise errors.UserError(
          f'cannot read {file}: {error.strerror}; check its permissions'
        ) from error
      total.update(f'{file.relative_to(path)} {content}\n'.encode())
  return total.hexdigest()


def write_text(path: os.PathLike | str, text: str) -> None:
  """Writes UTF-8 text whole."""
  write(path, lambda file: file.write(text.encode()))


def write_json(path: os.PathLike | str, value: Any) -> None:
  """Writes JSON whole; NaN and infinities are refused (ValueError)."""
  write_text(path, json.dumps(value, indent=1, allow_nan=False) + '\n')


def read_json(path: os.PathLike | str) -> Any:
  """Reads a JSON file; a broken or unreadable one is a UserError."""
  try:
    return json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise errors.UserError(f'cannot read {path}: {error}') from error
