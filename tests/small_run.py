"""The smallest whole experiments, and whether two of them left the same."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax

from cmu_jax import main

ROOT = pathlib.Path(__file__).parents[1]
NOISE = f'{ROOT}/configs/cuts_digits.py:smoke'
ASYMMETRIC = f'{ROOT}/configs/cuts_digits.py:smoke,kind=asymmetric'
POISON = f'{ROOT}/configs/cuts_poison_digits.py:smoke'
TINY = {
  'model.width': 16,
  'train.steps': 20,
  'proxy_train.steps': 5,
  'finetune.steps': 5,
  'select.replicates': 20,
}


def argv(config, workdir, fields=None):
  """The command line of a small run of a config."""
  fields = {**TINY, **(fields or {})}
  return [
    f'--config={config}',
    f'--workdir={workdir}',
    *(f'--config.{name}={value}' for name, value in fields.items()),
  ]


def run(config, workdir, fields=None):
  """Runs it in this process; its results."""
  assert main.main(argv(config, workdir, fields)) == 0
  return json.loads((workdir / 'results.json').read_text())


def keep_environment(monkeypatch):
  """Undoes, after the test, what `main` says to JAX by the environment."""
  folder = jax.config.jax_compilation_cache_dir
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(folder))
  for name in ('MIN_COMPILE_TIME_SECS', 'MIN_ENTRY_SIZE_BYTES'):
    monkeypatch.setenv(f'JAX_PERSISTENT_CACHE_{name}', '0')


def command(arguments, code=('-m', 'cmu_jax.main')):
  """The arguments of subprocess: this Python, the tests' compilations."""
  folder = str(jax.config.jax_compilation_cache_dir)
  env = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': folder}
  return {
    'args': [sys.executable, *code, *arguments],
    'env': {**env, 'JAX_PLATFORMS': 'cpu'},
    'text': True,
  }


def process(arguments, code=('-m', 'cmu_jax.main')):
  """A finished process of the command line."""
  return subprocess.run(
    **command(arguments, code), capture_output=True, check=False
  )


def artefacts(workdir):
  """Relative path -> bytes of all that is neither checkpoint nor lock."""
  found = {
    path.relative_to(workdir).as_posix(): path.read_bytes()
    for path in sorted(workdir.rglob('*'))
    if path.is_file()
  }
  return {
    name: data
    for name, data in found.items()
    if name != '.lock' and not name.startswith('checkpoints/')
  }


def numbers(workdir):
  """Artefacts, less what says by which command and commit they were made."""
  found = artefacts(workdir)
  made_by = json.loads(found['results.json'])['provenance']
  for name in ('results.json', 'report.html'):
    for key in ('command', 'commit'):
      text = re.escape(str(made_by[key] or '-').encode())
      found[name] = re.sub(text, b'', found[name])
  return found


def refused(capfd, tmp_path, fields, base=NOISE):
  """The one line on stderr; what the work folder held is still as it was."""
  workdir = tmp_path / 'w'
  workdir.mkdir(exist_ok=True)
  (workdir / 'notes.txt').write_text('mine')
  before = artefacts(workdir)
  small = {'model.width': 8, 'train_limit': 300}
  assert main.main(argv(base, workdir, {**small, **fields})) == 2
  said = capfd.readouterr().err
  assert said.startswith('error: ') and said.count('\n') == 1, said
  assert artefacts(workdir) == before
  return said
