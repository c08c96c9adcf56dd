"""The folder of compiled programs, cleared of what a killed process cut short.

JAX writes an entry in place and never replaces one that is there, so an entry
which was cut short by a kill or a full disk would be complained about, and
compiled anew, by every run to come.

What every command of this package does the same way: set-up, exit codes.
"""

import argparse
import errno
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cmu_jax.core import errors

_CHECK_STAMP = '.checked'


def remove_truncated_programs(folder: pathlib.Path) -> int:
  """Drops the entries that are cut short; looks at each one once.

  Args:
    folder: of JAX's persistent compilation cache.

  Returns:
    How many were dropped.

  Raises:
    OSError: the folder cannot be read or written.
  """
  stamp, began = folder / _CHECK_STAMP, time.time()
  since = stamp.stat().st_mtime if stamp.exists() else 0.0
  dropped = 0
  for path in folder.glob('*-cache'):
    if path.stat().st_mtime >= since and _is_truncated(path):
      path.unlink()
      dropped += 1
  stamp.touch()
  # What is written while this looks around is looked at the next time.
  os.utime(stamp, (began, began))
  return dropped


def _is_truncated(path: pathlib.Path) -> bool:
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


_UNWRITABLE = {
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
}


class Parser(argparse.ArgumentParser):
  """Reports a bad flag as every other mistake is reported."""

  def error(self, message: str) -> NoReturn:
    raise errors.UserError(f'{message}; see --help')


def run(
  command: Callable[[Sequence[str]], Any], argv: Sequence[str] | None
) -> int:
  """Runs a command and returns its exit code.

  Args:
    command: takes the arguments; what it returns is the exit code, None for 0.
    argv: the arguments; those of the process if None.

  Returns:
    The command's own; 2 after an error the user can mend, told on stderr in
    one line a mistake; 130 after control-C.
  """
  try:
    return command(sys.argv[1:] if argv is None else argv) or 0
  except KeyboardInterrupt:
    print(
      '\ninterrupted: the same command continues from the last checkpoint',
      file=sys.stderr,
    )
    return 130
  except (errors.UserError, OSError) as error:
    if isinstance(error, OSError) and error.errno not in _UNWRITABLE:
      raise
    several = isinstance(error, errors.MultipleErrors)
    for line in str(error).splitlines() if several else [str(error)]:
      print(f'error: {" ".join(line.split())}', file=sys.stderr)
    return 2


def run_script(main: Callable[[], Any]) -> NoReturn:
  """Runs a script that reads its flags itself, with the exit codes of `run`."""
  sys.exit(run(lambda _: main(), None))


def set_up() -> None:
  """Environment for JAX, which the user's own settings override."""
  # Without any accelerator plug-in JAX would still look for a TPU, and say so.
  if not _has_accelerator():
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  cache = os.environ.get('CMU_JAX_CACHE') or '~/.cache/cmu_jax'
  folder = pathlib.Path(cache).expanduser() / 'jax'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    remove_truncated_programs(folder)
  except OSError as error:
    print(f'no compilation cache: {error}', file=sys.stderr)
    return
  # A program that cannot be kept is compiled again: nobody has to do anything.
  warnings.filterwarnings('ignore', r'Error (writing|reading) persistent comp')
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder))
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '0')


def compile_quickly() -> None:
  """Has XLA compile quickly on a CPU, for smoke runs; before JAX computes.

  Without the emitters of fusions a compilation takes half the time, and what
  is compiled runs a third slower. Later versions of jaxlib have no such choice,
  and XLA ends a process that names a flag it does not know.
  """
  if importlib.metadata.version('jaxlib').startswith('0.10.'):
    os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')


def _has_accelerator() -> bool:
  """Whether a JAX plug-in for a GPU or TPU is installed."""
  packages = any(map(importlib.util.find_spec, ('jax_plugins', 'libtpu')))
  return packages or bool(importlib.metadata.entry_points(group='jax_plugins'))
