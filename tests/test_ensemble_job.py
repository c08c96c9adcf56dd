"""Runs on ensembles: settings, tables, pages; and, slowly, a whole run."""

import json

import pytest

from cmu_jax import main
from cmu_jax.core import config as config_lib
from cmu_jax.core import errors
from cmu_jax.report import frame
from cmu_jax.studies.engine.run import follow_plan, make_context
from cmu_jax.studies.engine.store import TimeIsUp
from cmu_jax.studies.ensembles import report, settings, study, tables, world


def _row(method, seed, **changes):
  row = {
    'method': method,
    'seed': seed,
    'threat': 'correct',
    **{key: 0.5 for key in tables.METRICS},
    **{key: 1.0 for key in tables.NETWORKS},
  }
  return row | changes


def _results(**changes):
  rows = [
    _row(method, seed, t_rate=rate + 0.01 * seed)
    for method, rate in (('plain', 0.9), ('clipped', 0.8), ('lotos', 0.5))
    for seed in (0, 1, 2)
  ]
  curve = {
    'penalty': [0.2, 0.1],
    'cross_entropy': [1.0, 0.5],
    'method': 'lotos',
  }
  found = {
    'schema': 1,
    'name': 'small',
    'task': 'ensemble',
    'smoke': False,
    'finished': True,
    'provenance': {'command': 'python', 'versions': {}},
    'config': {'seeds': [0, 1, 2]},
    'class_names': ['a', 'b'],
    'rows': rows,
    'curves': [{**curve, 'seed': seed} for seed in (0, 1, 2)],
  }
  return found | changes


def _shown(folder, results):
  (folder / 'results.json').write_text(json.dumps(results))
  return frame.show(report.REPORT, folder).read_text()


def test_the_page_says_what_the_penalty_did(tmp_path):
  page = _shown(tmp_path, _results())
  assert 'T_rate with LOTOS is 30.0 points lower' in page
  assert 'interval over seeds holds 0' not in page
  assert page.count('<img') == 2
  assert (tmp_path / 'figures' / 'transfer.png').stat().st_size > 10_000
  rates = (tmp_path / 'tables' / 'rates_correct.md').read_text()
  assert '| LOTOS | 0.500 ± 0.000 |' in rates
  changes = (tmp_path / 'tables' / 'differences_correct.md').read_text()
  assert '−0.300 \\[−0.300, −0.300\\]' in changes


def test_a_difference_that_may_be_none_is_called_so():
  rows = [_row('clipped', s, t_rate=0.5) for s in (0, 1)]
  rows += [_row('lotos', 0, t_rate=0.2), _row('lotos', 1, t_rate=0.7)]
  found = tables.compare(
    _results(rows=rows), 'correct', 't_rate', 'clipped', 'lotos'
  )
  assert found.mean == pytest.approx(-0.05)
  assert found.low < 0 < found.high and found.seeds == 2
  alone = tables.compare(
    _results(rows=rows[::2]), 'correct', 't_rate', 'clipped', 'lotos'
  )
  assert alone.low is None and tables.format_change(alone) == '−0.300'


def test_what_is_missing_is_a_dash_and_not_a_zero(tmp_path):
  rows = [_row('plain', 0, t_rate=None), _row('lotos', 0)]
  page = _shown(tmp_path, _results(rows=rows, curves=[], finished=False))
  assert 'not finished' in page
  assert (
    '| plain | 0.500 | 0.500 | – |'
    in (tmp_path / 'tables' / 'rates_correct.md').read_text()
  )
  assert 'No cell is done yet' in _shown(tmp_path, _results(rows=[], curves=[]))


def test_results_of_another_task_are_refused(tmp_path):
  with pytest.raises(errors.UserError, match='not of task ensemble'):
    _shown(tmp_path, _results(task='corrective'))


BAD = {
  'members': (1, 'members is 1; it must be at least 2'),
  'attack.radius': (0.0, 'attack.radius is 0.0; it must be above 0'),
  'attack.step': (2.0, 'attack.step is 2.0; it must be above 0 and at most 1'),
  'lotos.mal': (1.0, 'idle'),
  'clip.every': (0, 'at least 1'),
  'methods': (('plain', 'lotus'), "did you mean 'lotos'"),
  'threats': (('published',), 'paper_compat_clamp'),
  'lotos.normaliser': ('code', 'code_compat_norm'),
}


@pytest.mark.parametrize('field', BAD)
def test_settings_that_cannot_be_are_refused_in_one_line(field):
  value, message = BAD[field]
  config = settings.base('bad')
  config.update_from_flattened_dict({field: value})
  with pytest.raises(errors.UserError, match=message) as caught:
    settings.check(config)
  assert '\n' not in str(caught.value)


def test_the_defaults_are_sound():
  settings.check(settings.base('good'))
  settings.check(settings.shrink(settings.base('small')))


@pytest.mark.slow
def test_a_run_from_the_command_line_and_again(tmp_path, capsys):
  """Every stage runs; the second time nothing is trained."""
  command = [
    '--config=configs/lotos_digits.py:smoke',
    f'--workdir={tmp_path}',
    '--config.train_limit=200',
    '--config.test_limit=40',
  ]
  assert main.main(command) == 0
  results = json.loads((tmp_path / 'results.json').read_text())
  assert results['finished'] and len(results['rows']) == 8
  rows = {(r['method'], r['threat']): r for r in results['rows']}
  clipped = rows['lotos', 'correct']
  assert (
    clipped['largest_layer_norm']
    < rows['plain', 'correct']['largest_layer_norm']
  )
  # Of four: it begins at work, and may then have pushed all below `mal`.
  assert clipped['idle_epochs'] < 4
  assert (tmp_path / 'report.html').exists()
  capsys.readouterr()
  assert main.main(command) == 0
  assert 'steps' not in capsys.readouterr().err
  again = json.loads((tmp_path / 'results.json').read_text())
  assert again['rows'] == results['rows']


@pytest.mark.slow
def test_a_run_that_is_cut_in_a_training_goes_on_from_there(tmp_path, capsys):
  """The numbers are those of a run that nobody stopped."""
  config = config_lib.load('configs/lotos_digits.py:smoke').config
  with config.unlocked():
    config.methods, config.threats = ('plain',), ('correct',)
    config.train_limit, config.test_limit = 200, 40
    config.model = {'name': 'fc', 'width': 8, 'dtype': 'float32'}
    config.evaluate.lipschitz, config.checkpoint_seconds = False, 0.0
  loaded = world.load(config)

  def run(name, minutes=None):
    context = make_context(config, loaded, tmp_path / name, minutes)
    return follow_plan(study.STUDY, context)

  whole, finished = run('whole')
  assert finished
  assert not run('cut', 0.0)[1]
  assert not list((tmp_path / 'cut').glob('originals/*'))
  # A training ends at its first checkpoint past the deadline.
  late = make_context(config, loaded, tmp_path / 'cut', 0.0)
  with pytest.raises(TimeIsUp):
    study.train(late, study.Ensemble('plain', 0))
  assert list((tmp_path / 'cut').glob('originals/*.npz'))
  capsys.readouterr()
  cut, finished = run('cut')
  assert finished and 'continues at step' in capsys.readouterr().err
  drop = lambda rows: [
    {k: v for k, v in row.items() if k != 'training_seconds'} for row in rows
  ]
  assert drop(cut['rows']) == drop(whole['rows'])
  assert cut['curves'] == whole['curves']
