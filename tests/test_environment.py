"""Commands in environments that users have: notebooks, clusters, containers."""

import json
import shutil
import subprocess
import sys

import environment_case as case
import pytest

from cmu_jax.commands import requests


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
    env=case.environment(
      MPLBACKEND='module://matplotlib_inline.backend_inline'
    ),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'out' / 'report.html').is_file()


@pytest.mark.parametrize('platforms', ['rocm', 'tpu,cuda', 'abacus'])
@pytest.mark.parametrize('command', case.COMMANDS)
def test_an_absent_device_is_one_line(folder, tmp_path, command, platforms):
  arguments = case.words(folder, command, tmp_path / 'out')
  done = case.run(arguments, tmp_path, JAX_PLATFORMS=platforms)
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: JAX has no device to run on')
  assert 'JAX_PLATFORMS=cpu' in line
  assert done.stdout == ''


@pytest.mark.parametrize('command', ['repair', 'unlearn', 'audit', 'study'])
def test_a_command_with_a_dot_names_the_present_one(tmp_path, command):
  done = subprocess.run(
    [sys.executable, '-m', f'cmu_jax.{command}', '--weights=w.npz'],
    cwd=tmp_path,
    env=case.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stdout) == (2, '')
  (line,) = done.stderr.splitlines()
  assert f'`python -m cmu_jax {command}`' in line


@pytest.mark.parametrize('command', ['unlearn', 'audit'])
def test_double_precision_changes_no_result_of_a_command(
  folder, tmp_path, command
):
  outcomes = []
  for switch in ('TRUE', None):
    out = tmp_path / f'out {switch}'
    arguments = case.words(folder, command, out)
    done = case.run(arguments, tmp_path, JAX_ENABLE_X64=switch)
    assert done.returncode == 0, done.stderr
    assert ('JAX_ENABLE_X64 is ignored' in done.stderr) == bool(switch)
    results = json.loads((out / 'results.json').read_text())
    del results['provenance'], results['settings']
    outcomes.append(results)
  assert outcomes[0] == outcomes[1]


_ALL_METHODS = """
import sys
import cmu_jax
from cmu_jax.commands import requests
from cmu_jax.networks import weights

folder = sys.argv[1]
network = dict(weights=folder + '/w.npz', model='fc:width=16')
for method in requests.METHODS:
  results = cmu_jax.unlearn(
    **network, forget=folder + ('/whole' if method == 'trw' else '/bad'),
    retain=folder + '/kept', method=method, out=method, epochs=1,
    classes=('c0', 'c1', 'c2', 'c3'),
  )
  stored = weights.read(method + '/unlearned.npz').arrays
  print(method, {str(a.dtype) for a in stored.values()}, results['finished'])
for kind, more in (
  ('label_noise', {}),
  ('poison', {'target': 'c0'}),
  ('poison', {'target': 'c0', 'rule': 'published'}),
  ('poison', {'target': 'c0', 'ordinary': folder + '/kept'}),
):
  poison = kind == 'poison'
  results = cmu_jax.repair(
    **network, proxy=folder + ('/bad/c1' if poison else '/bad'), kind=kind,
    out='_'.join(['repair', kind, *more]), steps=3,
    classes=('c0', 'c1', 'c2', 'c3'), **more,
  )
  print('repaired', kind, results['finished'])
import jax
from cmu_jax import networks
model = networks.make('vit_tiny', 3, (8, 8, 1), depth=1)
start = model.init(jax.random.key(0), jax.numpy.zeros((1, 8, 8, 1)))
with jax.enable_x64(False):
  single = model.init(jax.random.key(0), jax.numpy.zeros((1, 8, 8, 1)))
  equal = jax.tree.map(lambda x, y: bool((x == y).all()), start, single)
print('initial', all(jax.tree.leaves(equal)))
"""


def test_functions_work_in_double_precision(folder, tmp_path):
  shutil.copytree(folder / 'bad' / 'c2', folder / 'whole' / 'c2')
  done = subprocess.run(
    [sys.executable, '-c', _ALL_METHODS, str(folder)],
    cwd=tmp_path,
    env=case.environment(JAX_ENABLE_X64='1'),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  lines = [x for x in done.stdout.splitlines() if 'float' in x]
  assert len(lines) == len(requests.METHODS)
  assert all(line.endswith("{'float32'} True") for line in lines)
  repaired = [x for x in done.stdout.splitlines() if x.startswith('repaired')]
  assert [line.split()[2] for line in repaired] == ['True'] * 4
  assert 'initial True' in done.stdout
