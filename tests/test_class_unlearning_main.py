"""A whole little run that forgets classes, as a command."""

import json
import pathlib
import shutil

import pytest
import small_run

from cmu_jax import main

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f'{ROOT}/configs/trw_digits.py:smoke,width=8'
FIELDS = {
  'methods': 'mask,trw',
  'train_limit': 300,
  'test_limit': 100,
  'seeds': '0,1,2',
  'forget_classes': '1,8',
  'learning_rates': '0.1,',
  'evaluate.folds': '3',
}


def argv(folder, *more):
  fields = [f'--config.{name}={value}' for name, value in FIELDS.items()]
  return [f'--config={CONFIG}', f'--workdir={folder}', *fields, *more]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  small_run.keep_environment(monkeypatch)


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """A finished run; copy it, do not touch it."""
  folder = tmp_path_factory.mktemp('done') / 'w'
  with pytest.MonkeyPatch.context() as patch:
    small_run.keep_environment(patch)
    assert main.main(argv(folder)) == 0
  return folder


def numbers(folder):
  """All rows without what a clock says."""
  found = json.loads((folder / 'results.json').read_text())
  rows = found['rows'] + found['noise'] + found['tuning'] + found['ulira']
  return [{k: v for k, v in row.items() if k != 'seconds'} for row in rows]


def test_what_a_run_leaves(done):
  found = json.loads((done / 'results.json').read_text())
  assert found['finished'] and found['smoke']
  methods = ['none', 'retrain', 'mask', 'trw']
  assert list(found['methods']) == methods
  told = {(r['method'], r['forget_class'], r['seed']) for r in found['rows']}
  assert told == {(m, c, s) for m in methods for c in (1, 8) for s in range(3)}
  assert {row['forget_class'] for row in found['tuning']} <= {0}
  assert len(found['noise']) == 2 * 3 * 2 * 2
  # Three retrained networks are too few to be set beside each other.
  assert len(found['ulira']) == 2 * 2 * 3
  # Of shadow models: as many of either kind.
  told = {(r['unlearned'], r['retrained']) for r in found['ulira']}
  assert told == {(3, 3)}
  assert 'statistics' not in found['rows'][-1]
  assert 'smoke: not evidence' in (done / 'report.html').read_text()


def test_a_run_that_lost_some_files_ends_as_one_that_was_not_stopped(
  done, tmp_path
):
  folder = tmp_path / 'w'
  shutil.copytree(done, folder)
  for path in sorted(folder.glob('cells/*.json'))[::2]:
    path.unlink()
  for path in sorted(folder.glob('retrained/*.npz'))[::2]:
    path.unlink()
  shutil.rmtree(folder / 'originals')
  assert main.main(argv(folder)) == 0
  assert numbers(folder) == numbers(done)


def test_minutes_stop_it_and_the_page_says_so(done, tmp_path, capfd):
  folder = tmp_path / 'w'
  shutil.copytree(done, folder)
  for path in folder.glob('cells/*.json'):
    if json.loads(path.read_text())['cell']['seed'] == 2:
      path.unlink()
  assert main.main(argv(folder, '--minutes=0.000001')) == 0
  assert 'the same command continues' in capfd.readouterr().err
  assert 'not finished' in (folder / 'report.html').read_text()
  empty = tmp_path / 'empty'
  assert main.main(argv(empty, '--minutes=0.000001')) == 0
  assert 'No verdict yet' in (empty / 'report.html').read_text()


def test_a_mistake_is_one_line(tmp_path, capfd):
  more = ['--config.retrained=1']
  assert main.main(argv(tmp_path / 'w', *more)) == 2
  said = capfd.readouterr().err.strip()
  assert 'config.retrained is 1' in said
  assert len(said.splitlines()) == 1
