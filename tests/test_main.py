"""The command line, with a stand-in for the experiment itself."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import types

import pytest
import small_config
from small_config import refusal

from cmu_jax import main
from cmu_jax.commands import shell, study, usage
from cmu_jax.core import config

path = pytest.fixture(small_config.place)
runs = pytest.fixture(small_config.stand_in)


def test_a_run(path, runs):
  assert main.main([f'--config={path}:smoke', '--config.seeds=4,5']) == 0
  ((cfg, folder),) = runs.seen
  assert cfg.seeds == (4, 5)
  assert cfg.train.epochs == 1
  assert folder == pathlib.Path('runs/small-smoke')
  assert json.loads((folder / 'config.json').read_text())['seeds'] == [4, 5]
  assert main.main(['--config', path, '--workdir', 'elsewhere']) == 0
  assert runs.seen[-1][1] == pathlib.Path('elsewhere')


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    ([], 'which experiment?'),
    (['--sweep'], 'which experiment?'),
    (['--config'], 'expected one argument'),
    (['--config='], 'which experiment?'),
    (['--config=configs/smal.py'], "did you mean 'configs/small.py'"),
    (['--config=absent/small.py'], "unknown config file 'absent/small.py'"),
    (['--config=configs'], 'not a Python file'),
    (['--config=small'], "did you mean 'configs/small.py'"),
    (['configs/small.py'], "unknown argument 'configs/small.py'"),
    (['--confg=configs/small.py'], "did you mean '--config'"),
    (['--config=configs/small.py:smok'], "did you mean 'smoke'"),
    (['--config=configs/small.py:noise=x'], 'a finite number'),
    (['--config=configs/small.py', 'more'], "unknown argument 'more'"),
    (['--config=configs/small.py', '--swep'], "did you mean '--sweep'"),
    (['--config=configs/small.py', '--sweep=1'], 'ignored explicit argument'),
    (['--config=configs/small.py', '--workdir'], 'expected one argument'),
    (['--config=configs/small.py', '--workdir='], 'name a folder'),
    (['--config=configs/small.py', '--config.seeds'], 'needs a value'),
    (['--config=configs/small.py', '--config.seeds', '1'], 'needs a value'),
    (['--config=configs/small.py', '--config.seeds=a'], 'takes a tuple'),
    (['--config=configs/small.py', '--config.train=1'], 'is a group'),
    (['--config=configs/small.py', '--config.trian.epochs=1'], 'train.epochs'),
    (['--config=configs/small.py', '--config.train.epochs=.5'], 'an int'),
    (['--config=configs/small.py', '--config.=5'], 'unknown config field'),
    (['--config=configs/small.py', '--config.a b=5'], 'unknown config field'),
    (
      ['--config=configs/small.py', '--workdir=configs/small.py'],
      'work folder',
    ),
    (['--config=configs/small.py', '--workdir=/proc/no'], 'work folder'),
  ],
)
def test_malformed_command_lines(path, runs, capfd, argv, said):
  assert said in refusal(capfd, argv)
  assert not runs.seen


def test_the_process_itself_ends_with_one_line_and_2(path):
  done = subprocess.run(
    [sys.executable, '-m', 'cmu_jax.main', f'--config={path}:smok'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert done.stderr == (
    "error: unknown config argument 'smok': did you mean 'smoke'?\n"
  )


def test_help_and_mistakes_do_not_wait_for_jax(path):
  code = (
    'import sys; from cmu_jax import main; main.main(["--help"]); '
    'main.main(["--config=x"]); print("jax" in sys.modules)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout.splitlines()[-1] == 'False'


@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_help(path, capfd, flag):
  pathlib.Path('configs/broken.py').write_text('x = (')
  assert main.main([flag]) == 0
  said = capfd.readouterr().out
  assert 'configs/small.py: A little experiment.' in said
  assert 'configs/broken.py: (cannot be read' in said
  assert 'python -m cmu_jax.main --config=' in said
  assert main.main([flag, f'--config={path}', '--config.seeds=3']) == 0
  said = capfd.readouterr().out
  assert '--config.seeds=3 ' in said
  assert '--config.train.epochs=9 ' in said


def test_help_shows_values_as_they_are_typed(path, capfd):
  main.main(['--help', f'--config={path}'])
  lines = capfd.readouterr().out.splitlines()
  fields = [
    line.strip().partition('  ')[0]
    for line in lines
    if line.startswith('  --config.')
  ]
  fields = fields[fields.index('--config.noise_rate=0.3') :]
  _, overrides = usage.parse([f'--config={path}', *fields])
  again = config.load(path, overrides).config
  assert again.to_dict() == config.load(path).config.to_dict()


def test_interruption(path, runs, capfd):
  runs.fail.append(KeyboardInterrupt())
  assert main.main([f'--config={path}']) == 130
  said = capfd.readouterr().err.strip()
  assert 'same command continues' in said
  assert '\n' not in said
  assert main.main([f'--config={path}']) == 0


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_closed_disk_is_one_line(path, runs, capfd, number):
  runs.fail.append(OSError(number, os.strerror(number), 'runs/x'))
  assert os.strerror(number) in refusal(capfd, [f'--config={path}'])


def test_a_bug_keeps_its_traceback(path, runs):
  runs.fail.append(OSError(errno.EBADF, 'bad descriptor'))
  with pytest.raises(OSError, match='bad descriptor'):
    main.main([f'--config={path}'])
  runs.fail.append(ZeroDivisionError())
  with pytest.raises(ZeroDivisionError):
    main.main([f'--config={path}'])


def test_set_up_leaves_the_users_settings(path, runs, monkeypatch, tmp_path):
  monkeypatch.setenv('JAX_PLATFORMS', 'mine')
  main.main([f'--config={path}'])
  assert os.environ['JAX_PLATFORMS'] == 'mine'
  cache = tmp_path / 'cache' / 'jax'
  assert os.environ['JAX_COMPILATION_CACHE_DIR'] == str(cache)
  assert cache.is_dir()
  assert os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] == '0'


@pytest.mark.parametrize('plugin', [True, False])
def test_the_cpu_is_the_default_only_without_a_plugin(
  path, runs, monkeypatch, plugin
):
  monkeypatch.setattr(shell, '_has_accelerator', lambda: plugin)
  monkeypatch.delenv('JAX_PLATFORMS')
  main.main([f'--config={path}'])
  assert os.environ.get('JAX_PLATFORMS') == (None if plugin else 'cpu')


def test_a_cache_that_cannot_be_made_is_done_without(
  path, runs, monkeypatch, capfd
):
  monkeypatch.setenv('CMU_JAX_CACHE', path)
  assert main.main([f'--config={path}']) == 0
  assert 'no compilation cache' in capfd.readouterr().err
  assert 'JAX_COMPILATION_CACHE_DIR' not in os.environ


def test_a_sweep_says_how_long_its_other_cells_take(
  path, runs, monkeypatch, capfd
):
  clock = types.SimpleNamespace(seconds=0.0)
  monkeypatch.setattr(study.time, 'monotonic', lambda: clock.seconds)
  durations = iter((100.0, 300.0, 10.0))
  execute = study._compute

  def wait(cfg, folder, minutes):
    clock.seconds += next(durations)
    return execute(cfg, folder, minutes)

  monkeypatch.setattr(study, '_compute', wait)
  assert main.main([f'--config={path}', '--sweep']) == 0
  said = [x for x in capfd.readouterr().err.splitlines() if 'left' in x]
  assert said == [
    'sweep: 2 cells left, at most about 3 min if they are like those so far',
    'sweep: 1 cell left, at most about 3 min if they are like those so far',
  ]
