"""What imports what, how long things are, and what every config has."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

from cmu_jax.core import config

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'cmu_jax'

# From the ground up. A module imports from its own layer or from lower ones;
# the name of a package stands for all that is in it.
LAYERS = [
  'core',
  'report',
  'data',
  'networks',
  'training',
  'robustness audits',
  'methods',
  'studies',
  'commands main __main__',
]
LEVEL = {
  name: level for level, names in enumerate(LAYERS) for name in names.split()
}
# These are read by people without an accelerator stack, and quickly.
LIGHT = [
  'cmu_jax.report',
  'cmu_jax.studies.cuts.show',
  'cmu_jax.studies.cuts.telemetry',
  'cmu_jax.main',
  'cmu_jax.studies.corrective.show',
  'cmu_jax.studies.subsets.show',
  'cmu_jax.studies.classes.show',
]


def _modules():
  """Dotted name -> file, of every module of the package."""
  found = {}
  for path in sorted(PACKAGE.rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    found['.'.join(part for part in parts if part != '__init__')] = path
  return found


MODULES = _modules()
CODE = sorted(
  path
  for folder in ('cmu_jax', 'tests', 'configs', 'experiments')
  for path in (ROOT / folder).rglob('*.py')
)


@functools.cache
def _tree(path):
  return ast.parse(path.read_text(encoding='utf-8'))


def _imports(path):
  """Modules of the package that a file imports, inside functions too."""
  found = set()
  for node in ast.walk(_tree(path)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      whole = {f'{node.module}.{alias.name}' for alias in node.names}
      found |= {name if name in MODULES else node.module for name in whole}
  return {name for name in found if name in MODULES and name != 'cmu_jax'}


IMPORTS = {name: _imports(path) for name, path in MODULES.items()}


def _top(name):
  # `python -m` finds a package's command here, wherever the package lies.
  if name.endswith('.__main__'):
    return '__main__'
  return name.split('.')[1]


def _cycle(name, trail, done):
  """A list of modules that import each other in a circle, or None."""
  if name in trail:
    return [*trail[trail.index(name) :], name]
  if name in done:
    return None
  for other in sorted(IMPORTS[name]):
    found = _cycle(other, [*trail, name], done)
    if found:
      return found
  done.add(name)
  return None


def test_no_module_imports_itself_in_a_circle():
  done = set()
  assert [c for name in MODULES if (c := _cycle(name, [], done))] == []


def test_every_module_has_a_layer():
  assert {_top(name) for name in MODULES if '.' in name} - set(LEVEL) == set()


def test_no_module_imports_a_higher_layer():
  level = {name: LEVEL[_top(name)] for name in MODULES if '.' in name}
  upwards = {
    f'{name} imports {other}'
    for name in level
    for other in IMPORTS[name]
    if level[other] > level[name]
  }
  assert upwards == set()


def _definitions(path):
  kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
  return [node for node in _tree(path).body if isinstance(node, kinds)]


def test_what_is_public_has_a_docstring():
  assert [
    f'{name}.{node.name}'
    for name, path in MODULES.items()
    for node in _definitions(path)
    if not node.name.startswith('_') and not ast.get_docstring(node)
  ] == []


def test_modules_have_docstrings():
  assert [
    name
    for name, path in MODULES.items()
    if path.stat().st_size and not ast.get_docstring(_tree(path))
  ] == []


def _length(function):
  """Lines of a function without its docstring."""
  total = function.end_lineno - function.lineno + 1
  if not ast.get_docstring(function):
    return total
  return total - (function.body[0].end_lineno - function.body[0].lineno + 1)


def test_files_are_short():
  lines = {path.name: path.read_text('utf-8').count('\n') for path in CODE}
  assert {name: n for name, n in lines.items() if n > 430} == {}


def test_functions_are_short():
  assert [
    f'{path.name}: {node.name}'
    for path in CODE
    for node in ast.walk(_tree(path))
    if isinstance(node, ast.FunctionDef) and _length(node) > 62
  ] == []


def _loaded(names):
  """What is in sys.modules after the imports, in a process of its own."""
  code = f'import sys, {", ".join(names)}; print(*sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
  )
  return set(done.stdout.split())


def _roots(path):
  """Packages that a file names in its imports, inside functions too."""
  for node in ast.walk(_tree(path)):
    if isinstance(node, ast.Import):
      yield from (alias.name.split('.')[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield (node.module or '').split('.')[0]


def test_no_module_names_tensorflow_or_torch():
  named = {name: set(_roots(path)) for name, path in MODULES.items()}
  foreign = {'tensorflow', 'torch'}
  assert [name for name, roots in named.items() if roots & foreign] == []


def test_the_package_does_without_tensorflow_and_torch():
  names = [name for name in MODULES if not name.endswith('__main__')]
  assert not {'tensorflow', 'torch'} & _loaded(names)


@pytest.mark.parametrize('name', [name for name in LIGHT if name in MODULES])
def test_light_modules_do_not_load_jax(name):
  assert not {'jax', 'flax', 'optax', 'orbax', 'sklearn'} & _loaded([name])


CONFIGS = sorted((ROOT / 'configs').glob('[!_]*.py'))
FIELDS = 'dataset data_dir seeds proxy_fraction model.width'


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize('arg', ['', ':smoke'])
def test_every_config_has_the_common_fields(path, arg):
  loaded = config.load(f'{path}{arg}')
  fields = config.flatten(loaded.config)
  assert set(FIELDS.split()) - set(fields) == set()
  assert fields.get('train.epochs') or fields.get('train.steps')
  assert loaded.doc
  assert config.fingerprint(loaded.config)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_cell_of_a_sweep_loads(path):
  loaded = config.load(str(path))
  for spec in config.sweep_cells(loaded).values() if loaded.sweep else ():
    config.load(spec)
