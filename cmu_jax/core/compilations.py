"""The folder of compiled programs, cleared of what a killed process cut short.

JAX writes an entry in place and never replaces one that is there, so an entry
which was cut short by a kill or a full disk would be complained about, and
compiled anew, by every run to come.
"""

import os
import pathlib
import time
import zlib

_CHECKED = '.checked'


def mend(folder: pathlib.Path) -> int:
  """Drops the entries that are cut short; looks at each one once.

  Args:
    folder: of JAX's persistent compilation cache.

  Returns:
    How many were dropped.

  Raises:
    OSError: the folder cannot be read or written.
  """
  stamp, began = folder / _CHECKED, time.time()
  since = stamp.stat().st_mtime if stamp.exists() else 0.0
  dropped = 0
  for path in folder.glob('*-cache'):
    if path.stat().st_mtime >= since and _cut_short(path):
      path.unlink()
      dropped += 1
  stamp.touch()
  # What is written while this looks around is looked at the next time.
  os.utime(stamp, (began, began))
  return dropped


def _cut_short(path: pathlib.Path) -> bool:
  """Whether a zlib stream does not reach its end; others are left alone."""
  data = path.read_bytes()
  if not data:
    return True
  if data[0] != 0x78:
    return False
  stream = zlib.decompressobj()
  try:
    stream.decompress(data)
  except zlib.error:
    return True
  return not stream.eof
