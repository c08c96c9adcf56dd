"""A whole little run as a command: files, resuming, mistakes, the page."""

import importlib
import json
import pathlib
import shutil

import pytest
import small_run

from cmu_jax import main
from cmu_jax.core import errors
from cmu_jax.report import frame
from cmu_jax.studies.subsets import report

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f'{ROOT}/configs/amun_digits.py:smoke,references=2,width=8'
FIELDS = {
  'methods': 'ft,ga_alone',
  'attack': 'confidence',
  'train_limit': 60,
  'test_limit': 40,
  'seeds': '0,1',
  'evaluate.replicates': 20,
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


def results(folder):
  return json.loads((folder / 'results.json').read_text())


def numbers(folder):
  """The rows without what a clock says."""
  rows = results(folder)['rows'] + results(folder)['tuning']
  return [{k: v for k, v in row.items() if k != 'seconds'} for row in rows]


def test_what_a_run_leaves(done):
  found = results(done)
  assert found['finished']
  assert found['smoke']
  methods = ['none', 'retrain', 'ft', 'ga_alone']
  assert list(found['methods']) == methods
  pairs = [(row['seed'], row['method']) for row in found['rows']]
  assert pairs == [(s, m) for s in (0, 1) for m in methods]
  assert {row['forget_seed'] for row in found['tuning']} == {100}
  assert len(found['tuning']) == 2 * 2
  for row in found['rows']:
    assert 0 <= row['forget_accuracy'] <= 1
    assert row['ft_auc_rmia'] is not None
  names = {path.name for path in (done / 'tables').iterdir()}
  assert names == {'with_D_R.md', 'without_D_R.md', 'audits.md', 'choices.md'}
  assert 'smoke: not evidence' in (done / 'tables/with_D_R.md').read_text()
  page = (done / 'report.html').read_text()
  assert 'http' not in page
  assert page.count('<img') == 2
  # Neither references nor optimiser states are kept.
  assert len(list((done / 'originals').iterdir())) == 2


def test_the_same_command_computes_nothing_again(done, tmp_path):
  folder = tmp_path / 'w'
  shutil.copytree(done, folder)
  before = {p: p.stat().st_mtime_ns for p in folder.glob('cells/*')}
  assert main.main(argv(folder)) == 0
  assert {p: p.stat().st_mtime_ns for p in folder.glob('cells/*')} == before
  assert numbers(folder) == numbers(done)


def test_a_run_that_lost_some_files_ends_as_one_that_was_not_stopped(
  done, tmp_path
):
  folder = tmp_path / 'w'
  shutil.copytree(done, folder)
  for path in sorted(folder.glob('cells/*.json'))[::2]:
    path.unlink()
  shutil.rmtree(folder / 'originals')
  shutil.rmtree(folder / 'shadow')
  assert main.main(argv(folder)) == 0
  assert numbers(folder) == numbers(done)


def test_minutes_stop_it_and_the_page_says_so(done, tmp_path, capfd):
  folder = tmp_path / 'w'
  shutil.copytree(done, folder)
  for path in folder.glob('cells/*.json'):
    record = json.loads(path.read_text())
    if record['cell']['method'] == 'ga_alone':
      path.unlink()
  assert main.main(argv(folder, '--minutes=0.000001')) == 0
  assert 'the same command continues' in capfd.readouterr().err
  found = results(folder)
  assert not found['finished']
  assert {row['method'] for row in found['rows']} == {'none', 'retrain', 'ft'}
  assert 'not finished' in (folder / 'report.html').read_text()


@pytest.mark.parametrize(
  ('more', 'said'),
  [
    (['--config.fraction=0'], 'config.fraction is 0'),
    (['--config.fraction=0.001'], 'forgets 0'),
    (['--config.methods=ft,gb_alone'], "did you mean 'ga_alone'"),
    (['--distributed=1,2'], 'is not ADDRESS:PORT,PROCESS,COUNT'),
    (['--minutes=0'], 'above 0'),
  ],
)
def test_mistakes_are_one_line(tmp_path, capfd, more, said):
  assert main.main(argv(tmp_path, *more)) == 2
  (line,) = capfd.readouterr().err.splitlines()
  assert line.startswith('error: ')
  assert said in line


def test_results_that_cannot_be_shown(done, tmp_path):
  whole = results(done)
  broken = [
    ({**whole, 'task': 'corrective'}, 'not of task forgetting'),
    ({k: v for k, v in whole.items() if k != 'rows'}, "'rows' is missing"),
    ({**whole, 'rows': [{}]}, r'rows\[0\] has no method'),
  ]
  for value, said in broken:
    (tmp_path / 'results.json').write_text(json.dumps(value))
    with pytest.raises(errors.UserError, match=said):
      report.REPORT.read(tmp_path)


def test_requests_have_a_table_and_a_figure(done, tmp_path):
  whole = results(done)
  row = next(row for row in whole['rows'] if row['method'] == 'ft')
  turns = [{**row, 'request': i, 'fr_auc': 0.6, 'ft_auc': 0.5} for i in (1, 2)]
  (tmp_path / 'results.json').write_text(
    json.dumps({**whole, 'requests': turns})
  )
  page = frame.show(report.REPORT, tmp_path).read_text()
  assert page.count('<img') == 3
  table = (tmp_path / 'tables/requests.md').read_text()
  assert '| ft | 10.00 | 10.00 |' in table


def test_a_report_of_nothing_yet(done, tmp_path):
  empty = {**results(done), 'rows': [], 'tuning': [], 'methods': {}}
  (tmp_path / 'results.json').write_text(json.dumps(empty))
  assert 'No verdict yet' in frame.show(report.REPORT, tmp_path).read_text()


def test_the_gpu_script_goes_on_where_it_stopped(tmp_path, monkeypatch):
  """At a tiny scale: nothing begins without time, then all is done."""
  monkeypatch.syspath_prepend(ROOT / 'experiments')
  script = importlib.import_module('amun_cifar10')
  tiny = {
    'dataset': 'digits',
    'published_indices': 'false',
    'model.name': 'fc',
    'model.width': '8',
    'input.flip': 'false',
    'input.pad': '0',
    'train_limit': '60',
    'test_limit': '40',
    'evaluate.replicates': '20',
  }
  monkeypatch.chdir(ROOT)
  words = ['script', '--epochs=5', '--methods=ft', f'--out={tmp_path}']
  words += [f'--work={tmp_path}/w', '--set', *map('='.join, tiny.items())]
  path = tmp_path / 'amun_cifar10_short.json'
  monkeypatch.setattr('sys.argv', [*words[:4], '--minutes=0', *words[4:]])
  script.main()
  assert json.loads(path.read_text())['rows'] == []
  monkeypatch.setattr('sys.argv', words)
  script.main()
  found = json.loads(path.read_text())
  assert found['finished']
  assert 'not a reproduction' in found['says']
  methods = ['none', 'retrain', 'ft']
  assert [one['method'] for one in found['beside']] == methods
  assert found['beside'][1]['gap_of_confidence'] == 0
  assert found['beside'][0]['published_full_schedule'] is None
  # One network of float32 and no state of an optimiser.
  (kept,) = (tmp_path / 'w/originals').iterdir()
  assert kept.stat().st_size < 8 * 4 * (64 * 8 + 8 * 8 + 8 * 10)
