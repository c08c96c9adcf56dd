"""Exit codes, error lines and the environment of all commands.

No import of JAX: JAX reads its environment when it is imported, and mistakes on
the command line are reported without waiting for it.
"""

import argparse
import contextlib
import errno
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from cmu_jax.commands import terminal
from cmu_jax.core import errors, files

# In the cache of compiled programs: its time is that of the last check.
_CHECK_STAMP = '.checked'
# The user can free space or name another file; other errors are bugs.
_USER_ERRORS = {
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.ENAMETOOLONG,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.ELOOP,
}

# As JAX reads the variables of its environment.
_TRUE = ('1', 'true', 'yes', 'y', 'on', 't')
_OUT_OF_MEMORY = re.compile(
  'RESOURCE_EXHAUSTED|MemoryError|[Oo]ut of memory|allocate'
)


class Parser(argparse.ArgumentParser):
  """A parser that reports a bad flag like any other mistake."""

  def error(self, message: str) -> NoReturn:
    raise errors.UserError(f'{message}; see --help')


def run(
  command: Callable[[Sequence[str]], Any], argv: Sequence[str] | None
) -> int:
  """Runs a command and returns its exit code.

  Args:
    command: takes the arguments and returns the exit code, None for 0.
    argv: the arguments; None for those of the process, whose streams and
      signals then belong to the command.

  Returns:
    The code of the command; 2 after an error that the user can correct, with a
    line on stderr for each mistake; 130 after control-C.
  """
  if argv is not None:
    return _run(command, argv)
  terminal.protect_streams()
  terminal.stop_promptly()
  return _run(command, sys.argv[1:])


def _run(command: Callable[[Sequence[str]], Any], argv: Sequence[str]) -> int:
  try:
    return command(argv) or 0
  except KeyboardInterrupt:
    print(f'\n{terminal.INTERRUPTION}', file=sys.stderr)
    return terminal.INTERRUPTED
  except (errors.UserError, OSError) as error:
    if isinstance(error, OSError) and error.errno not in _USER_ERRORS:
      raise
    # Other errors may quote line breaks of a file or a library.
    multiple = isinstance(error, errors.MultipleErrors)
    for line in str(error).splitlines() if multiple else [str(error)]:
      print(f'error: {" ".join(line.split())}', file=sys.stderr)
    return 2


def run_script(main: Callable[[], Any]) -> NoReturn:
  """Runs a script that reads its flags itself, with the exit codes of `run`."""
  sys.exit(run(lambda _: main(), None))


@contextlib.contextmanager
def report_device_errors(remedy: str) -> Iterator[None]:
  """Turns an absent device and exhausted memory into an error of one line.

  Args:
    remedy: what lowers the need for memory.
  """
  try:
    # JAX reads its settings when it is imported, and starts on first use.
    from cmu_jax.core import jit

    jit.announce_compilations()
    jit.device_count()
  except (RuntimeError, AssertionError, ValueError) as error:
    reason = str(error) or 'no platform of JAX_PLATFORMS is available'
    raise errors.UserError(
      f'JAX has no device to run on: {reason}; install its plug-in, or set '
      'JAX_PLATFORMS=cpu'
    ) from error
  try:
    yield
  except (RuntimeError, MemoryError) as error:
    if not _OUT_OF_MEMORY.search(f'{type(error).__name__} {error}'):
      raise
    raise errors.UserError(
      f'out of memory: {errors.first_line(error)}; {remedy}'
    ) from error


def set_up() -> None:
  """Sets the environment of JAX; settings of the user take precedence."""
  ignore_unusable_backend()
  # Else the same seed would draw other numbers.
  if os.environ.get('JAX_ENABLE_X64', '').lower() in _TRUE:
    print('JAX_ENABLE_X64 is ignored: networks are float32', file=sys.stderr)
    os.environ['JAX_ENABLE_X64'] = '0'
  # Without an accelerator plug-in, JAX would search for a TPU and warn.
  if not _has_accelerator():
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  cache = os.environ.get('CMU_JAX_CACHE') or '~/.cache/cmu_jax'
  try:
    folder = files.expand(cache) / 'jax'
    folder.mkdir(parents=True, exist_ok=True)
    remove_truncated_programs(folder)
  except (OSError, errors.UserError) as error:
    print(f'no compilation cache: {error}', file=sys.stderr)
    return
  # A program that cannot be stored is compiled again: no action is needed.
  warnings.filterwarnings('ignore', r'Error (writing|reading) persistent comp')
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder))
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '0')


def ignore_unusable_backend() -> None:
  """Imports matplotlib, even if MPLBACKEND names an absent backend.

  Figures are drawn into files, which needs no backend.
  """
  if 'matplotlib' in sys.modules:
    return
  # Notebooks hand the name of their backend to every process that they start.
  backend = os.environ.pop('MPLBACKEND', None)
  import matplotlib

  if backend is None:
    return
  os.environ['MPLBACKEND'] = backend
  # The caller of a function may use the backend afterwards.
  with contextlib.suppress(ValueError):
    matplotlib.rcParams['backend'] = backend


def compile_quickly() -> None:
  """Makes XLA compile quickly on a CPU, for smoke runs; before JAX computes.

  Without fusion emitters, compilation takes half the time, and the programs
  run a third slower.
  """
  # Later versions of jaxlib have no such flag, and XLA aborts on unknown flags.
  if importlib.metadata.version('jaxlib').startswith('0.10.'):
    os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')


def _has_accelerator() -> bool:
  """True if a JAX plug-in for a GPU or TPU is installed."""
  packages = any(map(importlib.util.find_spec, ('jax_plugins', 'libtpu')))
  return packages or bool(importlib.metadata.entry_points(group='jax_plugins'))


def remove_truncated_programs(folder: pathlib.Path) -> int:
  """Removes truncated entries of a cache; checks each entry once.

  Args:
    folder: JAX's persistent compilation cache.

  Returns:
    The number of removed entries.

  Raises:
    OSError: the folder cannot be read or written.
  """
  # JAX writes entries in place and never replaces an existing one: every later
  # run would complain about an entry that a kill or a full disk truncated.
  stamp, start = folder / _CHECK_STAMP, time.time()
  since = stamp.stat().st_mtime if stamp.exists() else 0.0
  removed = 0
  for path in folder.glob('*-cache'):
    if path.stat().st_mtime >= since and _is_truncated(path):
      path.unlink()
      removed += 1
  stamp.touch()
  # Entries that are written during this check are checked the next time.
  os.utime(stamp, (start, start))
  return removed


def _is_truncated(path: pathlib.Path) -> bool:
  """True for a zlib stream without an end; other formats are not checked."""
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
