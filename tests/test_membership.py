"""Audits of methods: who forgets what, attacks by their definition, a run."""

import json
import pathlib
import shutil

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax import main
from cmu_jax.audits import shadow
from cmu_jax.core import config as configs
from cmu_jax.core import errors
from cmu_jax.studies.membership import measure, report, tables, world
from cmu_jax.studies.membership import settings as audit_settings

ROOT = pathlib.Path(__file__).parents[1]


@settings(max_examples=8, deadline=None)
@given(k=st.integers(1, 4), seed=st.integers(0, 9), count=st.integers(0, 10))
def test_each_network_forgets_as_many_of_its_own(k, seed, count):
  key = jax.random.key(seed)
  inside = shadow.assign_halves(key, 2 * k, 20)
  found = world.draw_forget_sets(key, inside, count)
  assert (found.sum(axis=1) == count).all()
  assert not (found & ~inside).any()


def run(folder, config, *more):
  spec = f'{ROOT}/configs/{config}'
  return main.main([f'--config={spec}', f'--workdir={folder}', *more])


RMIA = 'rmia_digits.py:smoke,width=8'


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  folder = tmp_path_factory.mktemp('membership') / 'w'
  assert run(folder, RMIA) == 0
  return folder


@pytest.mark.slow
def test_what_a_run_leaves(done):
  found = json.loads((done / 'results.json').read_text())
  assert found['finished'] and found['smoke']
  assert list(found['methods']) == ['none', 'retrain', 'amun']
  rows, half = found['rows'], found['pool_size'] // 2
  kinds = {(r['method'], r['adaptive']) for r in rows}
  assert kinds == {
    ('none', False),
    ('retrain', False),
    ('amun', False),
    ('amun', True),
  }
  for row in rows:
    forgotten = round(0.1 * half)
    size = forgotten if row['points'] == 'forget' else half - forgotten
    assert row['positives'] == 2 * size
    assert row['negatives'] == 2 * half
    assert row['references'] == 4
    assert len(row['by_network']) == len(row['test_accuracy']) == 2
  assert set(found['sanity']) == {'RMIA', 'RMIA, ratio alone', 'LiRA'}
  names = {path.name for path in (done / 'tables').iterdir()}
  assert names == {
    'forgotten.md',
    'retained.md',
    'accuracy.md',
    'intervals.md',
  }
  assert 'smoke: not evidence' in (done / 'tables/forgotten.md').read_text()
  page = (done / 'report.html').read_text()
  assert 'RMIA, ratio alone, adaptive' in page
  assert 'What this can and cannot show' in page
  assert 'http' not in page
  # Neither networks nor optimiser states are kept.
  assert not list((done / 'originals').iterdir())


@pytest.mark.slow
def test_the_same_command_trains_nothing_again(done, monkeypatch):
  before = (done / 'results.json').read_text()
  monkeypatch.setattr('cmu_jax.training.train.run_segments', None)
  assert run(done, RMIA) == 0
  after = json.loads((done / 'results.json').read_text())
  assert after['rows'] == json.loads(before)['rows']


@pytest.mark.slow
def test_the_time_is_up(done, tmp_path, capfd):
  folder = tmp_path / 'w'
  shutil.copytree(done, folder)
  for cell in (folder / 'cells').iterdir():
    if json.loads(cell.read_text())['rows'][0]['method'] != 'none':
      cell.unlink()
  assert run(folder, RMIA, '--minutes=0.000001') == 0
  assert 'the same command continues' in capfd.readouterr().err
  found = json.loads((folder / 'results.json').read_text())
  assert not found['finished']
  assert list(found['methods']) == ['none']
  assert report.describe(found).label.startswith('Cannot conclude')


@pytest.mark.slow
def test_per_example_audit(tmp_path):
  assert run(tmp_path / 'w', 'ulira_digits.py:smoke,width=8') == 0
  found = json.loads((tmp_path / 'w/results.json').read_text())
  kinds = {(row['attack'], row['adaptive']) for row in found['rows']}
  assert kinds == {
    ('U-LiRA', True),
    ('RMIA', False),
    ('RMIA, ratio alone', False),
    ('LiRA', False),
    ('RMIA', True),
    ('RMIA, ratio alone', True),
  }
  counts = {(row['positives'], row['negatives']) for row in found['rows']}
  assert len(counts - {(0, 0)}) <= 2  # U-LiRA leaves out points of few models.
  assert {row['method'] for row in found['rows']} == {'none', 'retrain', 'amun'}


def shown(none, retrain, amun, level='leaks'):
  """The parts of results.json that a verdict reads; areas with their bounds."""
  areas = {'none': none, 'retrain': retrain, 'amun': amun}
  rows = [
    {
      'method': method,
      'points': 'forget',
      'attack': 'LiRA',
      'adaptive': False,
      'auroc': dict(zip(('low', 'value', 'high'), area, strict=True)),
      'verdict': level,
    }
    for method, area in areas.items()
  ]
  return {
    'rows': rows,
    'sanity': measure.check_sanity(rows),
    'methods': dict.fromkeys(areas, ''),
    'finished': True,
    'config': {'evaluate': {'confidence': 0.99, 'clusters': []}},
  }


FOUND, CHANCE = (0.6, 0.7, 0.8), (0.45, 0.5, 0.55)


@pytest.mark.parametrize(
  ('none', 'retrain', 'level', 'label', 'tone'),
  [
    (FOUND, CHANCE, 'leaks', 'can be told from unseen ones: amun', 'bad'),
    (FOUND, CHANCE, 'no leak found', 'No attack tells', 'good'),
    (FOUND, FOUND, 'leaks', 'Cannot conclude', 'flat'),
    (CHANCE, CHANCE, 'no leak found', 'Cannot conclude', 'flat'),
  ],
)
def test_a_verdict_rests_on_attacks_that_work(
  none, retrain, level, label, tone
):
  said = report.describe(shown(none, retrain, FOUND, level))
  assert label in said.label
  assert said.tone == tone


def test_limits_in_plain_words():
  found = shown(FOUND, CHANCE, FOUND)
  found['config'] |= {'attack': 'ulira'}
  text = ' '.join(report.describe_limits(found))
  assert 'cannot show that nothing is left' in text
  assert 'each score taken for independent' in text
  assert 'so that they can be compared' in text
  assert 'would show an AUC' not in text
  found['config']['evaluate']['clusters'] = ['networks', 'points']
  for row in found['rows']:
    row |= {'detectable': 0.53, 'attack': 'U-LiRA'}
  text = ' '.join(report.describe_limits(found))
  assert 'an AUC of 53.0' in text
  assert 'whole networks and points drawn' in text
  assert 'so that they can be compared' not in text


def test_names_of_attacks():
  row = {'attack': 'LiRA', 'adaptive': True}
  assert tables.name_attack(row) == 'LiRA, adaptive'
  assert tables.name_attack({**row, 'attack': 'U-LiRA'}) == 'U-LiRA'


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'references': '3'}, 'an even number'),
    ({'attack': 'rmai'}, "did you mean 'rmia'"),
    ({'methods': 'retrain,'}, 'methods'),
    ({'learning_rates': '0.1,0.01'}, 'an audit tunes nothing'),
    ({'fraction': '1.0'}, 'config.fraction'),
    ({'rmia.gamma': '0.5'}, 'config.rmia.gamma'),
    ({'rmia.offline_a': '2.0'}, 'config.rmia.offline_a'),
    ({'evaluate.confidence': '1.0'}, 'config.evaluate.confidence'),
    ({'evaluate.replicates': '1'}, 'config.evaluate.replicates'),
    ({'memory': '0.0'}, 'config.memory'),
    ({'evaluate.clusters': 'network,'}, "did you mean 'networks'"),
  ],
)
def test_settings_that_cannot_be(changes, said):
  config = configs.load(f'{ROOT}/configs/{RMIA}', changes).config
  with pytest.raises(errors.UserError, match=said):
    audit_settings.check(config)
