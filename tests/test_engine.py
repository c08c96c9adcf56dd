"""The engine on a fake study: phases, kills, time limits, workers."""

import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from cmu_jax.core import config as config_lib
from cmu_jax.core import errors
from cmu_jax.report import frame
from cmu_jax.studies import STUDIES
from cmu_jax.studies.engine import live, run, workers
from cmu_jax.studies.engine.store import NETWORKS, Clock, Store, TimeIsUp
from cmu_jax.studies.engine.study import Cell, Note, Phase, Recent, Study

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 6


class Item(NamedTuple):
  seed: int
  method: str


def config(**changes):
  fields = {
    'name': 'fake',
    'task': 'fake',
    'smoke': False,
    'seeds': (0, 1, 2),
    'methods': ('mean', 'sum'),
    'checkpoint_seconds': 0.0,
    'delay': 0.0,
  }
  return ml_collections.ConfigDict({**fields, **changes})


def train(context, seed, log):
  """Counts to STEPS; the sum of the steps is the network."""
  address = config_lib.fingerprint({'network': seed})

  def fit(checkpoint):
    state = {'total': jnp.zeros(3), 'steps': jnp.zeros((), jnp.int32)}
    found = checkpoint.restore(state)
    state, start = found or (state, 0)
    for step in range(start, STEPS):
      time.sleep(context.config.delay)
      log(f'step {step} of {seed}')
      state = {
        'total': state['total'] + (seed + 1) * step,
        'steps': jnp.int32(step + 1),
      }
      checkpoint.save(state, step + 1)
    return state['total']

  return context.store.read_or_train(address, jnp.zeros(3), fit)


def fake(log=lambda event: None):
  """A study of two phases; `log` hears what is computed."""

  def measure(context, item):
    log(f'{item.method} of {item.seed}')
    network = np.asarray(
      context.recent(
        'network', item.seed, lambda: train(context, item.seed, log)
      )
    )
    return {'value': float(getattr(network, item.method)())}

  def plan(context):
    made = context.config
    yield Phase(
      'networks',
      [
        Cell(
          seed,
          config_lib.fingerprint({'network': seed}),
          lambda seed=seed: train(context, seed, log),
          NETWORKS,
        )
        for seed in made.seeds
      ],
    )
    records = yield Phase(
      'methods',
      [
        Cell(
          item,
          config_lib.fingerprint({'item': item._asdict()}),
          lambda item=item: measure(context, item),
        )
        for item in itertools.starmap(
          Item, itertools.product(made.seeds, made.methods)
        )
      ],
    )
    rows = [
      {**item._asdict(), 'value': record['value']} for item, record in records
    ]
    return {
      'rows': [{k: v for k, v in r.items() if k != 'address'} for r in rows]
    }

  return Study(
    task='fake',
    check=lambda made: errors.check(made.seeds, 'config.seeds is empty'),
    load=lambda made, folder: None,
    plan=plan,
    note=lambda item, record: Note(
      {'method': item.method}, f'seed {item.seed}', record['value']
    ),
    measured='value',
    report=frame.Report(*[None] * len(frame.Report._fields)),
  )


ROWS = [
  {'seed': s, 'method': m, 'value': v * (s + 1) * 15.0}
  for s in range(3)
  for m, v in (('mean', 1), ('sum', 3))
]


def test_a_study_computes_every_cell_once(tmp_path):
  log = []
  results = run.run_study(fake(log.append), config(), tmp_path)
  assert results['rows'] == ROWS and results['finished']
  assert results['task'] == 'fake' and results['schema'] == 1
  assert len(log) == len(set(log)) == 3 * STEPS + 6
  # States of finished trainings are gone, the networks stay.
  names = [path.name for path in (tmp_path / 'originals').iterdir()]
  assert len(names) == 3 and all(name.startswith('whole') for name in names)
  log.clear()
  assert run.run_study(fake(log.append), config(), tmp_path)['rows'] == ROWS
  assert log == []


def test_a_lost_cell_alone_is_computed_again(tmp_path):
  run.run_study(fake(), config(), tmp_path)
  lost = sorted((tmp_path / 'cells').iterdir())[2]
  content = json.loads(lost.read_text())
  lost.unlink()
  log = []
  assert run.run_study(fake(log.append), config(), tmp_path)['rows'] == ROWS
  assert len(log) == 1 and json.loads(lost.read_text()) == content


def test_more_seeds_compute_what_they_add(tmp_path):
  run.run_study(fake(), config(seeds=(0, 1)), tmp_path)
  log = []
  results = run.run_study(fake(log.append), config(), tmp_path)
  assert results['rows'] == ROWS
  assert all(event.endswith(' of 2') for event in log)


@pytest.mark.parametrize('event', range(3 * STEPS + 6))
def test_a_run_stopped_anywhere_continues(tmp_path, event):
  log = []

  def interrupt(name):
    log.append(name)
    if len(log) == event + 1:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    run.run_study(fake(interrupt), config(), tmp_path)
  again = []
  results = run.run_study(fake(again.append), config(), tmp_path)
  assert results['rows'] == ROWS and results['finished']
  # Only the interrupted event happens twice: steps before it were saved.
  assert set(log) & set(again) == {log[-1]}


def test_a_late_run_computes_nothing_and_says_so(tmp_path, capfd):
  log = []
  results = run.run_study(fake(log.append), config(), tmp_path, minutes=0.0)
  assert log == [] and results['rows'] == [] and not results['finished']
  said = capfd.readouterr().err
  assert 'with 9 cells to do: the same command continues' in said


def test_a_training_ends_after_the_deadline_and_continues(tmp_path):
  log = []
  made = config(delay=0.1)
  results = run.run_study(fake(log.append), made, tmp_path, minutes=0.15 / 60)
  assert not results['finished'] and 0 < len(log) < STEPS
  again = []
  run.run_study(fake(again.append), config(), tmp_path)
  assert again[0] == f'step {len(log)} of 0'


def test_a_cell_that_would_end_late_does_not_begin(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  clock = Clock(1.0)
  assert clock.allows('slow')
  clock.record('slow', 50.0)
  now[0] = 20.0
  assert clock.allows('quick') and not clock.allows('slow')
  assert not clock.is_late()
  now[0] = 60.0
  assert clock.is_late() and not clock.allows('quick')
  assert Clock().allows('slow')


def test_settings_are_checked_before_anything_is_loaded(tmp_path):
  with pytest.raises(errors.UserError, match=r'config\.seeds is empty'):
    run.run_study(fake(), config(seeds=()), tmp_path)


def test_recent_forgets_the_oldest_value():
  recent, made = Recent(), []

  def value(key, size):
    return recent('kind', key, lambda: made.append(key) or key, size)

  assert [value(key, 2) for key in (1, 2, 1, 3, 1)] == [1, 2, 1, 3, 1]
  assert made == [1, 2, 3, 1]


def test_arrays_of_another_network_are_refused(tmp_path):
  store = Store(tmp_path, 0.0, Clock())
  compute = lambda: {'a': jnp.ones(2)}
  refuse = lambda: pytest.fail('computed again')
  template = {'a': jnp.zeros(2)}
  first = store.read_or_compute('importances', 'x' * 64, template, compute)
  assert store.has_arrays('importances', 'x' * 64)
  again = store.read_or_compute('importances', 'x' * 64, template, refuse)
  assert np.array_equal(first['a'], again['a'])
  with pytest.raises(errors.UserError, match='not of this network'):
    store.read_or_compute('importances', 'x' * 64, {'a': jnp.zeros(3)}, compute)
  arrays = lambda: {'a': np.ones(2)}
  named = store.read_or_compute_named('retrained', 'y', arrays)
  assert np.array_equal(named['a'], [1, 1])


def test_the_table_shows_means_and_the_time_left(monkeypatch, capfd):
  display = live.Display('value')
  with display.phase('methods', 2, live=True):
    display.finish(Note({'method': 'sum'}, 'seed 0', 1.0))
    display.finish(Note({'method': 'sum'}, 'seed 0', 2.0))
  said = capfd.readouterr().err
  assert said == 'methods: 2/2 cells, about 0 s left; sum seed 0: 2.000\n'
  table = display._table()
  assert [column.header for column in table.columns] == ['method', 'seed 0']
  assert list(table.columns[1].cells) == ['1.500']
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
  shown = live.Display('value')
  with shown.phase('methods', 1, live=True):
    shown.finish(Note({'method': 'sum'}, '', None))


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_shares_are_a_partition(count):
  items = list(range(7))
  shares = [workers.share(items, worker, count) for worker in range(count)]
  assert sorted(itertools.chain(*shares)) == items


def test_every_registered_study_has_its_task():
  assert [task for task, make in STUDIES.items() if make().task != task] == []


def _start(code, folder, *arguments, **env):
  return subprocess.Popen(
    [sys.executable, '-c', code, str(ROOT / 'tests'), folder, *arguments],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', **env},
    cwd=ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )


RUN = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import test_engine
from cmu_jax.studies.engine import run, workers
folder = pathlib.Path(sys.argv[2])
if len(sys.argv) > 3:
  workers.join(sys.argv[3])
events = open(folder / f'events{sys.argv[3:]}.txt'.replace('/', '_'), 'a', 1)
study = test_engine.fake(lambda event: print(event, file=events))
made = test_engine.config(delay=DELAY)
results = run.run_study(study, made, folder)
if workers.is_chief():
  (folder / 'rows.json').write_text(json.dumps(results['rows']))
"""


def _events(folder):
  return [
    line
    for path in folder.glob('events*.txt')
    for line in path.read_text().splitlines()
  ]


@pytest.mark.slow  # processes
def test_killed_processes_continue(tmp_path):
  code = RUN.replace('DELAY', '0.2')
  for kills in range(3):
    process = _start(code, str(tmp_path))
    until = time.monotonic() + 60
    while len(_events(tmp_path)) < 4 * (kills + 1):
      if time.monotonic() > until or process.poll() is not None:
        break
      time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
  last = _start(code, str(tmp_path))
  said = last.communicate(timeout=60)[1]
  assert last.returncode == 0, said
  assert json.loads((tmp_path / 'rows.json').read_text()) == ROWS
  events = _events(tmp_path)
  assert len(events) - len(set(events)) <= 3


@pytest.mark.slow  # processes
@pytest.mark.parametrize('processes', [1, 2])
def test_devices_and_processes_share_the_cells(tmp_path, processes):
  with socket.socket() as found:
    found.bind(('localhost', 0))
    port = found.getsockname()[1]
  code = RUN.replace('DELAY', '0')
  flags = f'--xla_force_host_platform_device_count={4 // processes}'
  running = [
    _start(
      code,
      str(tmp_path),
      *([f'localhost:{port},{i},{processes}'] if processes > 1 else []),
      XLA_FLAGS=flags,
    )
    for i in range(processes)
  ]
  for process in running:
    said = process.communicate(timeout=90)[1]
    assert process.returncode == 0, said
  assert json.loads((tmp_path / 'rows.json').read_text()) == ROWS
  events = _events(tmp_path)
  assert len(events) == len(set(events)) == 3 * STEPS + 6
  assert len(list(tmp_path.glob('events*.txt'))) == processes


def test_time_is_up_passes_through_a_store(tmp_path):
  store = Store(tmp_path, 0.0, Clock(0.0))
  with pytest.raises(TimeIsUp):
    store.read_or_train(
      'z', jnp.zeros(1), lambda checkpoint: checkpoint.save(jnp.ones(1), 1)
    )
