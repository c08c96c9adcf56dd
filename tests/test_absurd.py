"""Paths that no file can have, and numbers that no device can hold."""

import subprocess
import sys

import environment_case as case
import pytest

from cmu_jax import __main__ as program
from cmu_jax.commands import flags, requests
from cmu_jax.core import errors, files, literals

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
  ],
)
def test_an_absurd_number_is_one_line(
  folder, tmp_path, capfd, command, flag, value
):
  arguments = case.words(folder, command, tmp_path / 'out', **{flag: value})
  assert program.main(arguments) == 2
  (line,) = capfd.readouterr().err.splitlines()
  assert line.startswith('error: ') and flag in line


def test_a_call_from_python_has_the_same_limits():
  kind = requests.UNLEARN.request
  request = kind(weights='w', model='fc', forget='f', out='o', epochs=10**9)
  with pytest.raises(errors.UserError, match='at most 100000'):
    flags.check(requests.UNLEARN, request)


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
