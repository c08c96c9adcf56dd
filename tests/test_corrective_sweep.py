"""Sweeps: every cell once, continued and changed, and what is measured."""

import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_sweep

from cmu_jax.core import jit
from cmu_jax.studies.corrective import (
  benchmark,
  measure,
  problem,
  roster,
  settings,
  solve,
  study,
  trials,
)
from cmu_jax.studies.corrective.measure import Probe
from cmu_jax.studies.engine import run, workers

ROOT = pathlib.Path(__file__).parents[1]
TIMES = {'seconds', 'grid_seconds'}


def _numbers(results):
  """All rows without their times."""
  return [
    {k: v for k, v in row.items() if k not in TIMES} for row in results['rows']
  ]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A context and the results of its run."""
  with jit.skip_optimizations(True):
    context = small_sweep.context(tmp_path_factory.mktemp('sweep'))
    yield context, small_sweep.finish(context)


def _run_again(context, **changes):
  return small_sweep.finish(
    small_sweep.context(context.store.folder, **changes)
  )


def _stamps(folder):
  paths = (folder / 'cells').glob('*.json')
  return {path.name: path.stat().st_mtime_ns for path in paths}


def test_there_is_a_row_for_every_cell_rule_and_none(finished):
  _, results = finished
  keys = [
    (r['manipulation'], r['method'], r['identified_fraction'], r['selection'])
    for r in results['rows']
  ]
  assert len(set(keys)) == len(keys) == 2 * (1 + 2 * 2) * 2
  assert {r['information'] for r in results['rows'] if r['method'] == 'cf'} == {
    'weights + S_tr without S_f'
  }
  json.dumps(results, allow_nan=False)


def test_a_finished_sweep_does_nothing_again(finished):
  context, results = finished
  before = _stamps(context.store.folder)
  assert _run_again(context) == results
  assert _stamps(context.store.folder) == before


def test_a_lost_cell_comes_back_the_same(finished):
  context, results = finished
  folder = context.store.folder
  before = _stamps(folder)
  lost = sorted(before)[0]
  (folder / 'cells' / lost).unlink()
  assert _numbers(_run_again(context)) == _numbers(results)
  after = _stamps(folder)
  assert {n for n in before if after[n] != before[n]} == {lost}


def test_a_changed_setting_makes_only_what_it_changes_anew(finished):
  folder = finished[0].store.folder
  before = _stamps(folder)
  _run_again(finished[0], unlearn__steps=5)
  fresh = _stamps(folder).keys() - before.keys()
  records = [json.loads((folder / 'cells' / n).read_text()) for n in fresh]
  assert len(records) == 4
  assert {record['method'] for record in records} == {'cf'}


def test_a_sweep_stops_in_time_and_says_so(tmp_path, capfd):
  context = small_sweep.context(tmp_path, minutes=1e-9)
  results, is_finished = run.follow_plan(study.STUDY, context)
  assert not is_finished and results['rows'] == []
  assert 'the same command continues' in capfd.readouterr().err
  assert not _stamps(tmp_path)


def test_addresses_depend_on_data_and_settings_alone(finished):
  config, digest = finished[0].config, finished[0].world.digest
  trial = trials.list_trials(config)[0]
  address = trials.trial_address(config, digest, trial)
  again = small_sweep.config(evaluate__batch_size=7)
  assert trials.trial_address(again, digest, trial) == address
  for changes in ({'model__width': 9}, {'poison__target': 1}):
    other = small_sweep.config(**changes)
    assert trials.trial_address(other, digest, trial) != address
  assert trials.trial_address(config, 'other data', trial) != address


def test_the_numbers_are_those_of_a_recount(finished):
  case = trials.Case('poison', 20, 0)
  one = finished[0].world.worlds['poison']
  scene = benchmark.get_scene(finished[0], case)
  label = np.asarray(scene.reported.label)
  where = np.flatnonzero(problem.find_manipulated(scene.problem))
  generator = np.random.default_rng(0)
  seen, before = (
    Probe(
      *(
        generator.integers(0, 10, size)
        for size in (
          label.size,
          label.size,
          scene.problem.validation.label.shape[0],
          where.size,
        )
      )
    )
    for _ in range(2)
  )
  found = measure.compute_measures(one, scene, seen, before, 0.5)
  known = problem.find_identified(scene.problem, 0.5)[where]
  right = np.asarray(scene.problem.validation.label)
  others = label != 0
  want = {
    'acc_corr': (seen.triggered == label).mean(),
    'acc_retain': (seen.plain == label).mean(),
    'attack_success_rate': (seen.triggered[others] == 0).mean(),
    'accuracy_not_target': (seen.triggered == label)[others].mean(),
    'clean_label_accuracy_sm': (
      seen.manipulated == scene.problem.truth[where]
    ).mean(),
    'validation_accuracy': (seen.validation == right).mean(),
    'forget_changed': (seen.manipulated != before.manipulated)[known].mean(),
    'forget_unlearned': (seen.manipulated[known] != 0).mean(),
  }
  for name, value in want.items():
    assert found[name] == pytest.approx(value), name
  assert found['score'] == pytest.approx(
    (want['validation_accuracy'] + want['forget_changed']) / 2
  )


@pytest.mark.parametrize('name', ['ssd', 'cuts_simplex'])
def test_a_grid_at_once_is_its_points_one_by_one(finished, name):
  one = finished[0].world.worlds['poison']
  scene = benchmark.get_scene(finished[0], trials.Case('poison', 20, 0))
  image = one.inputs.eval(scene.reported.image[:1], None)
  start = one.model.init(jax.random.key(0), image)
  begin = solve.make_start(one, scene, start, 64)
  method = roster.ENTRIES[name].make(finished[0].config, one, 320)
  method = method._replace(grid=method.grid[:4])
  found = [
    solve.solve_grid(jax.random.key(1), chosen, begin, 0.5)
    for chosen in (method, method._replace(elementwise=False))
  ]
  for at_once, alone in zip(found[0][0], found[1][0], strict=True):
    for key in at_once.keys() - {*TIMES, 'facts'}:
      assert at_once[key] == alone[key], key
  assert found[0][1] == found[1][1]
  if name == 'ssd':
    assert sum(found[0][1]['retain_counts']) > 0


def _point(**values):
  base = {'diverged': False, 'score': 0.0, 'acc_corr': 0.0, 'acc_retain': 0.9}
  return {**base, **values}


def test_the_rule_of_the_paper_falls_for_a_constant_predictor():
  honest = _point(score=0.5, acc_corr=0.9)
  collapsed = _point(score=0.55, acc_corr=0.1, acc_retain=0.1)
  assert measure.choose_paper([honest, collapsed]) == 1
  assert measure.choose_oracle([honest, collapsed], 0.9) == 0


def test_the_oracle_keeps_accuracy_if_it_can():
  points = [
    _point(acc_corr=0.99, acc_retain=0.88),
    _point(acc_corr=0.5, acc_retain=0.895),
  ]
  assert measure.choose_oracle(points, 0.9) == 1
  assert measure.choose_oracle(points, 0.99) == 1
  assert measure.choose_oracle(points, None) == 0
  diverged = {'diverged': True, 'score': None, 'acc_corr': None}
  assert measure.choose_paper([diverged]) is None
  assert measure.choose_paper([diverged, points[0]]) == 1


def test_every_item_has_exactly_one_worker():
  items = list(range(23))
  for count in (1, 3, 8):
    parts = [workers.share(items, w, count) for w in range(count)]
    assert sorted(itertools.chain(*parts)) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


_CODE = """
import sys, pathlib
from tests import small_sweep
from cmu_jax.studies.engine import workers
if len(sys.argv) > 2:
  workers.join(sys.argv[2])
folder = pathlib.Path(sys.argv[1])
small_sweep.finish(small_sweep.context(folder, **small_sweep.SPREAD))
"""


def _start(folder, *arguments, **environment):
  return subprocess.Popen(
    [sys.executable, '-c', _CODE, str(folder), *arguments],
    cwd=ROOT,
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      **environment,
    },
    stderr=subprocess.PIPE,
    text=True,
  )


def _ended(process):
  _, said = process.communicate(timeout=180)
  assert process.returncode == 0, said


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The rows that one device of one process computes."""
  with jit.skip_optimizations(True):
    return _spread_rows(tmp_path_factory.mktemp('alone'))


def _spread_rows(folder):
  """Computes the rows, or reads them."""
  context = small_sweep.context(folder, **small_sweep.SPREAD)
  return _numbers(small_sweep.finish(context))


@pytest.mark.slow
def test_eight_devices_find_what_one_finds(alone, tmp_path):
  _ended(_start(tmp_path, XLA_FLAGS='--xla_force_host_platform_device_count=8'))
  assert len(_stamps(tmp_path)) == 8
  assert _spread_rows(tmp_path) == alone


@pytest.mark.slow
def test_two_processes_find_what_one_finds(alone, tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  both = [_start(tmp_path, f'localhost:{port},{i},2') for i in range(2)]
  try:
    for process in both:
      _ended(process)
  finally:
    for process in both:
      process.kill()
      process.communicate()
  assert len(_stamps(tmp_path)) == 8
  assert _spread_rows(tmp_path) == alone


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'methods': ('rewod', 'ssb')}, 'ssb'),
    ({'methods': ()}, 'config.methods'),
    ({'identified_fractions': (0.5, 0.1)}, 'identified_fractions'),
    ({'identified_fractions': (0.0, 0.1)}, 'identified_fractions'),
    ({'validation': 'train'}, 'validation'),
    ({'interclass__sizes': (31,)}, 'even'),
    ({'poison__sizes': (1,)}, 'poison.sizes'),
    ({'poison__trigger': 'corners'}, 'corner'),
    ({'proxy_fraction': 1.0}, 'proxy_fraction'),
    ({'unlearn__steps': 0}, 'unlearn'),
    ({'seeds': (0, 0)}, 'seeds'),
  ],
)
def test_settings_that_cannot_be_are_refused(changes, said):
  with pytest.raises(Exception, match=said) as caught:
    settings.check(small_sweep.config(**changes))
  assert type(caught.value).__name__ == 'UserError'
  assert '\n' not in str(caught.value)
