"""The benchmark as a command: a whole little sweep, and mistakes."""

import json
import pathlib

import pytest
import small_run

from cmu_jax import main

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f'{ROOT}/configs/corrective_digits.py:smoke'
FIELDS = {
  'methods': 'rewod,ssd,scrub,badt,cf',
  'model.width': 16,
  'manipulations': 'poison,',
  'poison.sizes': '20,',
}


def _argv(folder, *more):
  return [*small_run.argv(CONFIG, folder, FIELDS)[:2], *more, *_fields()]


def _fields():
  return [f'--config.{name}={value}' for name, value in FIELDS.items()]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  small_run.keep_environment(monkeypatch)


def test_a_sweep_ends_with_results_tables_and_a_page(tmp_path, capsys):
  assert main.main(_argv(tmp_path, '--sweep')) == 0
  results = json.loads((tmp_path / 'results.json').read_text())
  assert results['finished']
  methods = {row['method'] for row in results['rows']}
  assert methods == {'none', 'rewod', 'ssd', 'scrub', 'badt', 'cf'}
  assert {row['identified_fraction'] for row in results['rows']} == {
    None,
    0.5,
    1.0,
  }
  ssd = [row for row in results['rows'] if row['method'] == 'ssd']
  assert {row['hyper_points'] for row in ssd} == {39}
  assert results['importance']
  assert list((tmp_path / 'tables').iterdir())
  page = (tmp_path / 'report.html').read_text()
  assert 'http://' not in page.replace('http://www.w3.org', '')
  assert 'report.html' in capsys.readouterr().out


def test_minutes_stop_it_and_the_same_command_ends_it(tmp_path):
  assert main.main(_argv(tmp_path, '--minutes=0.000001')) == 0
  results = json.loads((tmp_path / 'results.json').read_text())
  assert not results['finished']
  assert results['rows'] == []


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    (['--minutes=soon'], '--minutes=soon'),
    (['--minutes=0'], 'above 0'),
    (['--distributed=here'], 'ADDRESS:PORT'),
    (['--distributed=localhost:1,2,2'], 'process 2'),
    (['--config.methods=rewod,ssb'], 'ssb'),
    (['--config.poison.target=11'], 'poison.target'),
    (['--config.interclass.pair=3-5'], '3-5'),
  ],
)
def test_mistakes_are_one_line(tmp_path, capfd, argv, said):
  assert main.main([f'--config={CONFIG}', f'--workdir={tmp_path}', *argv]) == 2
  lines = capfd.readouterr().err.splitlines()
  assert [line for line in lines if line.startswith('error: ')] == lines[-1:]
  assert said in lines[-1]
