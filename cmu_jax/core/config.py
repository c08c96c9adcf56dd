"""Configs: Python files with get_config(arg), changed on the command line.

A config file has a docstring, `get_config(arg: str = '') -> ConfigDict` and,
for a grid of runs, `sweep(add)`, which calls add(**arguments) for every run.
`FILE:word,key=value` passes the text after the colon as arg.
"""

import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import math
import pathlib
import re
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_collections

from cmu_jax.core import errors, files, literals


class LoadedConfig(NamedTuple):
  """A config with the facts of its file.

  Attributes:
    config: locked, with the overrides applied.
    name: of the config and its argument, fit for a folder.
    doc: docstring of the file.
    path: of the file, as the user wrote it.
    arg: the text after the colon.
    sweep: the file's sweep(add), or None.
  """

  config: ml_collections.ConfigDict
  name: str
  doc: str
  path: str
  arg: str
  sweep: Callable | None


def parse_arg(arg: str, **defaults: Any) -> types.SimpleNamespace:
  """Reads the text after the colon, 'smoke,noise=0.6,seeds=0+1', by defaults.

  Args:
    arg: comma-separated key=value; a word alone means word=true.
    **defaults: all keys; the default of a key gives its type.

  Returns:
    The defaults, replaced by the values in `arg`.

  Raises:
    UserError: an unknown or repeated key, or a value of another type.
  """
  values = dict(defaults)
  keys: set[str] = set()
  for item in arg.split(',') if arg else ():
    key, equals, text = (word.strip() for word in item.partition('='))
    if key not in defaults:
      raise errors.unknown_name('config argument', key, defaults)
    errors.check(key not in keys, f"config argument '{key}' is given twice")
    field = f"config argument '{key}'"
    text = text if equals else 'true'
    if not equals and not isinstance(defaults[key], bool):
      raise errors.UserError(f'{field} needs a value: {key}={defaults[key]}')
    # Items are separated by +, because commas separate the arguments.
    values[key] = literals.parse(text, defaults[key], field, '+')
    keys.add(key)
  return types.SimpleNamespace(**values)


def load(spec: str, overrides: Mapping[str, str] | None = None) -> LoadedConfig:
  """Reads a config file and applies the overrides.

  Args:
    spec: 'FILE.py' or 'FILE.py:ARG'.
    overrides: dotted field -> text, typed by the value that it replaces.

  Raises:
    UserError: the file is missing, is not a config or fails; a field is
      unknown; a value has the wrong type or cannot be written as JSON.
  """
  path, arg = _split_spec(spec)
  module = _import_file(path)
  get_config: Any = getattr(module, 'get_config', None)
  errors.check(
    callable(get_config),
    f'{path} has no get_config(arg): a config file defines '
    "get_config(arg: str = '') -> ml_collections.ConfigDict",
  )
  # Without an argument get_config may have no parameter.
  config = _call_user_code(path, lambda: get_config(*filter(None, [arg])))
  errors.check(
    isinstance(config, ml_collections.ConfigDict),
    f'get_config of {path} returns {type(config).__name__}, '
    'not an ml_collections.ConfigDict',
  )
  for field, text in (overrides or {}).items():
    _apply_override(config, field, text)
  _pin_weights(config)
  # Refuses values that results.json and the fingerprint could not hold.
  to_json(config)
  stem = pathlib.Path(path).stem
  # Safe as the name of a folder on all file systems.
  name = re.sub(r'[^\w.,=+-]+', '_', f'{stem}-{arg}' if arg else stem)
  doc = inspect.cleandoc(module.__doc__ or '')
  sweep = getattr(module, 'sweep', None)
  # Locked, so that a misspelt field raises an error instead of being added.
  return LoadedConfig(config.lock(), name, doc, path, arg, sweep)


def _pin_weights(config: ml_collections.ConfigDict) -> None:
  """Records the digest of `model.weights` among the settings."""
  model = config.get('model')
  pinned = isinstance(model, ml_collections.ConfigDict)
  if not pinned or not model.get('weights') or 'weights_sha256' not in model:
    return
  # Other weights at the same path are then another run; so is another
  # config.json beside them, which describes the network.
  path = files.expand(model.weights)
  digest = files.digest(path, path.parent / 'config.json')
  errors.check(
    model.weights_sha256 in ('', digest),
    f'config.model.weights_sha256 is {model.weights_sha256}, but the content '
    f'of {path} gives {digest}; leave it out, or take the weights that it was '
    'written for',
  )
  model.weights_sha256 = digest


def to_json(config: Any, path: str = 'config') -> Any:
  """Converts a config to JSON values: dicts, lists and scalars.

  Raises:
    UserError: a value of another type, or a number that is not finite.
  """
  if isinstance(config, (Mapping, ml_collections.ConfigDict)):
    return {
      str(key): to_json(value, f'{path}.{key}') for key, value in config.items()
    }
  if isinstance(config, (tuple, list)):
    return [to_json(value, f'{path}[{i}]') for i, value in enumerate(config)]
  # By exact type: a subclass, such as a NumPy float, would not survive JSON.
  finite = not isinstance(config, float) or math.isfinite(config)
  if type(config) in (str, int, float, bool, type(None)) and finite:
    return config
  raise errors.UserError(
    f'{path} is {config!r}: a config holds only strings, bools, finite '
    'numbers, None and tuples of these'
  )


def fingerprint(config: Any) -> str:
  """Computes SHA-256 of a config, of a part of it, or of a dict of parts.

  It depends on names and values, not on their order, nor on tuple or list.
  """
  text = json.dumps(to_json(config), sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


def flatten(config: Any) -> dict[str, Any]:
  """Values of all fields by their dotted names."""
  return dict(_walk(config, ''))


def sweep_cells(loaded: LoadedConfig) -> dict[str, str]:
  """Lists the cells of a sweep: their name -> the spec that `load` takes.

  Raises:
    UserError: the file has no sweep(add), or sweep fails, adds no cell, or adds
      the same cell twice.
  """
  errors.check(
    callable(loaded.sweep),
    f'{loaded.path} has no sweep(add): leave --sweep out or add one',
  )
  specs: dict[str, str] = {}

  def add(**arguments: Any) -> None:
    cell = ','.join(f'{key}={_to_text(arguments[key])}' for key in arguments)
    name = re.sub(r'[^\w.,=+-]+', '_', cell)
    errors.check(cell, f'sweep of {loaded.path} adds a cell without arguments')
    errors.check(
      name not in specs, f"sweep of {loaded.path} adds '{cell}' twice"
    )
    arg = ','.join(filter(None, (loaded.arg, cell)))
    specs[name] = f'{loaded.path}:{arg}'

  sweep: Any = loaded.sweep
  _call_user_code(loaded.path, lambda: sweep(add))
  errors.check(specs, f'sweep of {loaded.path} adds no cell')
  return specs


def _to_text(value: Any) -> str:
  """Formats a value for `parse_arg`."""
  if isinstance(value, (tuple, list)):
    return '+'.join(map(_to_text, value))
  return str(value).lower() if isinstance(value, bool) else str(value)


def _walk(config: Any, prefix: str) -> Iterator[tuple[str, Any]]:
  for key, value in config.items():
    if isinstance(value, (Mapping, ml_collections.ConfigDict)):
      yield from _walk(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


def _split_spec(spec: str) -> tuple[str, str]:
  """Splits 'a/b.py:arg' into file and argument; checks that the file exists."""
  stem, dot, arg = spec.partition('.py:')
  path = stem + '.py' if dot else spec
  file = pathlib.Path(path)
  is_python = file.suffix == '.py'
  if is_python and file.is_file():
    return path, arg
  installed = installed_configs()
  if is_python and path in installed:
    return str(installed[path]), arg
  raise _unknown_file(spec, installed)


def _unknown_file(spec: str, installed: Iterable[str]) -> errors.UserError:
  """Builds the error for a config that does not exist, with the closest one."""
  path, colon, arg = spec.replace('.py:', ':').partition(':')
  file = pathlib.Path(path)
  folders = dict.fromkeys((file.parent, pathlib.Path('configs')))
  beside = [near for folder in folders for near in folder.glob('*.py')]
  # People leave out the folder, the suffix, or both.
  stems = {pathlib.Path(name).stem: str(name) for name in installed}
  stems |= {near.stem: str(near) for near in reversed(beside)}
  close = errors.closest_name(file.stem, stems)
  if close is not None:
    meant = f'{stems[close]}{colon}{arg}'
    return errors.UserError(
      f"unknown config file '{spec}': did you mean '{meant}'?"
    )
  if file.suffix != '.py':
    return errors.UserError(
      f"--config={spec} is not a Python file such as 'configs/cuts_digits.py'"
    )
  return errors.unknown_name('config file', path, stems.values())


def installed_configs() -> dict[str, pathlib.Path]:
  """Finds the configs that the installed package brought along.

  Returns:
    'configs/NAME.py' -> the file.
  """
  try:
    recorded = importlib.metadata.files('cmu_jax') or ()
  except importlib.metadata.PackageNotFoundError:
    return {}
  result = {}
  for file in recorded:
    if file.parts[-3:-1] == ('cmu_jax', 'configs') and file.suffix == '.py':
      path = pathlib.Path(str(file.locate())).resolve()
      if not path.exists():
        # `pip install --target` moves data files, and keeps the old record.
        moved = '/'.join(file.parts[-4:])
        path = pathlib.Path(str(file.dist.locate_file(moved)))
      result[f'configs/{file.name}'] = path
  return result


def _import_file(path: str) -> types.ModuleType:
  # A name of its own: a config called jax.py must not shadow the library.
  name = f'cmu_jax_config_{pathlib.Path(path).stem}'
  spec: Any = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  _call_user_code(path, lambda: spec.loader.exec_module(module))
  return module


def _call_user_code(path: str, call: Callable[[], Any]) -> Any:
  """Calls code of a config file; turns its errors into one-line ones."""
  try:
    return call()
  except errors.UserError:
    raise
  except (Exception, SystemExit) as error:
    # The last line of the user's file, not of the library that it called.
    frames = traceback.extract_tb(error.__traceback__)
    file = str(pathlib.Path(path).absolute())
    lines = [frame.lineno for frame in frames if frame.filename == file]
    line = getattr(error, 'lineno', None) or (lines[-1] if lines else None)
    location = f'{path} line {line}' if line else path
    text = ' '.join(str(error).split())
    raise errors.UserError(
      f'{location}: {type(error).__name__}: {text}'
    ) from error


def _apply_override(
  config: ml_collections.ConfigDict, field: str, text: str
) -> None:
  fields = flatten(config)
  if any(key.startswith(f'{field}.') for key in fields):
    example = next(key for key in fields if key.startswith(f'{field}.'))
    raise errors.UserError(
      f'--config.{field} is a group: set one of its fields, as in '
      f'--config.{example}={fields[example]}'
    )
  if field not in fields:
    raise errors.unknown_name('config field', field, fields)
  value = literals.parse(text, fields[field], f'--config.{field}')
  group, _, leaf = field.rpartition('.')
  parent = config
  for key in filter(None, group.split('.')):
    parent = parent[key]
  # A ConfigDict refuses a new type, but a field that is None may take any.
  with parent.ignore_type():
    parent[leaf] = value
