"""One whole experiment of each kind: every artefact, and what they say."""

import json
import math

import numpy as np
import pytest
import replay
import small_run

from cmu_jax.core import config, errors
from cmu_jax.data import sources
from cmu_jax.studies.cuts import evaluate, scene

KINDS = {
  'symmetric': small_run.NOISE,
  'asymmetric': small_run.ASYMMETRIC,
  'poison': small_run.POISON,
}
BACKDOOR = ['distill_untriggered', 'distill_both', 'distill_projected']
UNLABELLED = ['information_maximization', 'information_maximization_safe']
METHODS = [
  'corrupted',
  'cuts',
  'cuts_safe',
  'cuts_simplex',
  'random_vector',
  'random_vector_uniform',
  *UNLABELLED,
  *BACKDOOR,
  'finetune_clean_proxy',
  'oracle',
  'cuts_best_alpha',
]


def methods(results):
  """Rows in their order; some repairs are for one task only."""
  absent = set(UNLABELLED if results['task'] == 'poison' else BACKDOOR)
  if results['config']['proxy_draws'] == 1:
    absent.add('cuts_simplex')
  return [name for name in METHODS if name not in absent]


POISON_ONLY = {
  'target_class_accuracy',
  'attack_success_rate',
  'triggered_accuracy',
}


@pytest.fixture(
  scope='module',
  params=[
    'symmetric',
    'poison',
    pytest.param('asymmetric', marks=pytest.mark.slow),
  ],
)
def finished(request, tmp_path_factory):
  """Kind, work folder and results of a run of two seeds."""
  with pytest.MonkeyPatch.context() as patch:
    small_run.keep_environment(patch)
    folder = tmp_path_factory.mktemp(request.param)
    seeds = {'seeds': '0,3' if request.param == 'symmetric' else '2'}
    results = small_run.run(KINDS[request.param], folder, seeds)
  return request.param, folder, results


def rows(results, method):
  return [row for row in results['rows'] if row['method'] == method]


def test_every_artefact_is_there(finished):
  _, folder, results = finished
  found = set(small_run.artefacts(folder))
  figures = {path.stem for path in (folder / 'figures').iterdir()}
  expected = {
    'config.json',
    'corruption.json',
    'metrics.jsonl',
    'results.json',
    'arrays.npz',
    'tables/results.md',
    'tables/per_class.md',
    'report.html',
  }
  assert expected <= found
  assert {'alpha_curve', 'confusions', 'methods', 'feature_path'} <= figures
  assert len([name for name in found if 'tfevents' in name]) == 1
  assert not [name for name in found if '.part' in name]
  page = (folder / 'report.html').read_text()
  assert 'smoke: not evidence' in page
  settings = json.loads((folder / 'config.json').read_text())
  assert settings == results['config']
  made_by = results['provenance']
  assert made_by['config_hash'] == config.fingerprint(settings)
  assert page.count('not recorded') == (made_by['commit'] is None)


def test_the_manifest_draws_the_same_corruption(finished):
  kind, folder, results = finished
  records = json.loads((folder / 'corruption.json').read_text())
  seeds = results['config']['seeds']
  assert list(records) == [str(seed) for seed in seeds]
  cfg = config.load(KINDS[kind], {'seeds': ','.join(map(str, seeds))}).config
  world = scene.load_world(cfg)
  for seed in seeds:
    place = scene.draw_scene(cfg, world, seed)
    assert records[str(seed)]['corrupted'] > 0
    # What the oracle does not see is what the record says was corrupted.
    lost = place.train.label.size - place.clean.label.size
    assert records[str(seed)]['corrupted'] == lost
    assert json.loads(json.dumps(place.record)) == records[str(seed)]


def test_a_record_fits_its_own_labels_only(finished):
  _, folder, _ = finished
  record = next(
    iter(json.loads((folder / 'corruption.json').read_text()).values())
  )
  label = sources.load('digits').train.label[: record['samples']]
  with pytest.raises(errors.UserError, match='differs from the recorded'):
    replay.draw_again(record, label)


def test_the_record_alone_is_enough(finished):
  kind, folder, results = finished
  seed = results['config']['seeds'][-1]
  fields = {'noise_rate': '0', 'seeds': str(seed)}
  cfg = config.load(KINDS[kind], fields).config
  truth = scene.draw_scene(cfg, scene.load_world(cfg), seed).train.label
  records = json.loads((folder / 'corruption.json').read_text())
  drawn = replay.draw_again(records[str(seed)], truth)
  assert int(drawn.mask.sum()) == records[str(seed)]['corrupted']


def _walk(value, path=''):
  if isinstance(value, dict):
    for key, item in value.items():
      yield from _walk(item, f'{path}.{key}')
  elif isinstance(value, list):
    for item in value:
      yield from _walk(item, path)
  else:
    yield path, value


def test_numbers_are_finite_and_shares_are_shares(finished):
  kind, _, results = finished
  found = [x for x in results.items() if x[0] not in ('config', 'provenance')]
  for path, value in _walk(dict(found)):
    if isinstance(value, float):
      assert math.isfinite(value), path
    last = path.rpartition('.')[2]
    if last.endswith(('_accuracy', '_rate')) and value is not None:
      assert 0 <= value <= 1, path
  for row in results['rows']:
    assert all(
      (row[key] is not None) == (kind == 'poison') for key in POISON_ONLY
    )
    assert row['test_accuracy'] is not None
  assert (results['smoke'], results['finished'], results['schema']) == (
    True,
    True,
    1,
  )


def test_the_rows_agree_with_each_other(finished):
  kind, _, results = finished
  seeds = results['config']['seeds']
  for method in methods(results):
    assert [row['seed'] for row in rows(results, method)] == seeds
  for curve in results['curves']:
    by_name = {
      row['method']: row
      for row in results['rows']
      if row['seed'] == curve['seed']
    }
    assert list(by_name) == methods(results)
    cuts = by_name['cuts']
    assert (cuts['alpha'], cuts['selected']) == (
      curve['alpha_hat'],
      curve['selected'],
    )
    for control in ('random_vector', 'random_vector_uniform'):
      assert by_name[control]['alpha'] == curve['alpha_hat']
    _recoveries(by_name)
    _diagnostic(kind, by_name, curve)


def _recoveries(by_name):
  worse, better = by_name['corrupted'], by_name['oracle']
  gap = better['test_accuracy'] - worse['test_accuracy']
  expected = (100, 0) if gap > 0 else (None, None)
  found = (better['recovery_percent'], worse['recovery_percent'])
  assert found == pytest.approx(expected)


def _diagnostic(kind, by_name, curve):
  """The best point of the curve, by what its row says it could see."""
  best, at = by_name['cuts_best_alpha'], curve['evaluated']
  here = at['alpha'].index(best['alpha'])
  for name in evaluate.TESTED:
    if best[name] is not None:
      assert best[name] == at[name][here]
  if kind == 'poison':
    assert best['information'] == 'lowest proxy attack success'
    rates = curve['proxy_attack_success_rate']
    assert curve['alpha'][int(np.argmin(rates))] == best['alpha']
  else:
    assert best['information'] == 'test labels'
    assert best['test_accuracy'] >= by_name['cuts']['test_accuracy']
    assert best['test_accuracy'] == max(at['test_accuracy'])


def test_a_point_of_the_curve_is_the_row(finished):
  _, _, results = finished
  for curve in results['curves']:
    at = curve['evaluated']
    here = at['alpha'].index(curve['alpha_hat'])
    (cuts,) = (
      row for row in rows(results, 'cuts') if row['seed'] == curve['seed']
    )
    assert at['test_accuracy'][here] == cuts['test_accuracy']
    (start,) = (
      row for row in rows(results, 'corrupted') if row['seed'] == curve['seed']
    )
    assert at['test_accuracy'][0] == start['test_accuracy']


def test_the_scalars_are_those_of_the_rows(finished):
  _, folder, results = finished
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  found = {(x['tag'], x['step']): x['value'] for x in map(json.loads, lines)}
  assert len(found) == len(lines)
  for row in results['rows']:
    tag = f'result/{row["method"]}/seed_{row["seed"]}/test_accuracy'
    assert found[tag, 0] == pytest.approx(row['test_accuracy'], rel=1e-6)
  for seed in results['config']['seeds']:
    steps = small_run.TINY['train.steps']
    assert (f'corrupted/seed_{seed}/loss', steps - 1) in found
    assert (f'corrupted/seed_{seed}/loss', steps) not in found


def test_the_confusions_are_those_of_the_rows(finished):
  _, folder, results = finished
  with np.load(folder / 'arrays.npz') as arrays:
    for name in ('corrupted', 'cuts'):
      counts = arrays[f'confusion_{name}']
      accuracy = np.trace(counts, axis1=1, axis2=2) / counts.sum((1, 2))
      expected = [row['test_accuracy'] for row in rows(results, name)]
      np.testing.assert_allclose(accuracy, expected, rtol=1e-6)


def test_the_oracle_beats_what_was_corrupted(finished):
  kind, _, results = finished
  assert len(results['class_names']) == 10
  for row in rows(results, 'corrupted'):
    # Even twenty steps of a narrow network learn more than chance.
    assert row['test_accuracy'] > 0.15
  if kind == 'poison':
    assert rows(results, 'oracle')[0]['attack_success_rate'] < 0.5
