"""Commands in environments that users have: notebooks, clusters, containers."""

import subprocess
import sys

import environment_case as case
import pytest


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Files that all commands of this module read."""
  return case.ship(tmp_path_factory.mktemp('environment'))


@pytest.mark.parametrize('command', case.COMMANDS)
def test_a_backend_that_is_not_installed_is_no_obstacle(
  folder, tmp_path, command
):
  arguments = case.words(folder, command, tmp_path / 'out')
  done = case.run(arguments, tmp_path, MPLBACKEND='nbagg_of_another_notebook')
  assert done.returncode == 0, done.stderr
  assert list((tmp_path / 'out' / 'figures').glob('*.png'))


def test_a_call_from_python_takes_any_backend(folder, tmp_path):
  code = (
    'import cmu_jax; cmu_jax.audit('
    f'scores={str(folder / "scores.npz")!r}, out="out", replicates=20)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env=case.environment(MPLBACKEND='module://matplotlib_inline.backend_inline'),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'out' / 'report.html').is_file()
