"""Config files: typed arguments, typed overrides, one line for a mistake."""

import pathlib

import hypothesis
import ml_collections
import pytest
from hypothesis import strategies

from cmu_jax.core import config, errors

FILE = '''"""A little experiment.

More about it.
"""
import ml_collections
from cmu_jax import config

def get_config(arg=''):
  a = config.parse_arg(arg, smoke=False, noise=0.3, seeds=(0, 1), n=3)
  return ml_collections.ConfigDict({
    'seeds': a.seeds, 'noise_rate': a.noise, 'n': a.n, 'note': 'x',
    'train': {'epochs': 1 if a.smoke else 9, 'rate': 0.1, 'augment': True},
    'model': {'width': None, 'kwargs': {}},
    'any': (), 'grid': ((1, 2), (3,)), 'names': ['a'],
  })

def sweep(add):
  for noise in (0.2, 0.6):
    add(noise=noise, seeds=(1, 2), smoke=True)
'''

DEFAULTS = {
  'smoke': False,
  'noise': 0.3,
  'n': 3,
  'name': 'mnist',
  'seeds': (0, 1),
  'rates': (0.1,),
  'limit': None,
}


@pytest.fixture
def path(tmp_path):
  file = tmp_path / 'small.py'
  file.write_text(FILE)
  return str(file)


def _refused(call, *arguments, **keywords):
  with pytest.raises(errors.UserError) as caught:
    call(*arguments, **keywords)
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  ('arg', 'changed'),
  [
    ('', {}),
    ('smoke', {'smoke': True}),
    ('smoke=false', {'smoke': False}),
    ('smoke,noise=1', {'smoke': True, 'noise': 1.0}),
    (' n = 4 , name=kmnist', {'n': 4, 'name': 'kmnist'}),
    ('seeds=2+3+5,rates=1e-3+2', {'seeds': (2, 3, 5), 'rates': (1e-3, 2.0)}),
    ('seeds=7', {'seeds': (7,)}),
    ('limit=5', {'limit': 5}),
    ('limit=all', {'limit': 'all'}),
  ],
)
def test_parse_arg(arg, changed):
  parsed = vars(config.parse_arg(arg, **DEFAULTS))
  expected = DEFAULTS | changed
  assert parsed == expected
  assert {k: type(v) for k, v in parsed.items()} == {
    k: type(v) for k, v in expected.items()
  }


@pytest.mark.parametrize(
  ('arg', 'said'),
  [
    ('smok', "did you mean 'smoke'"),
    ('nois=1', "did you mean 'noise'"),
    ('n', 'needs a value'),
    ('n=1.5', 'an int'),
    ('n=', 'an int'),
    ('n=true', 'an int'),
    ('smoke=1', 'true or false'),
    ('noise=abc', 'a finite number'),
    ('noise=nan', 'a finite number'),
    ('noise=inf', 'a finite number'),
    ('seeds=1+x', 'a tuple'),
    ('seeds=1++2', 'a tuple'),
    ('n=1,n=2', 'given twice'),
    ('smoke,', 'unknown config argument'),
    (',', 'unknown config argument'),
  ],
)
def test_parse_arg_refuses(arg, said):
  assert said in _refused(config.parse_arg, arg, **DEFAULTS)


@hypothesis.given(
  n=strategies.integers(-(10**9), 10**9),
  noise=strategies.floats(-3e38, 3e38),
  smoke=strategies.booleans(),
  seeds=strategies.lists(strategies.integers(0, 99), min_size=1).map(tuple),
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_a_cell_spelled_by_sweep_is_read_back(n, noise, smoke, seeds):
  values = {'n': n, 'noise': noise, 'smoke': smoke, 'seeds': seeds}
  loaded = config.LoadedConfig(
    ml_collections.ConfigDict(), 'c', '', 'c.py', '', lambda add: add(**values)
  )
  (spec,) = config.sweep_cells(loaded).values()
  parsed = config.parse_arg(spec.removeprefix('c.py:'), **DEFAULTS)
  assert vars(parsed) == DEFAULTS | values


def test_load(path):
  loaded = config.load(f'{path}:smoke,noise=1')
  assert loaded.name == 'small-smoke,noise=1'
  assert loaded.doc.splitlines()[0] == 'A little experiment.'
  assert loaded.config.noise_rate == 1.0
  assert loaded.config.train.epochs == 1
  assert config.load(path).name == 'small'
  with pytest.raises(AttributeError):
    loaded.config.new = 1
  with pytest.raises(AttributeError):
    loaded.config.train.new = 1


@pytest.mark.parametrize(
  ('field', 'text', 'value'),
  [
    ('seeds', '3,4,5', (3, 4, 5)),
    ('seeds', '(3,4)', (3, 4)),
    ('seeds', '[3]', (3,)),
    ('seeds', '3,', (3,)),
    ('seeds', '', ()),
    ('noise_rate', '1', 1.0),
    ('train.epochs', '5', 5),
    ('train.augment', 'False', False),
    ('note', '7', '7'),
    ('note', 'a=b', 'a=b'),
    ('model.width', '8', 8),
    ('model.width', '0.5', 0.5),
    ('model.width', 'true', True),
    ('model.width', '(1, 2)', (1, 2)),
    ('model.width', 'wide', 'wide'),
    ('model.width', 'None', None),
    ('model.width', '{1: 2}', '{1: 2}'),
    ('model.width', '"\\d"', '\\d'),
    ('any', '1,b', (1, 'b')),
    ('grid', '((5,),)', ((5,),)),
    ('names', 'b,"c"', ['b', 'c']),
  ],
)
def test_overrides(path, field, text, value):
  loaded = config.load(path, {field: text})
  found = config.flatten(loaded.config)[field]
  assert found == value
  assert type(found) is type(value)


@pytest.mark.parametrize(
  ('field', 'text', 'said'),
  [
    ('train.epocs', '3', "did you mean 'train.epochs'"),
    ('trian.epochs', '3', "did you mean 'train.epochs'"),
    ('epochs', '3', "did you mean 'train.epochs'"),
    ('train.epochs.x', '3', "did you mean 'train.epochs'"),
    ('zzz', '3', 'known: '),
    ('', '3', 'unknown config field'),
    ('model.kwargs', '3', 'unknown config field'),
    ('train', '3', 'is a group'),
    ('train.epochs', '2.5', 'takes an int (now 9), not'),
    ('train.rate', 'fast', 'takes a finite number (now 0.1), not'),
    ('train.augment', '1', 'takes true or false (now True), not'),
    ('seeds', '0,x', 'takes a tuple such as 0,1,2'),
    ('seeds', '(0,1', 'takes a tuple'),
    ('seeds', '0,,1', 'takes a tuple'),
    ('seeds', '((0,1))', 'takes a tuple'),
    ('grid', '3', 'takes a tuple'),
    ('model.width', '1e999', 'finite'),
  ],
)
def test_overrides_refused(path, field, text, said):
  message = _refused(config.load, path, {field: text})
  assert said in message
  assert field in message or 'model.width' in message


@pytest.mark.parametrize(
  ('body', 'said'),
  [
    ('x = (', 'line 1: SyntaxError'),
    ('x = 1\n1 / 0', 'line 2: ZeroDivisionError'),
    ('import absent_module', 'ModuleNotFoundError'),
    ('raise SystemExit(3)', 'line 1: SystemExit'),
    ('x = 1', 'has no get_config'),
    ('get_config = 3', 'has no get_config'),
    ('def get_config(arg=""):\n  return {}', 'returns dict'),
    (
      'def get_config(arg=""):\n  raise ValueError("a\\nb")',
      'line 2: ValueError: a b',
    ),
    ('def get_config(arg=""):\n  return {}.x.y', 'line 2: AttributeError'),
    ('def get_config(arg):\n  return 1', 'missing 1 required'),
  ],
)
def test_a_broken_config_file_is_one_line(tmp_path, monkeypatch, body, said):
  (tmp_path / 'broken.py').write_text(body)
  assert said in _refused(config.load, str(tmp_path / 'broken.py'))
  monkeypatch.chdir(tmp_path)
  assert said in _refused(config.load, 'broken.py')


def test_a_missing_config_file_names_the_nearest(path):
  wrong = path.replace('small', 'smal')
  said = _refused(config.load, f'{wrong}:smoke')
  assert f"did you mean '{path}:smoke'" in said
  folder = str(pathlib.Path(path).parent)
  assert 'not a Python file' in _refused(config.load, folder)
  assert 'not a Python file' in _refused(config.load, '')


@pytest.mark.parametrize(
  ('spec', 'meant'),
  [
    ('cuts_digitz', 'configs/cuts_digits.py'),
    ('amun_mnist', 'configs/amun_mnist.py'),
    ('lotos_digit.py:smoke', 'configs/lotos_digits.py:smoke'),
    ('configs/trw_digits:epochs=3', 'configs/trw_digits.py:epochs=3'),
    ('configs/ulira_digit', 'configs/ulira_digits.py'),
    ('config/corrective_mnist.py', 'configs/corrective_mnist.py'),
  ],
)
def test_a_config_by_its_name_alone_is_found(monkeypatch, spec, meant):
  monkeypatch.chdir(pathlib.Path(__file__).parents[1])
  assert f"did you mean '{meant}'?" in _refused(config.load, spec)


@pytest.mark.parametrize('value', [float('nan'), print, {1, 2}, b'x', object()])
def test_only_plain_values(value):
  with pytest.raises(errors.UserError, match=r'config\.a\.b\[0\]'):
    config.to_json({'a': {'b': [value]}})


def test_fingerprint():
  tree = ml_collections.ConfigDict({'b': (1, 2), 'a': {'c': 0.5, 'd': None}})
  same = {'a': {'d': None, 'c': 0.5}, 'b': [1, 2]}
  assert config.fingerprint(tree) == config.fingerprint(same)
  assert config.fingerprint(tree.a) == config.fingerprint({'c': 0.5, 'd': None})
  others = [{}, 0, 1, True, 1.0, '1', None, [1], [[1]], {'a': 1}, {'a': '1'}]
  assert len({config.fingerprint(other) for other in others}) == len(others)
  # Caches outlive a process: this value must not change.
  assert config.fingerprint({'a': 1}).startswith('015abd7f5cc57a2d')


WEIGHTS = """
import ml_collections
def get_config(arg=''):
  model = {'name': 'clip', 'weights': '', 'weights_sha256': ''}
  return ml_collections.ConfigDict({'model': model})
"""


def test_weights_count_by_their_content(tmp_path):
  file, weights = tmp_path / 'a.py', tmp_path / 'w' / 'model.safetensors'
  file.write_text(WEIGHTS)
  weights.parent.mkdir()
  weights.write_bytes(b'one')
  given = {'model.weights': str(weights)}
  load = lambda **more: config.load(str(file), {**given, **more}).config
  none, first = config.load(str(file)).config, load()
  assert none.model.weights_sha256 == ''
  assert config.fingerprint(load()) == config.fingerprint(first)
  weights.write_bytes(b'two')
  second = load()
  (weights.parent / 'config.json').write_text('{}')
  prints = {config.fingerprint(c) for c in (none, first, second, load())}
  assert len(prints) == 4
  old = {'model.weights_sha256': first.model.weights_sha256}
  assert 'leave it out' in _refused(load, **old)


def test_cells(path):
  cells = config.sweep_cells(config.load(f'{path}:n=5'))
  assert cells == {
    f'noise={noise},seeds=1+2,smoke=true': (
      f'{path}:n=5,noise={noise},seeds=1+2,smoke=true'
    )
    for noise in (0.2, 0.6)
  }
  loaded = [config.load(spec).config for spec in cells.values()]
  assert [cell.noise_rate for cell in loaded] == [0.2, 0.6]
  assert all(cell.n == 5 and cell.train.epochs == 1 for cell in loaded)


@pytest.mark.parametrize(
  ('sweep', 'said'),
  [
    (None, 'has no sweep'),
    (lambda add: None, 'adds no cell'),
    (lambda add: add(), 'without arguments'),
    (lambda add: [add(n=1), add(n=1)], 'twice'),
    (lambda add: 1 / 0, 'ZeroDivisionError'),
  ],
)
def test_cells_refused(sweep, said):
  loaded = config.LoadedConfig(
    ml_collections.ConfigDict(), 'c', '', 'c.py', '', sweep
  )
  assert said in _refused(config.sweep_cells, loaded)
