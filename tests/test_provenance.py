"""Where a result says it comes from."""

import json
import subprocess
import sys

from cmu_jax.core import config, provenance


def _git(folder, *arguments):
  identity = ['-c', 'user.name=a', '-c', 'user.email=a@b.example']
  subprocess.run(
    ['git', '-C', folder, *identity, *arguments],
    check=True,
    capture_output=True,
  )


def test_commit(tmp_path):
  assert provenance.git_commit(tmp_path) is None
  _git(tmp_path, 'init')
  assert provenance.git_commit(tmp_path) is None
  (tmp_path / 'a').write_text('1')
  _git(tmp_path, 'add', 'a')
  _git(tmp_path, 'commit', '-m', 'a')
  clean = provenance.git_commit(tmp_path)
  assert len(clean) == 40
  (tmp_path / 'untracked').write_text('1')
  assert provenance.git_commit(tmp_path) == clean
  (tmp_path / 'a').write_text('2')
  assert provenance.git_commit(tmp_path) == f'{clean}-dirty'
  (tmp_path / 'inside').mkdir()
  assert provenance.git_commit(tmp_path / 'inside') is None


def test_provenance(monkeypatch):
  monkeypatch.setenv('PATH', '')
  monkeypatch.setattr(sys, 'orig_argv', ['/opt/python', '-m', 'x', '--a=b c'])
  found = provenance.describe_run({'a': 1})
  assert found['commit'] is None
  assert found['command'] == "python -m x '--a=b c'"
  assert found['config_hash'] == config.fingerprint({'a': 1})
  assert found['versions'].keys() == {
    'python',
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'numpy',
  }
  assert found['device'].startswith('cpu')
  json.dumps(found)
