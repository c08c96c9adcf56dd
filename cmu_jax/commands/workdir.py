"""The folder of a run: of a single config, written by a process at a time."""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import IO, Any

from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, files

CONFIG_FILE = 'config.json'
# Of a page, its figures and its numbers together.
PAGE_BYTES = 5_000_000
# Files from before the first training; later files are products of the run.
_CLAIM_FILES = (CONFIG_FILE, 'corruption.json')
_PRODUCTS = ('checkpoints', 'results.json')
# Weights that a command writes, with the files beside them.
_WEIGHTS = re.compile(r'(repaired|unlearned)(\..+)?|head\.npz')
# Flags of files and of folders that a command reads.
_INPUT_FLAGS = (
  *('weights', 'model', 'scores', 'proxy', 'ordinary', 'forget', 'retain'),
  *('test', 'members', 'nonmembers', 'data', 'probabilities'),
)
_HEAD_OPTION = re.compile('head=([^,]+)')
_OUTPUT_FOLDERS = (
  '.',
  'cells',
  'originals',
  'figures',
  'tables',
  'tensorboard',
  'suspects',
)


@contextlib.contextmanager
def open_run(
  folder: pathlib.Path, config: Any, flag: str = '--workdir'
) -> Iterator[pathlib.Path]:
  """Makes or continues the work folder of a config, and locks it.

  Args:
    folder: created if absent. config.json is written to it, and removed if
      the run ends in a UserError before any training.
    config: of the run.
    flag: the flag with which the user names the folder.

  Yields:
    The folder.

  Raises:
    UserError: the folder cannot be written, another run is using it, or it
      holds a run of another config.
  """
  with lock(folder, flag):
    _claim_folder(folder, config_lib.to_json(config), flag)
    try:
      yield folder
    except errors.UserError:
      # The corrected command must be able to use the same folder.
      _release_claim(folder)
      raise


@contextlib.contextmanager
def lock(
  folder: pathlib.Path, flag: str = '--workdir'
) -> Iterator[pathlib.Path]:
  """Makes or continues a work folder of any config, and locks it.

  Raises:
    UserError: the folder cannot be written, or another run is using it.
  """
  with _take_lock(folder, flag):
    # A killed process leaves temporary files; under the lock they are nobody's.
    for name in _OUTPUT_FOLDERS:
      files.remove_temporaries(folder / name)
    yield folder


def check_inputs(folder: pathlib.Path, request: Any) -> None:
  """Refuses an output folder in which a run would write over its inputs.

  Args:
    folder: of the output, which may not exist.
    request: a NamedTuple of the user's flags.

  Raises:
    UserError: names the input.
  """
  products = _find_weights(folder)
  for flag, path in _existing_inputs(request):
    errors.check(
      not any(map(path.samefile, products)),
      f'--out={folder} is the folder of --{flag}={path}, which the run would '
      'write over; choose another --out',
    )
    # The next run would read the figures of this run as pictures.
    errors.check(
      not (path.is_dir() and _share_files(folder.resolve(), path.resolve())),
      f'--out={folder} is the folder of --{flag}={path} or shares files with '
      'it; choose another --out',
    )
  # Weights of these names from elsewhere are somebody's too.
  claimed = (folder / CONFIG_FILE).exists()
  foreign = [] if claimed else [p for p in products if _holds_weights(p)]
  errors.check(
    not foreign,
    f'{folder} holds {", ".join(path.name for path in foreign)}, which no run '
    'in this folder wrote; choose another --out',
  )


def check_space(
  folder: pathlib.Path, needed: int = PAGE_BYTES, flag: str = '--workdir'
) -> None:
  """Checks that a disk has room, before anything is computed.

  Args:
    folder: of the results, which exists.
    needed: bytes.
    flag: the flag with which the user names the folder.

  Raises:
    UserError: the disk is too full.
  """
  free = shutil.disk_usage(folder).free
  errors.check(
    free >= needed,
    f'{folder} has {free / 1e6:.0f} MB of free space, the results need '
    f'{needed / 1e6:.0f} MB: free some, or choose another {flag}',
  )


def _share_files(folder: pathlib.Path, source: pathlib.Path) -> bool:
  """Tests whether a run would write into a folder that it reads."""
  return folder.is_relative_to(source) or any(
    source.is_relative_to(folder / name) for name in _OUTPUT_FOLDERS[1:]
  )


def _existing_inputs(request: Any) -> Iterator[tuple[str, pathlib.Path]]:
  """Flags of a request with the files and folders that they name."""
  for flag in _INPUT_FLAGS:
    value = getattr(request, flag, None) or ''
    # A model may have the file of a head among its options.
    texts = _HEAD_OPTION.findall(value) if flag == 'model' else [value]
    for path in (files.expand(text) for text in texts if text):
      if path.exists():
        yield flag, path


def _find_weights(folder: pathlib.Path) -> list[pathlib.Path]:
  """Entries of a folder under the names of weights that a command writes."""
  if not folder.is_dir():
    return []
  return [p for p in sorted(folder.iterdir()) if _WEIGHTS.fullmatch(p.name)]


def _holds_weights(path: pathlib.Path) -> bool:
  """True for a file, and for a folder of Orbax; false for that of a run."""
  return path.is_file() or (path / '_METADATA').exists()


def _take_lock(folder: pathlib.Path, flag: str) -> IO[str]:
  """Locks a folder by an open file."""
  text = str(folder)
  # Libraries that write checkpoints refuse them, at the end of a training.
  errors.check(
    text.encode(errors='replace') == os.fsencode(text),
    f'the name of the work folder {text} is not UTF-8: choose another {flag}',
  )
  try:
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / '.lock').open('a+', encoding='utf-8')
  except OSError as error:
    raise errors.UserError(
      f'cannot use the work folder {folder}: {error.strerror}; '
      f'choose a writable one with {flag}'
    ) from error
  # The system drops the lock when the process ends, even if it is killed.
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    # The holder wrote its process id after it took the lock.
    holder = file.read().strip() or 'unknown'
    file.close()
    raise errors.UserError(
      f'the work folder {folder} is in use by process {holder}: wait for it, '
      f'or choose another {flag}'
    ) from error
  file.truncate(0)
  file.write(f'{os.getpid()}\n')
  file.flush()
  return file


def _claim_folder(
  folder: pathlib.Path, config: dict[str, Any], flag: str
) -> None:
  """Writes config.json, or compares an existing one with this config."""
  path = folder / CONFIG_FILE
  if not path.exists():
    files.write_json(path, config)
    return
  stored = files.read_json(path)
  errors.check(
    isinstance(stored, dict),
    f'{path} is not a config: choose another {flag}',
  )
  if stored != config:
    raise errors.UserError(
      f'{folder} holds a run of another config '
      f'({_describe_changes(stored, config)}): '
      f'choose another {flag}, or remove the folder to start afresh'
    )


def _release_claim(folder: pathlib.Path) -> None:
  """Frees a folder without products of a run for the next config."""
  products = [p for name in _PRODUCTS if (p := folder / name).exists()]
  if not any((*products, *map(_holds_weights, _find_weights(folder)))):
    for name in _CLAIM_FILES:
      (folder / name).unlink(missing_ok=True)


def _describe_changes(stored: dict[str, Any], config: dict[str, Any]) -> str:
  """The different fields, at most four of them with their values."""
  old, new = config_lib.flatten(stored), config_lib.flatten(config)
  keys = [
    key
    for key in sorted(old.keys() | new.keys())
    if key not in old or key not in new or old[key] != new[key]
  ]
  changes = [
    f'{key}: {old.get(key, "absent")} there, {new.get(key, "absent")} here'
    for key in keys[:4]
  ]
  if len(keys) > 4:
    changes.append(f'and {len(keys) - 4} more')
  # An empty group has no field, so configs may differ without a changed key.
  return '; '.join(changes) or 'an empty group differs'
