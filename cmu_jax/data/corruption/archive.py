"""Arrays from .npz files that a config names."""

import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from cmu_jax.core import errors

BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def read(path: str, names: dict[str, bool], field: str) -> dict[str, Any]:
  """Arrays of an .npz file by name.

  Args:
    path: of the file.
    names: name -> whether it has to be there.
    field: config.corruption.<field> gave the path, for error messages.

  Raises:
    UserError: no path, no such file, no archive of plain arrays, or a name
      that it lacks (with the nearest one it has).
  """
  where = f'config.corruption.{field}'
  errors.check(path, f'{where} is empty; give the path of an .npz file')
  file = pathlib.Path(path).expanduser()
  errors.check(file.is_file(), f'{where}: the file {file} does not exist')
  try:
    # Opened here, since np.load leaves the file open if it is cut short.
    with file.open('rb') as opened:
      archive: Any = np.load(opened, allow_pickle=False)
      # A single .npy is an array, of which no name can be asked.
      there = getattr(archive, 'files', None)
      found = {n: archive[n] for n in names if n in (there or ())}
  except BROKEN as error:
    raise errors.UserError(
      f'{where}: {file} is not a readable .npz of plain arrays '
      f'({errors.first_line(error)}); save it with np.savez'
    ) from error
  if there is None:
    raise errors.UserError(
      f'{where}: {file} is one array, not an .npz; save it with np.savez'
    )
  for name, required in names.items():
    if required and name not in found:
      raise errors.unknown(f'array in {file}', name, there)
  return found
