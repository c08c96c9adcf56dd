"""What could fail at the end is found at the beginning."""

import shutil
import types

import environment_case as case
import pytest
import small_run

from cmu_jax import __main__ as program
from cmu_jax import main


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Files that all commands of this module read."""
  return case.ship(tmp_path_factory.mktemp('outputs'))


def _refusal(capfd, arguments):
  assert program.main(arguments) == 2
  out, said = capfd.readouterr()
  assert 'report: ' not in out
  return said.splitlines()[-1]


@pytest.mark.parametrize('command', ['repair', 'unlearn', 'audit'])
@pytest.mark.parametrize('name', ['report.html', 'results.json', 'figures'])
def test_something_else_under_the_name_of_an_output(
  folder, tmp_path, capfd, command, name
):
  out = tmp_path / 'out'
  out.mkdir()
  if name == 'figures':
    (out / name).write_text('a file')
  else:
    (out / name).mkdir()
  said = _refusal(capfd, case.words(folder, command, out))
  assert name in said and 'choose another --out' in said
  # The corrected command can use the same folder.
  assert not (out / 'config.json').exists() or name == 'results.json'


@pytest.mark.parametrize('command', ['repair', 'unlearn', 'audit'])
def test_a_disk_that_is_too_full(folder, tmp_path, capfd, monkeypatch, command):
  usage = types.SimpleNamespace(free=10**6)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  said = _refusal(capfd, case.words(folder, command, tmp_path / 'out'))
  assert '1 MB of free space, the results need 5 MB' in said


@pytest.mark.parametrize('name', ['cuts_digits', 'amun_digits'])
def test_a_disk_that_is_too_full_for_a_study(
  tmp_path, capfd, monkeypatch, name
):
  usage = types.SimpleNamespace(free=2 * 10**6)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  config = f'{small_run.ROOT}/configs/{name}.py:smoke'
  assert main.main([f'--config={config}', f'--workdir={tmp_path}']) == 2
  said = capfd.readouterr().err.splitlines()[-1]
  assert '2 MB of free space' in said and 'choose another --workdir' in said
  # Nothing was begun, and the same folder serves another run.
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']
