"""Files that are whole or absent: a temporary name, then a rename."""

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

# '.' + the final name + '.' + tempfile's random letters + '.part'
_TEMPORARY = re.compile(r'\..+\.[a-z0-9_]{8}\.part')


def expand(path: os.PathLike | str) -> pathlib.Path:
  """Replaces ~ in the path of a user, and checks that a file can have it.

  Raises:
    UserError: the home folder is unknown, or the name is too long or holds a
      null character.
  """
  try:
    expanded = pathlib.Path(path).expanduser()
    # An absent file is the business of the caller.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
      expanded.stat()
  except RuntimeError as error:
    user = pathlib.Path(path).parts[0]
    raise errors.UserError(
      f'{path}: the home folder of {user} is unknown; write the path without ~'
    ) from error
  except (OSError, ValueError) as error:
    text = str(path)
    shown = text if len(text) < 100 else f'{text[:60]}...'
    reason = getattr(error, 'strerror', None) or error
    raise errors.UserError(
      f'cannot use the path {shown!r}: {reason}'
    ) from error
  return expanded


@contextlib.contextmanager
def atomic_path(path: os.PathLike | str) -> Iterator[pathlib.Path]:
  """Yields a temporary path that becomes `path` if the block succeeds.

  Raises:
    UserError: the folder is not writable or the disk is full. An earlier file
      of this name is unchanged.
  """
  path = pathlib.Path(path)
  temporary: pathlib.Path | None = None
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename across file systems is a copy.
    handle, name = tempfile.mkstemp(
      dir=path.parent, prefix=f'.{path.name}.', suffix='.part'
    )
    os.close(handle)
    temporary = pathlib.Path(name)
    yield temporary
    # Without fsync a power failure may leave the new name with empty content.
    with temporary.open('rb') as file:
      os.fsync(file.fileno())
    # mkstemp makes the file readable by its owner only.
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
  """Removes the temporary files of a killed process from a folder.

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
  """Computes SHA-256 of the names and bytes of files and folders.

  Args:
    *paths: files, and folders with all files in them; absent ones are skipped.

  Raises:
    UserError: a file cannot be read.
  """
  total = hashlib.sha256()
  for path in map(pathlib.Path, paths):
    content = sorted(p for p in path.rglob('*') if p.is_file())
    for file in [path] if path.is_file() else content:
      try:
        with file.open('rb') as stream:
          checksum = hashlib.file_digest(stream, 'sha256').hexdigest()
      except OSError as error:
        raise errors.UserError(
          f'cannot read {file}: {error.strerror}; check its permissions'
        ) from error
      total.update(f'{file.relative_to(path)} {checksum}\n'.encode())
  return total.hexdigest()


def write_text(path: os.PathLike | str, text: str) -> None:
  """Writes UTF-8 text."""
  write(path, lambda file: file.write(text.encode(errors='backslashreplace')))


def write_json(path: os.PathLike | str, value: Any) -> None:
  """Writes JSON; NaN and infinities are refused (ValueError)."""
  # json.dumps would write them as NaN, which other readers of JSON refuse.
  write_text(path, json.dumps(value, indent=1, allow_nan=False) + '\n')


def read_json(path: os.PathLike | str) -> Any:
  """Reads a JSON file; a broken or unreadable file is a UserError."""
  try:
    return json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise errors.UserError(f'cannot read {path}: {error}') from error
