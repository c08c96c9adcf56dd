"""Paths that no file can have, and numbers that no device can hold."""

import subprocess
import sys

import environment_case as case
import jax
import jax.numpy as jnp
import pytest

from cmu_jax import __main__ as program
from cmu_jax.commands import flags, requests
from cmu_jax.commands.audit import reference_networks
from cmu_jax.core import errors, files, literals
from cmu_jax.data import input_step
from cmu_jax.networks.shipped import ShippedNetwork
from cmu_jax.training import train

# Flags of paths, by command.
_PATHS = {
  'repair': ('weights', 'proxy', 'ordinary', 'test', 'out'),
  'unlearn': ('weights', 'forget', 'retain', 'test', 'out'),
  'audit': ('scores', 'out'),
  'study': ('workdir', 'config'),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Files that all commands of this module read."""
  return case.ship(tmp_path_factory.mktemp('absurd'))


@pytest.mark.parametrize(
  'text', ['~who_is_not_here/x', 'n' * 256, 'a/' + 'ü' * 200], ids=len
)
@pytest.mark.parametrize(
  ('command', 'flag'),
  [(command, flag) for command, names in _PATHS.items() for flag in names],
)
def test_a_path_that_no_file_has_is_one_line(
  folder, tmp_path, monkeypatch, capfd, command, flag, text
):
  monkeypatch.chdir(tmp_path)
  text += '.py' if flag == 'config' else '.npz' if flag == 'scores' else ''
  arguments = case.words(folder, command, tmp_path / 'out', **{flag: text})
  assert program.main(arguments) == 2
  out, said = capfd.readouterr()
  line = said.splitlines()[-1]
  assert line.startswith('error: ') and 'Traceback' not in said
  assert 'report: ' not in out
  assert not (tmp_path / 'out' / 'results.json').exists()


@pytest.mark.parametrize(
  ('command', 'flag', 'value'),
  [
    ('unlearn', 'epochs', 10**12),
    ('unlearn', 'epochs', 10**7),
    ('unlearn', 'batch_size', 2**40),
    ('unlearn', 'seed', 2**64),
    ('unlearn', 'seed', -(2**64)),
    ('unlearn', 'learning_rate', '1e300'),
    ('unlearn', 'weight_decay', '1e39'),
    ('repair', 'steps', 10**15),
    ('repair', 'image_size', 10**9),
    ('repair', 'learning_rate', '-1e300'),
    ('audit', 'replicates', 10**10),
    ('audit', 'gamma', '9e99'),
    ('study', 'config.train.epochs', 10**13),
    ('study', 'config.seeds', f'0,{10**13}'),
    ('study', 'config.train.learning_rate', '1e100'),
    ('study', 'config.train.steps', 4 * 10**9),
    ('study', 'config.evaluate.points', 10**9),
    ('study', 'config.evaluate.path_images', 3 * 10**9),
  ],
)
def test_an_absurd_number_is_one_line(
  folder, tmp_path, capfd, command, flag, value
):
  arguments = case.words(folder, command, tmp_path / 'out', **{flag: value})
  assert program.main(arguments) == 2
  (line,) = capfd.readouterr().err.splitlines()
  assert line.startswith('error: ') and flag in line


@pytest.mark.parametrize(
  ('command', 'flag', 'value'),
  [('unlearn', 'epochs', 7), ('repair', 'steps', 6)],
)
def test_the_flag_of_an_endless_training_is_named(
  folder, tmp_path, monkeypatch, capfd, command, flag, value
):
  monkeypatch.setattr(train, '_MAX_STEPS', 5)
  arguments = case.words(folder, command, tmp_path / 'out', **{flag: value})
  assert program.main(arguments) == 2
  line = capfd.readouterr().err.splitlines()[-1]
  assert line.startswith(f'error: --{flag}={value}: {value} steps of ')
  assert 'at most 5 can be made' in line


def test_references_of_an_audit_have_the_same_limit():
  request = requests.AuditRequest(out='o', epochs=90_000, batch_size=100)
  fields = dict.fromkeys(ShippedNetwork._fields)
  statistics = {'mean': (0.5,), 'std': (0.5,)}
  network = ShippedNetwork(**{**fields, **statistics})
  make = reference_networks.reference_training
  assert make(request, network, 2000).steps == 1_800_000
  with pytest.raises(errors.UserError, match=r'^--epochs=90000: 18,000'):
    make(request, network, 20_000)


@pytest.mark.parametrize('pad', [8, 50])
def test_a_margin_as_wide_as_the_pictures(folder, tmp_path, capfd, pad):
  flags = {'weights': folder / 'w.npz', 'model': 'fc:width=16', 'refs': 4}
  arguments = case.words(
    folder,
    'audit',
    tmp_path / 'out',
    scores=None,
    members=folder / 'kept',
    nonmembers=folder / 'bad',
    pad=pad,
    **flags,
  )
  assert program.main(arguments) == 2
  line = capfd.readouterr().err.splitlines()[-1]
  assert line.startswith(f'error: --pad is {pad}, but the images have a side ')
  crop = input_step.make((0.5,), (0.5,), pad=pad).train
  with pytest.raises(errors.UserError, match='pad of the input step'):
    crop(jax.random.key(0), jnp.zeros((1, 8, 8, 1), jnp.uint8))


def test_a_call_from_python_has_the_same_limits():
  kind = requests.UNLEARN.request
  request = kind(weights='w', model='fc', forget='f', out='o', epochs=10**9)
  with pytest.raises(errors.UserError, match='at most 100000'):
    flags.check(requests.UNLEARN, request)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('attack.steps', 10**7),
    ('attack.steps', 10**6),
    ('trs.steps', 10**6),
  ],
)
def test_attacks_of_a_study_have_the_same_limit(field, value, tmp_path, capfd):
  name = f'config.{field}'
  arguments = ['study', '--config=configs/lotos_digits.py:smoke']
  # A batch of one image is an attack of its own.
  fields = {name: value, 'config.evaluate.batch_size': 1, 'workdir': tmp_path}
  arguments += [f'--{key}={value}' for key, value in fields.items()]
  assert program.main([*arguments, '--config.methods=plain,trs']) == 2
  line = capfd.readouterr().err.splitlines()[-1]
  assert line.startswith(f'error: {name}') and 'at most' in line


def test_largest_numbers_pass():
  assert literals.parse('2147483647', 1, 'x') == 2**31 - 1
  assert literals.parse('(-2147483647, 3)', (1,), 'x') == (1 - 2**31, 3)
  assert literals.parse('3e38', 1.0, 'x') == 3e38


def test_an_absent_file_is_no_mistake_of_its_path(tmp_path):
  assert files.expand(tmp_path / 'absent') == tmp_path / 'absent'
  with pytest.raises(errors.UserError, match='null'):
    files.expand('a\0b')


# The system raises KeyError for a user without an entry.
_HOMELESS = """
import pwd, sys
def unknown(uid):
  raise KeyError('getpwuid(): uid not found')
pwd.getpwuid = unknown
from cmu_jax import __main__ as program
sys.exit(program.main(sys.argv[1:]))
"""


@pytest.mark.parametrize('command', ['audit', 'study'])
def test_a_user_without_home_works_without_caches(folder, tmp_path, command):
  arguments = case.words(folder, command, tmp_path / 'out')
  done = subprocess.run(
    [sys.executable, '-c', _HOMELESS, *arguments],
    cwd=tmp_path,
    env=case.environment(HOME=None, CMU_JAX_CACHE=None),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert 'no compilation cache: ' in done.stderr
  assert (tmp_path / 'out' / 'report.html').is_file()
