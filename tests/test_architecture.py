"""The map of the package: imports, sizes, names, comments, dependencies."""

import ast
import re
import statistics
import subprocess
import sys
import tomllib

import house
import pytest

import cmu_jax
from cmu_jax.core import config

ROOT, PACKAGE = house.ROOT, house.PACKAGE
MODULES = house.module_files()
FILES = list(MODULES.values())
CODE = sorted(
  path
  for folder in ('cmu_jax', 'tests', 'configs', 'experiments')
  for path in (ROOT / folder).rglob('*.py')
)

# Each package with the packages that it may import, itself aside.
_BASIS = {'core', 'data', 'networks', 'training'}
MAY_IMPORT = {
  'core': set(),
  'report': {'core'},
  'data': {'core'},
  'networks': {'core', 'data'},
  'training': {'core', 'data', 'networks'},
  'robustness': _BASIS,
  'audits': _BASIS,
  'methods': {*_BASIS, 'robustness', 'audits'},
  'studies': {*_BASIS, 'robustness', 'audits', 'methods', 'report'},
  'commands': {*_BASIS, 'robustness', 'audits', 'methods', 'report', 'studies'},
}
# The public face and the command lines: they may import everything.
FACE = {'cmu_jax', 'cmu_jax.main', 'cmu_jax.__main__'}
# A report is read on machines without an accelerator, and quickly.
REPORT_MAY_IMPORT = {'files', 'errors', 'progress'}
HEAVY = {'jax', 'flax', 'optax', 'orbax', 'sklearn'}
LIGHT = [
  name
  for name in MODULES
  if re.fullmatch(r'cmu_jax\.(report.*|main|studies\.\w+\.(show|report))', name)
]
BY_STRING = {'import_module', '__import__'}
# Projects whose modules have another name.
PROJECTS = {
  'PIL': 'pillow',
  'google': 'protobuf',
  'orbax': 'orbax-checkpoint',
  'sklearn': 'scikit-learn',
  'tensorflow_datasets': 'tensorflow-datasets',
}

# Limits that equal the state of the package. They only ever get lower, except
# for the comments, which only ever get more.
TIED_STUDIES: set[tuple[str, str]] = set()
PARTICIPLE_PERCENT = 0.1
FILLER_PERCENT = 0.4
OPENING_PERCENT = 0.1
COMMENTS_PER_100_LINES = 6.7
SHORT_FILES = 14
MANY_PARAMETERS = 0
LONGEST_FILE = 400


def _imports(path):
  """Modules of the package that a file imports, inside functions too."""
  names = set()
  for _, node in house.nodes([path], (ast.Import, ast.ImportFrom)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif node.module:
      full = {f'{node.module}.{alias.name}' for alias in node.names}
      names |= {name if name in MODULES else node.module for name in full}
  return {name for name in names if name in MODULES and name != 'cmu_jax'}


IMPORTS = {name: _imports(path) for name, path in MODULES.items()}


def _package(name):
  """The package directly below cmu_jax that a module belongs to."""
  return name.split('.')[1]


def _study(name):
  """The study that a module belongs to, or None."""
  parts = name.split('.')
  return parts[2] if parts[1:2] == ['studies'] and len(parts) > 2 else None


def _cycle(name, trail, finished):
  """A list of modules that import each other in a circle, or None."""
  if name in trail:
    return [*trail[trail.index(name) :], name]
  if name in finished:
    return None
  for target in sorted(IMPORTS[name]):
    cycle = _cycle(target, [*trail, name], finished)
    if cycle:
      return cycle
  finished.add(name)
  return None


def test_modules_do_not_import_each_other_in_a_circle():
  finished = set()
  cycles = [_cycle(name, [], finished) for name in MODULES]
  assert [cycle for cycle in cycles if cycle] == []


def test_the_package_has_ten_packages():
  assert {_package(name) for name in MODULES if name not in FACE} == {
    *MAY_IMPORT
  }


def test_packages_import_only_those_below():
  assert [
    f'{name} imports {target}'
    for name in MODULES.keys() - FACE
    for target in IMPORTS[name]
    if _package(target) not in {_package(name), *MAY_IMPORT[_package(name)]}
  ] == []


def test_reports_import_little_of_the_core():
  assert [
    f'{name} imports {target}'
    for name in MODULES.keys() - FACE
    for target in IMPORTS[name]
    if _package(name) == 'report' and _package(target) == 'core'
    if target.split('.')[2] not in REPORT_MAY_IMPORT
  ] == []


def test_no_study_imports_another():
  ties = {
    (study, _study(target))
    for name in MODULES
    for target in IMPORTS[name]
    if (study := _study(name)) and _study(target) not in {None, study, 'engine'}
  }
  assert ties <= TIED_STUDIES


def test_nothing_is_imported_by_string():
  # "Go to definition" ends at a string; an import inside a function does not.
  assert [
    f'{path.name}: {node.lineno}'
    for path, node in house.nodes(FILES, (ast.Attribute, ast.Name))
    if getattr(node, 'attr', getattr(node, 'id', '')) in BY_STRING
  ] == []


def test_few_pairs_of_packages_are_tied():
  pairs = {
    frozenset({_package(name), _package(target)})
    for name in MODULES.keys() - FACE
    for target in IMPORTS[name]
  }
  assert sum(len(pair) == 2 for pair in pairs) <= 45


def _definitions(path):
  kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
  return [node for node in house.tree(path).body if isinstance(node, kinds)]


def test_public_definitions_have_docstrings():
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
    if path.stat().st_size and not ast.get_docstring(house.tree(path))
  ] == []


def test_files_are_short():
  lines = {path.name: house.line_count(path) for path in CODE}
  assert {name: n for name, n in lines.items() if n > LONGEST_FILE} == {}


def test_few_files_are_very_short():
  short = [
    path
    for path in FILES
    if path.name not in ('__init__.py', '__main__.py')
    and house.line_count(path) < 100
  ]
  assert len(short) <= SHORT_FILES


def test_functions_are_short():
  functions = [node for _, node in house.nodes(CODE, ast.FunctionDef)]
  assert [f.name for f in functions if house.body_length(f) > 60] == []
  own = [node for _, node in house.nodes(FILES, ast.FunctionDef)]
  lengths = sorted(map(house.body_length, own))
  assert statistics.median(lengths) <= 8
  assert lengths[int(0.9 * len(lengths))] <= 22


def test_functions_take_few_parameters():
  counts = [
    house.parameter_count(node)
    for _, node in house.nodes(FILES, ast.FunctionDef)
  ]
  assert sum(count > 8 for count in counts) <= MANY_PARAMETERS


def test_names_and_sentences_are_plain():
  assert house.participle_percent(FILES) <= PARTICIPLE_PERCENT
  assert house.filler_percent(FILES) <= FILLER_PERCENT
  assert house.opening_percent(FILES) <= OPENING_PERCENT


def test_comments_give_reasons():
  assert house.comments_per_100_lines(FILES) >= COMMENTS_PER_100_LINES


def _run(code):
  """Words that a program prints, in a process of its own."""
  process = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
  )
  return set(process.stdout.split())


def _modules_after_import(names):
  """Entries of sys.modules after some imports."""
  return _run(f'import sys, {", ".join(names)}; print(*sys.modules)')


def _roots(path):
  """Packages that a file names in its imports, inside functions too."""
  for _, node in house.nodes([path], (ast.Import, ast.ImportFrom)):
    if isinstance(node, ast.Import):
      yield from (alias.name.split('.')[0] for alias in node.names)
    else:
      yield (node.module or '').split('.')[0]


def test_no_module_names_tensorflow_or_torch():
  roots = {name: set(_roots(path)) for name, path in MODULES.items()}
  foreign = {'tensorflow', 'torch'}
  assert [name for name in roots if roots[name] & foreign] == []


def test_the_package_does_without_tensorflow_and_torch():
  names = [name for name in MODULES if not name.endswith('__main__')]
  assert not {'tensorflow', 'torch'} & _modules_after_import(names)


@pytest.mark.parametrize('name', LIGHT)
def test_reports_and_help_do_not_load_jax(name):
  assert not HEAVY & _modules_after_import([name])


def test_every_dependency_is_declared():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  declared = {re.split(r'[<>=\[]', line)[0] for line in project['dependencies']}
  roots = {root for path in FILES for root in _roots(path)}
  foreign = roots - sys.stdlib_module_names - {'cmu_jax'}
  assert {PROJECTS.get(root, root) for root in foreign} <= declared


def test_the_public_face_is_complete():
  assert set(cmu_jax.__all__) <= set(dir(cmu_jax))
  for load, names in cmu_jax._LOADERS.items():
    assert set(load()) == set(names.split())
  for name in cmu_jax.__all__:
    assert getattr(cmu_jax, name) is not None
  with pytest.raises(AttributeError, match='no attribute'):
    cmu_jax.nothing  # noqa: B018


def test_the_public_face_is_light():
  code = 'import sys, cmu_jax; from cmu_jax import report; print(*sys.modules)'
  assert not HEAVY & _run(code)


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
