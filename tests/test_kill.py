"""A run that is stopped at any moment ends as one that was not."""

import json
import pathlib
import random
import re
import shutil
import subprocess
import time

import pytest
import small_run

from cmu_jax import main
from cmu_jax.report import frame

# Long enough to be caught at work, saved after every segment.
FIELDS = {'train.steps': 1500, 'checkpoint_seconds': 0, 'seeds': '0,1'}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
  small_run.keep_environment(monkeypatch)


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """A run that nothing happened to; copy it, do not touch it."""
  folder = tmp_path_factory.mktemp('reference') / 'w'
  with pytest.MonkeyPatch.context() as patch:
    small_run.keep_environment(patch)
    small_run.run(small_run.NOISE, folder, FIELDS)
  return folder


def saved(folder):
  """stage/seed -> the newest step that is saved."""
  found = {}
  for path in folder.glob('checkpoints/*/*/*/manifest.json'):
    if path.parent.name.isdigit():
      stage = '/'.join(path.parts[-4:-2])
      found[stage] = max(found.get(stage, 0), int(path.parent.name))
  return found


def killed(arguments, folder, enough, wait=120.0):
  """Starts a process and kills it once `enough(saved)`; its stderr.

  None if it came to its end by itself.
  """
  process = subprocess.Popen(
    **small_run.command(arguments),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  )
  until = time.monotonic() + wait
  while time.monotonic() < until and process.poll() is None:
    if enough(saved(folder)):
      break
    time.sleep(0.02)
  ended = process.poll() is not None
  process.kill()
  said = process.communicate()[1]
  if ended:
    assert process.returncode == 0, said
  return None if ended else said


def continued(said):
  """Title -> the step at which a training went on."""
  return {
    title: int(step)
    for title, step in re.findall(r'(.+): continues at step (\d+) of', said)
  }


@pytest.mark.slow
def test_killed_twice_and_continued(tmp_path, reference, capfd):
  arguments = small_run.argv(small_run.NOISE, tmp_path / 'w', FIELDS)
  folder = tmp_path / 'w'
  first = lambda found: found.get('corrupted/seed_0', 0) > 50
  assert killed(arguments, folder, first) is not None
  before = saved(folder)
  assert before['corrupted/seed_0'] < 1500
  later = lambda found: found.get('oracle/seed_0', 0) > 0
  said = killed(arguments, folder, later)
  assert said is not None
  # Nothing that was saved is done again.
  assert continued(said)['corrupted, seed 0'] == before['corrupted/seed_0']
  between = saved(folder)
  assert between['corrupted/seed_1'] == 1500
  assert main.main(arguments) == 0
  said = continued(capfd.readouterr().err)
  assert 'corrupted, seed 0' not in said
  if between['oracle/seed_0'] < 1500:
    assert said['oracle, seed 0'] == between['oracle/seed_0']
  assert small_run.numbers(folder) == small_run.numbers(reference)


@pytest.mark.slow
@pytest.mark.parametrize('config', [small_run.NOISE, small_run.POISON])
def test_killed_again_and_again(tmp_path, config):
  done = small_run.process(
    small_run.argv(config, tmp_path / 'reference', FIELDS)
  )
  assert done.returncode == 0, done.stderr
  total = sum(saved(tmp_path / 'reference').values())
  draw = random.Random(0)
  folder, kills = tmp_path / 'w', 0
  arguments = small_run.argv(config, folder, FIELDS)
  # Steps, not seconds: a busy machine must not end a run before its kill.
  for share in sorted(draw.uniform(0, 0.9) for _ in range(10)):
    pause = draw.uniform(0, 0.5)
    least = max(share * total, sum(saved(folder).values()))

    def enough(steps, least=least, pause=pause):
      if sum(steps.values()) <= least:
        return False
      time.sleep(pause)
      return True

    kills += killed(arguments, folder, enough, 600) is not None
  assert kills >= 5
  assert small_run.process(arguments).returncode == 0
  assert small_run.numbers(folder) == small_run.numbers(tmp_path / 'reference')


@pytest.mark.slow
def test_a_truncated_newest_checkpoint(tmp_path, reference, capfd):
  folder = tmp_path / 'w'
  shutil.copytree(reference, folder)
  steps = sorted(
    (folder / 'checkpoints/corrupted/seed_1').iterdir(),
    key=lambda path: int(path.name),
  )
  assert [path.name for path in steps][-1] == '1500'
  older, newest = steps[-2:]
  largest = max(newest.rglob('*'), key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:-100])
  # Finished cells need no checkpoint.
  shutil.rmtree(folder / 'cells')
  arguments = small_run.argv(small_run.NOISE, folder, FIELDS)
  assert main.main(arguments) == 0
  said = capfd.readouterr().err
  assert 'is cut short or altered' in said
  assert f'step {older.name} is used' in said
  assert continued(said)['corrupted, seed 1'] == int(older.name)
  assert small_run.numbers(folder) == small_run.numbers(reference)


@pytest.mark.slow
def test_a_run_again_changes_nothing(tmp_path, reference, capfd):
  folder = tmp_path / 'w'
  shutil.copytree(reference, folder)
  stale = [
    folder / '.results.json.abcdefgh.part',
    folder / 'figures' / '.methods.png.abc_efg1.part',
    folder / 'tensorboard' / '.events.out.tfevents.0.cmu_jax.abc_efg1.part',
  ]
  for path in stale:
    path.write_text('half')
  shutil.rmtree(folder / 'tables')
  began = time.monotonic()
  assert main.main(small_run.argv(small_run.NOISE, folder, FIELDS)) == 0
  assert time.monotonic() - began < 60
  assert continued(capfd.readouterr().err) == {}
  assert not any(path.exists() for path in stale)
  assert small_run.numbers(folder) == small_run.numbers(reference)


@pytest.mark.slow
def test_the_event_file_is_never_missing(tmp_path, reference, monkeypatch):
  from cmu_jax.studies.cuts import telemetry

  folder = tmp_path / 'w'
  shutil.copytree(reference, folder)

  def stop(path, points):
    path.write_text('half')
    raise KeyboardInterrupt

  arguments = small_run.argv(small_run.NOISE, folder, FIELDS)
  with monkeypatch.context() as patch:
    patch.setattr(telemetry, '_write_events', stop)
    assert main.main(arguments) == 130
  before, after = (small_run.numbers(f) for f in (reference, folder))
  events = [name for name in before if 'tfevents' in name]
  assert [after[name] for name in events] == [before[name] for name in events]


@pytest.mark.slow
def test_stopped_while_the_report_is_written(
  tmp_path, reference, monkeypatch, capfd
):
  folder = tmp_path / 'w'
  shutil.copytree(reference, folder)
  (folder / 'report.html').unlink()
  arguments = small_run.argv(small_run.NOISE, folder, FIELDS)

  def stop(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(frame, 'write_figures', stop)
    assert main.main(arguments) == 130
  assert 'the same command continues' in capfd.readouterr().err
  results = json.loads((folder / 'results.json').read_text())
  assert results['finished'] is False
  assert main.main(arguments) == 0
  assert small_run.numbers(folder) == small_run.numbers(reference)


SWEEP = '''"""Two cells."""
import runpy
from cmu_jax import config

digits = runpy.run_path({path!r})

def get_config(arg=''):
  return digits['get_config'](','.join(filter(None, ('smoke', arg))))

def sweep(add):
  add(noise=0.2)
  add(noise=0.4)
'''


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capfd):
  digits = small_run.ROOT / 'configs/cuts_digits.py'
  file = tmp_path / 'two.py'
  file.write_text(SWEEP.format(path=str(digits)))
  folder = tmp_path / 's'
  arguments = [*small_run.argv(file, folder), '--sweep']

  show = frame.show

  def stop_in_the_second(report, workdir):
    if pathlib.Path(workdir).name == 'noise=0.4':
      raise KeyboardInterrupt
    return show(report, workdir)

  with monkeypatch.context() as patch:
    patch.setattr(frame, 'show', stop_in_the_second)
    assert main.main(arguments) == 130
  first = folder / 'noise=0.2'
  before = {path: path.stat().st_mtime_ns for path in first.rglob('*')}
  assert not (folder / 'noise=0.4' / 'report.html').exists()
  capfd.readouterr()
  assert main.main(arguments) == 0
  said = capfd.readouterr().err
  assert 'cell 1/2 noise=0.2: finished already' in said
  assert 'cell 2/2 noise=0.4\n' in said
  assert {path: path.stat().st_mtime_ns for path in first.rglob('*')} == before
  assert (folder / 'noise=0.4' / 'report.html').exists()
  assert '| noise=0.2 | noise=0.4 |' in (folder / 'sweep.md').read_text()
