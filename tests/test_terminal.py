"""Streams that cannot be written, and control-C: nothing computed is lost."""

import json
import os
import signal
import subprocess
import sys
import time

import environment_case as case
import jax
import pytest
from jax import numpy as jnp

from cmu_jax.core import jit, progress

# A program that takes XLA about a minute.
_COMPILES = """
import sys
from cmu_jax.commands import shell
from cmu_jax.core import jit

def work(words):
  import jax, jax.numpy as jnp
  def run(x):
    for i in range(1200):
      x = jnp.sin(x @ (x.T * i)) + x.mean(0, keepdims=True)
    return x
  jit.announce_compilations()
  print('begins', flush=True)
  jax.jit(run).lower(jnp.ones((8, 8))).compile()

sys.exit(shell.run(work, None))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Files that all commands of this module read."""
  return case.ship(tmp_path_factory.mktemp('terminal'))


def _finished(out):
  return json.loads((out / 'results.json').read_text())['finished']


@pytest.mark.parametrize(
  ('command', 'encoding'),
  [(command, 'ascii') for command in case.COMMANDS]
  + [('audit', 'cp1252'), ('audit', 'utf-8')],
)
def test_text_is_printed_in_any_encoding(folder, tmp_path, command, encoding):
  out = tmp_path / 'ü →'
  arguments = case.words(folder, command, out)
  done = case.run(arguments, tmp_path, PYTHONIOENCODING=encoding)
  assert done.returncode == 0, done.stderr
  assert 'report: ' in done.stdout
  assert _finished(out)


@pytest.mark.parametrize('command', case.COMMANDS)
def test_a_folder_whose_name_is_no_text_is_refused_at_once(
  folder, tmp_path, command
):
  out = os.fsdecode(os.fsencode(tmp_path) + b'/\xef')
  done = case.run(case.words(folder, command, out), tmp_path)
  assert done.returncode == 2
  assert 'is not UTF-8: choose another' in done.stderr.splitlines()[-1]
  assert 'report: ' not in done.stdout


_REDIRECTIONS = {
  'no stdin': '<&-',
  'no stdout': '>&-',
  'no stderr': '2>&-',
  'nothing': '<&- >&- 2>&-',
  'no reader': '2>&1 | true',
  'a full disk': '>/dev/full 2>/dev/full',
}


@pytest.mark.parametrize('name', _REDIRECTIONS)
@pytest.mark.parametrize('command', ['unlearn', 'audit'])
def test_a_stream_that_cannot_be_written_stops_nothing(
  folder, tmp_path, command, name
):
  arguments = case.words(folder, command, tmp_path / 'out')
  # The shell does not replace itself: `$?` is the exit code of the command.
  script = f'"$@" {_REDIRECTIONS[name]}; exit ${{PIPESTATUS[0]}}'
  done = subprocess.run(
    ['bash', '-c', script, 'bash', sys.executable, '-m', 'cmu_jax', *arguments],
    cwd=tmp_path,
    env=case.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0
  assert _finished(tmp_path / 'out')
  assert 'Traceback' not in done.stderr and 'Exception' not in done.stderr
  if name == 'no stderr':
    # What belongs on stderr is not printed among the results instead.
    assert 'weights: ' in done.stdout or command == 'audit'
    assert ' steps, ' not in done.stdout


@pytest.mark.parametrize('words', [['--help'], ['unlearn', '--help']])
def test_help_ends_well_without_a_reader(tmp_path, words):
  script = '(sleep 1; "$@"; echo $? >code) | true; exec cat code'
  program = [sys.executable, '-m', 'cmu_jax', *words]
  done = subprocess.run(
    ['bash', '-c', script, 'bash', *program],
    cwd=tmp_path,
    env=case.environment(),
    capture_output=True,
    text=True,
    check=True,
  )
  assert (done.stdout, done.stderr) == ('0\n', '')


def test_control_c_ends_a_compilation_at_once(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', _COMPILES],
    cwd=tmp_path,
    env=case.environment(JAX_PLATFORMS='cpu'),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'begins\n'
  said = process.stderr.readline()
  assert said.startswith('compiling ') and 'run' in said
  began = time.monotonic()
  process.send_signal(signal.SIGINT)
  _, said = process.communicate(timeout=60)
  assert process.returncode == 130
  assert time.monotonic() - began < 2
  assert said.strip().splitlines()[-1].startswith('interrupted: ')


# Changes that make a command work for some seconds.
_LONG = {
  'repair': {'steps': 200_000},
  'unlearn': {'epochs': 20_000},
  'audit': {'replicates': 100_000},
  'study': {},
}


@pytest.mark.slow
@pytest.mark.parametrize('command', case.COMMANDS)
def test_control_c_at_any_time_loses_nothing(folder, tmp_path, command):
  """Each moment ends in one line within two seconds; then the run continues."""
  arguments = case.words(folder, command, tmp_path / 'out', **_LONG[command])
  program = [sys.executable, '-m', 'cmu_jax', *arguments]
  # The imports, the start of JAX, compilations and the work itself.
  for seconds in (0.6, 2, 5, 8):
    process = subprocess.Popen(
      program,
      cwd=tmp_path,
      env=case.environment(JAX_PLATFORMS='cpu'),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    time.sleep(seconds)
    if process.poll() is not None:
      break
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 2
    assert said.strip().splitlines()[-1].startswith('interrupted: ')
    assert 'Traceback' not in said
    results = tmp_path / 'out' / 'results.json'
    assert not results.exists() or not _finished(results.parent)
  assert case.run(arguments, tmp_path).returncode == 0
  assert _finished(tmp_path / 'out')


def test_control_c_during_the_imports_has_no_traceback(tmp_path):
  # An import of the command line, which is interrupted.
  text = 'import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\n'
  (tmp_path / 'argparse.py').write_text(f'{text}time.sleep(9)\n')
  process = subprocess.Popen(
    [sys.executable, '-m', 'cmu_jax', 'repair', '--help'],
    cwd=tmp_path,
    env=case.environment(PYTHONPATH=f'{tmp_path}:{case.REPOSITORY}'),
    stderr=subprocess.PIPE,
    text=True,
  )
  _, said = process.communicate(timeout=60)
  assert process.returncode == 130
  assert said.strip().startswith('interrupted: ')


def test_a_compilation_is_named_after_a_while(capsys, monkeypatch):
  monkeypatch.setattr(jit, '_SILENT_SECONDS', 0.001)
  monkeypatch.setattr(jit, '_REPEAT_SECONDS', 0.01)
  jit.announce_compilations()

  def slow_program(x):
    for i in range(30):
      x = jnp.sin(x @ (x.T * i))
    return x

  with progress.bar('training of a test', 1):
    jax.jit(slow_program).lower(jnp.ones((5, 5))).compile()
  said = capsys.readouterr().err.splitlines()
  assert len(said) > 1
  named = [line for line in said if 'slow_program of training of a' in line]
  assert named and all(line.startswith('compiling ') for line in named)
  time.sleep(0.1)
  assert capsys.readouterr().err == ''
