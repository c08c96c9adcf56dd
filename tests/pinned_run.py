"""Smoke runs, reduced to the numbers that no change of the code may move."""

import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import re

from cmu_jax import main

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = pathlib.Path(__file__).parent / 'pinned'
# Folders of a run whose files are named by their address.
_ADDRESSED = ('cells', 'importances', 'originals', 'retrained', 'shadow')
# The config has a hash of its own in the pin.
_UNPINNED = re.compile(r'provenance|config|remarks|(.+_)?seconds')
# Columns that say what a row is about, and depend on no float.
_ABOUT = (
  'method',
  'seed',
  'forget_seed',
  'forget_class',
  'manipulation',
  'identified_fraction',
  'selection',
  'attack',
  'points',
  'adaptive',
  'threat',
  'information',
)
_VECTORS = re.compile(r'avx|amx|fma|f16c|sse|asimd|sve')
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scikit-learn')


def machine():
  """Everything that the last digits of a run depend on, besides the code.

  XLA compiles for the instruction set of the processor, and splits sums among
  its cores.
  """
  return {
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'cores': os.cpu_count(),
    'processor': _processor(),
  }


def _processor():
  """Maker, family, model and vector instructions."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text('utf-8')
  except OSError:
    return 'unknown'
  # All cores are alike, so that the fields of any core do.
  fields = dict(re.findall(r'^(\S[^\t:]*)\t*: ?(.*)$', text, re.MULTILINE))
  flags = fields.get('flags') or fields.get('Features') or ''
  vectors = sorted(filter(_VECTORS.match, flags.split()))
  names = ('vendor_id', 'cpu family', 'model')
  return ' '.join([*(fields.get(name, '-') for name in names), *vectors])


def run(pin, folder):
  """Runs the command of a pin; returns the pin that its numbers make."""
  fields = [f'--config.{name}={value}' for name, value in pin['fields'].items()]
  config = f'--config={ROOT}/configs/{pin["config"]}'
  assert main.main([config, f'--workdir={folder}', *fields]) == 0
  results = json.loads((folder / 'results.json').read_text('utf-8'))
  numbers = _numbers(results)
  return {
    **pin,
    'config_hash': results['provenance']['config_hash'],
    'addresses': _addresses(folder),
    'digest': _digest(numbers),
    'rows': [_short(row) for row in numbers['rows']],
    'machine': machine(),
  }


def _without_words(methods):
  """The settings of methods without descriptions, which may get plainer."""
  if not isinstance(methods, dict):
    return methods
  return {
    name: {key: item for key, item in facts.items() if key != 'says'}
    for name, facts in methods.items()
    if isinstance(facts, dict)
  }


def _numbers(value):
  """A part of results.json without its header, its clocks and descriptions."""
  if isinstance(value, list):
    return [_numbers(item) for item in value]
  if not isinstance(value, dict):
    return value
  return {
    key: _numbers(_without_words(item) if key == 'methods' else item)
    for key, item in value.items()
    if not _UNPINNED.fullmatch(key)
  }


def _short(row):
  """A row without long lists, which only the digest covers."""
  long = lambda item: isinstance(item, list | dict) and len(item) > 10
  return {key: item for key, item in row.items() if not long(item)}


def _digest(value):
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _addresses(folder):
  """By folder, how many files it has and a digest of their names."""
  names = {
    part: sorted(path.name for path in (folder / part).glob('*.*'))
    for part in _ADDRESSED
  }
  return {part: [len(v), _digest(v)] for part, v in names.items() if v}


def differences(old, new, tolerance=0.0, path=''):
  """The values in which two JSON values differ, each with its path.

  Args:
    old: a JSON value.
    new: another.
    tolerance: up to which two floats are equal, absolute and relative.
    path: of both.
  """
  parts = None
  if isinstance(old, dict) and isinstance(new, dict):
    parts = [(f'{path}.{key}', key) for key in old]
    parts = parts if list(old) == list(new) else None
  elif isinstance(old, list) and isinstance(new, list):
    parts = [(f'{path}[{i}]', i) for i in range(len(old))]
    parts = parts if len(old) == len(new) else None
  if parts is not None:
    return [
      text
      for where, key in parts
      for text in differences(old[key], new[key], tolerance, where)
    ]
  if isinstance(old, float) and isinstance(new, float) and tolerance:
    equal = math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)
  else:
    equal = type(old) is type(new) and old == new
  return [] if equal else [f'{path}: {old!r} became {new!r}']


def read(name):
  """A pin by its name."""
  return json.loads((FOLDER / f'{name}.json').read_text('utf-8'))


def write(name, pin):
  """Writes a pin, each row on a line of its own."""
  rows = ',\n'.join(f'  {json.dumps(row)}' for row in pin['rows'])
  others = {key: value for key, value in pin.items() if key != 'rows'}
  head = json.dumps(others, indent=1).removesuffix('\n}')
  text = f'{head},\n "rows": [\n{rows}\n ]\n}}\n'
  (FOLDER / f'{name}.json').write_text(text, 'utf-8')


def outline(rows):
  """The columns of rows, and what each row is about."""
  return [
    [list(row), {key: row[key] for key in _ABOUT if key in row}] for row in rows
  ]


def count(value):
  """How many values a JSON value has that are neither list nor dict."""
  if isinstance(value, dict):
    return sum(map(count, value.values()))
  return sum(map(count, value)) if isinstance(value, list) else 1
