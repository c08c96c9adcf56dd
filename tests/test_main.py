"""The command line, with a stand-in for the experiment itself."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import types

import pytest

from cmu_jax import config, errors, grid, main, provenance, usage, workdir

FILE = '''"""A little experiment."""
import ml_collections
from cmu_jax import config

def get_config(arg=''):
  a = config.parse_arg(arg, smoke=False, noise=0.3)
  return ml_collections.ConfigDict({
    'seeds': (0, 1), 'noise_rate': a.noise,
    'train': {'epochs': 1 if a.smoke else 9},
  })

def sweep(add):
  for noise in (0.2, 0.4, 0.6):
    add(noise=noise)
'''


@pytest.fixture
def path(tmp_path, monkeypatch):
  """A config file in an empty current folder; the environment is put back."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('CMU_JAX_CACHE', str(tmp_path / 'cache'))
  for name in ('DIR', 'MIN_COMPILE_TIME_SECS', 'MIN_ENTRY_SIZE_BYTES'):
    kind = 'COMPILATION' if name == 'DIR' else 'PERSISTENT'
    monkeypatch.setenv(f'JAX_{kind}_CACHE_{name}', '')
    monkeypatch.delenv(f'JAX_{kind}_CACHE_{name}')
  pathlib.Path('configs').mkdir()
  pathlib.Path('configs/small.py').write_text(FILE)
  return 'configs/small.py'


@pytest.fixture
def runs(monkeypatch):
  """Calls of the stand-in, as (config, workdir); append to `fail` to raise."""
  calls = types.SimpleNamespace(seen=[], fail=[])

  def experiment(cfg, folder):
    calls.seen.append((cfg, folder))
    if calls.fail:
      raise calls.fail.pop()
    results = {
      'finished': True,
      'provenance': {'config_hash': config.fingerprint(cfg)},
      'rows': [
        {'method': method, 'seed': seed, 'test_accuracy': accuracy + seed / 10}
        for seed in cfg.seeds
        for method, accuracy in (('none', 0.5), ('cuts', cfg.noise_rate))
      ],
    }
    (folder / 'results.json').write_text(json.dumps(results))
    return results

  fake = types.ModuleType('cmu_jax.run')
  fake.experiment = experiment
  monkeypatch.setitem(sys.modules, 'cmu_jax.run', fake)
  return calls


def _fails(capfd, argv):
  """The one line that main says on stderr, with exit code 2."""
  assert main.main(argv) == 2
  out, said = capfd.readouterr()
  assert out == ''
  assert said.startswith('error: ')
  assert said.count('\n') == 1
  return said


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
    (['--config=small'], 'not a Python file'),
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
  assert said in _fails(capfd, argv)
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
  assert '--config.seeds=3\n' in said
  assert '--config.train.epochs=9\n' in said


def test_help_shows_values_as_they_are_typed(path, capfd):
  main.main(['--help', f'--config={path}'])
  lines = capfd.readouterr().out.splitlines()
  fields = [line.strip() for line in lines if line.startswith('  --config.')]
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
  assert os.strerror(number) in _fails(capfd, [f'--config={path}'])


def test_a_bug_keeps_its_traceback(path, runs):
  runs.fail.append(OSError(errno.EBADF, 'bad descriptor'))
  with pytest.raises(OSError, match='bad descriptor'):
    main.main([f'--config={path}'])
  runs.fail.append(ZeroDivisionError())
  with pytest.raises(ZeroDivisionError):
    main.main([f'--config={path}'])


def test_a_workdir_belongs_to_one_config(path, runs, capfd):
  argv = [f'--config={path}', '--workdir=w']
  assert main.main([*argv, '--config.train.epochs=3']) == 0
  assert main.main([*argv, '--config.train.epochs=3']) == 0
  said = _fails(capfd, [*argv, '--config.train.epochs=4', '--config.seeds=7'])
  assert 'train.epochs: 3 there, 4 here' in said
  assert 'seeds: [0, 1] there, [7] here' in said
  assert '--workdir' in said
  assert len(runs.seen) == 2


def test_many_changes_are_not_all_spelled_out(tmp_path):
  before = {f'a{i}': i for i in range(9)}
  with workdir.opened(tmp_path, before):
    pass
  with (
    pytest.raises(errors.UserError, match='and 6 more') as caught,
    workdir.opened(tmp_path, {'a8': 7, 'b': 1}),
  ):
    pass
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text', ['', '[]', '{"a": '])
def test_a_workdir_with_a_broken_config_json(path, runs, capfd, text):
  pathlib.Path('w').mkdir()
  pathlib.Path('w/config.json').write_text(text)
  assert 'config.json' in _fails(capfd, [f'--config={path}', '--workdir=w'])


def test_two_runs_in_one_workdir(path, runs, capfd):
  with workdir.opened(pathlib.Path('w'), config.load(path).config):
    said = _fails(capfd, [f'--config={path}', '--workdir=w'])
  assert f'in use by process {os.getpid()}' in said
  assert main.main([f'--config={path}', '--workdir=w']) == 0


def test_sweep(path, runs, capfd):
  argv = [f'--config={path}', '--sweep', '--workdir=s']
  runs.fail.append(errors.UserError('no such data'))
  assert main.main(argv) == 2
  said = capfd.readouterr().err.splitlines()
  assert said[-1] == 'error: cell noise=0.2: no such data'
  assert [folder.name for _, folder in runs.seen] == [
    'noise=0.2',
    'noise=0.4',
    'noise=0.6',
  ]
  assert (
    '| cuts | – | 0.4500 ± 0.0707 (2) |'
    in pathlib.Path('s/sweep.md').read_text()
  )
  # The second time only the failed cell is run.
  assert main.main(argv) == 0
  assert [folder.name for _, folder in runs.seen[3:]] == ['noise=0.2']
  assert pathlib.Path('s/sweep.md').read_text() == (
    'Test accuracy: mean ± sample standard deviation (number of runs).\n\n'
    '| method | noise=0.2 | noise=0.4 | noise=0.6 |\n'
    '|---|---|---|---|\n'
    '| none |' + ' 0.5500 ± 0.0707 (2) |' * 3 + '\n'
    '| cuts | 0.2500 ± 0.0707 (2) | 0.4500 ± 0.0707 (2) '
    '| 0.6500 ± 0.0707 (2) |\n'
  )


def test_a_sweep_whose_cells_do_not_load_runs_nothing(path, runs, capfd):
  file = pathlib.Path(path)
  file.write_text(FILE.replace('add(noise=noise)', 'add(nois=noise)'))
  argv = [f'--config={path}', '--sweep', '--workdir=s']
  assert "did you mean 'noise'" in _fails(capfd, argv)
  assert not runs.seen


@pytest.mark.parametrize(
  ('results', 'known'),
  [
    ({}, False),
    ([], False),
    ({'provenance': {'config_hash': 'x'}}, False),
    ({'finished': False, 'provenance': {'config_hash': None}}, False),
    ({'finished': True, 'provenance': {'config_hash': None}}, True),
  ],
)
def test_finished(tmp_path, results, known):
  cfg = {'a': 1}
  if results and 'provenance' in results:
    made_by = results['provenance']
    made_by['config_hash'] = made_by['config_hash'] or config.fingerprint(cfg)
  assert grid.finished(tmp_path, cfg) is None
  (tmp_path / 'results.json').write_text(json.dumps(results))
  assert (grid.finished(tmp_path, cfg) is not None) == known
  (tmp_path / 'results.json').write_text('{"finished": tr')
  assert grid.finished(tmp_path, cfg) is None


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
  monkeypatch.setattr(main, '_accelerator', lambda: plugin)
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


def _git(folder, *arguments):
  identity = ['-c', 'user.name=a', '-c', 'user.email=a@b.example']
  subprocess.run(
    ['git', '-C', folder, *identity, *arguments],
    check=True,
    capture_output=True,
  )


def test_commit(tmp_path):
  assert provenance.commit(tmp_path) is None
  _git(tmp_path, 'init')
  assert provenance.commit(tmp_path) is None
  (tmp_path / 'a').write_text('1')
  _git(tmp_path, 'add', 'a')
  _git(tmp_path, 'commit', '-m', 'a')
  clean = provenance.commit(tmp_path)
  assert len(clean) == 40
  (tmp_path / 'untracked').write_text('1')
  assert provenance.commit(tmp_path) == clean
  (tmp_path / 'a').write_text('2')
  assert provenance.commit(tmp_path) == f'{clean}-dirty'
  (tmp_path / 'inside').mkdir()
  assert provenance.commit(tmp_path / 'inside') is None


def test_provenance(monkeypatch):
  monkeypatch.setenv('PATH', '')
  monkeypatch.setattr(sys, 'orig_argv', ['/opt/python', '-m', 'x', '--a=b c'])
  found = provenance.provenance({'a': 1})
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
