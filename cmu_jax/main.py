"""The command line: python -m cmu_jax.main --config=FILE.py[:ARG]."""

import errno
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence

from cmu_jax import compilations, errors, grid, usage, workdir
from cmu_jax import config as config_lib

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns the exit code.

  Args:
    argv: the arguments; those of the process if None.

  Returns:
    0; 2 after an error the user can mend, told in one line on stderr; 130
    after control-C.
  """
  try:
    return _run(sys.argv[1:] if argv is None else argv)
  except KeyboardInterrupt:
    print(
      '\ninterrupted: the same command continues from the last checkpoint',
      file=sys.stderr,
    )
    return 130
  except (errors.UserError, OSError) as error:
    if isinstance(error, OSError) and error.errno not in _NO_ROOM:
      raise
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    return 2


def _run(argv: Sequence[str]) -> int:
  flags, overrides = usage.parse(argv)
  # Before the config file, which imports JAX: it reads its environment then.
  _set_up()
  loaded = config_lib.load(flags.config, overrides) if flags.config else None
  if flags.help or loaded is None:
    print(usage.text(pathlib.Path('configs'), loaded))
    return 0
  folder = pathlib.Path(flags.workdir or f'runs/{loaded.name}').expanduser()
  if flags.sweep:
    return grid.run(loaded, overrides, folder, _execute)
  _execute(loaded, folder)
  return 0


def _execute(loaded: config_lib.Loaded, folder: pathlib.Path) -> None:
  """Runs one experiment; JAX is imported only now, so that errors are quick."""
  with workdir.opened(folder, loaded.config):
    experiment = importlib.import_module('cmu_jax.run').experiment
    experiment(loaded.config, folder)


def _set_up() -> None:
  """Environment for JAX, which the user's own settings override."""
  # Without any accelerator plug-in JAX would still look for a TPU, and say so.
  if not _accelerator():
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  cache = os.environ.get('CMU_JAX_CACHE') or '~/.cache/cmu_jax'
  folder = pathlib.Path(cache).expanduser() / 'jax'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    compilations.mend(folder)
  except OSError as error:
    print(f'no compilation cache: {error}', file=sys.stderr)
    return
  # A program that cannot be kept is compiled again: nobody has to do anything.
  warnings.filterwarnings('ignore', r'Error (writing|reading) persistent comp')
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder))
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '0')


def _accelerator() -> bool:
  """Whether a JAX plug-in for a GPU or TPU is installed."""
  packages = any(map(importlib.util.find_spec, ('jax_plugins', 'libtpu')))
  return packages or bool(importlib.metadata.entry_points(group='jax_plugins'))


if __name__ == '__main__':
  sys.exit(main())
