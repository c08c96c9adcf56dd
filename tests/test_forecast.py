"""The forecast of a run: its arithmetic, its words, and the studies' counts."""

import collections
import contextlib
import types

import jax
import pytest

import cmu_jax
from cmu_jax import networks
from cmu_jax.core import config as config_lib
from cmu_jax.core import progress
from cmu_jax.core.types import Network, Training
from cmu_jax.data import input_step
from cmu_jax.studies import STUDIES
from cmu_jax.studies.engine import forecast, run
from cmu_jax.studies.engine.forecast import Forecast, Work
from cmu_jax.studies.engine.study import Cell, Phase
from cmu_jax.training import optimizers, train

Item = collections.namedtuple('Item', 'method')


def cell(name, images=0.0, method='m'):
  return Cell(Item(method), name, lambda: None, images=images)


@pytest.fixture
def clock(monkeypatch):
  """Seconds that pass only when a test says so."""
  now = types.SimpleNamespace(seconds=0.0)
  monkeypatch.setattr(forecast.time, 'monotonic', lambda: now.seconds)
  return now


def lines(capfd):
  return capfd.readouterr().err.splitlines()


@pytest.mark.parametrize(
  ('images', 'alike', 'rate', 'seconds'),
  [
    (30.0, [Work(), Work()], None, None),
    (30.0, [Work(), Work()], 0.5, 15.0),
    (0.0, [Work(), Work()], 0.5, None),
    # Three cells of the phase took 12 s; those of the kind took 10 s for two.
    (0.0, [Work(), Work(12.0, 0.0, 3)], 0.5, 4.0),
    (0.0, [Work(10.0, 0.0, 2), Work(12.0, 0.0, 3)], 0.5, 5.0),
    # A cell of twice the images takes twice the time.
    (40.0, [Work(10.0, 20.0, 1), Work()], 9.0, 20.0),
  ],
)
def test_a_cell_takes_as_long_as_what_is_most_like_it(
  images, alike, rate, seconds
):
  assert forecast.estimate_cell(cell('a', images), alike, rate) == seconds


def test_the_first_timed_steps_forecast_the_whole_run(clock, capfd):
  told = Forecast(lambda *x: forecast.describe_run(None, *x))
  cells = [cell(name, 1000.0) for name in 'abc']
  phase = Phase('trainings', cells, later=500.0, is_covered=True)
  with told.phase(phase, cells, 1):
    progress.report_images(10, None)
    clock.seconds = 9.0
    progress.report_images(3, 9.0)
    assert lines(capfd) == []
    clock.seconds = 30.0
    progress.report_images(7, 21.0)
  # 3500 images at 3 s each, 30 s of it gone, 10 images of an earlier run.
  assert told.estimate_remaining() == (3500 * 3.0 - 30 - 30, True)
  assert lines(capfd) == [
    'whole run: about 2.9 h left on this machine; --minutes=60 stops after 60 '
    'min, and the same command continues'
  ]


def test_finished_cells_replace_the_guess_and_unknown_ones_make_it_a_bound(
  clock, capfd
):
  told = Forecast(lambda *x: forecast.describe_run(30.0, *x))
  cells = [cell('a', 10.0), cell('b', 20.0), cell('c', 0.0, 'other')]
  with told.phase(Phase('methods', cells), cells, 1):
    assert told.estimate_remaining() is None
    clock.seconds = 100.0
    told.finish(cells[0], 100.0)
    # The cell of unknown images takes as long as those of its phase.
    assert told.estimate_remaining() == (300.0, False)
  clock.seconds = 400.0
  last = [cell('d')]
  with told.phase(Phase('figures', last, is_covered=True), last, 1):
    assert told.estimate_remaining() is None
  assert lines(capfd) == [
    'whole run: at least 5 min left on this machine; this call stops after 30 '
    'min, and the same command continues'
  ]


def test_workers_share_the_time_but_not_a_cell(clock):
  told = Forecast(None)
  cells = [cell(name, 100.0) for name in 'abcdefgh']
  with told.phase(Phase('trainings', cells, is_covered=True), cells, 4):
    progress.report_images(1, 2.0)
    assert told.estimate_remaining() == (400.0, True)
  with told.phase(Phase('trainings', cells[:1], is_covered=True), cells[:1], 4):
    assert told.estimate_remaining() == (200.0, True)


def test_a_forecast_is_repeated_where_it_changes_and_at_a_new_phase(
  clock, capfd
):
  told = Forecast(lambda seconds, complete: f'{seconds:.0f} {complete}')
  cells = [cell(str(i), 100.0) for i in range(9)]
  with told.phase(Phase('one', cells, later=100.0), cells, 1):
    for moment, duration in ((100, 100), (200, 100), (700, 500)):
      clock.seconds = float(moment)
      told.finish(cells[moment // 200], float(duration))
  with told.phase(Phase('two', cells), cells, 1):
    clock.seconds += 1.0
  # 800 s at first, as expected at 200 s, and longer after the slow cell.
  texts = lines(capfd)
  assert texts[0] == '800 False' and len(texts) == 2
  assert texts[1] == '1400 False'


def test_short_runs_are_not_forecast(clock, capfd):
  told = Forecast(lambda *x: forecast.describe_run(None, *x))
  cells = [cell('a', 10.0), cell('b', 10.0)]
  with told.phase(Phase('trainings', cells, is_covered=True), cells, 1):
    clock.seconds = 50.0
    told.finish(cells[0], 50.0)
  assert lines(capfd) == []


_TINY = {
  'train_limit': 200,
  'test_limit': 60,
  'model': {'name': 'fc', 'width': 8, 'dtype': 'float32'},
}
_PLAIN = {'attack': 'confidence', 'references': 0}
_CASES = {
  'cuts_digits': {'seeds': (0, 1), 'evaluate.path_images': 0},
  'cuts_poison_digits': {'seeds': (0, 1), 'evaluate.path_images': 0},
  'amun_digits': {'methods': ('ft', 'rl', 'ga_alone'), **_PLAIN},
  'trw_digits': {
    'methods': ('ft', 'rl', 'trw'),
    'shadows': 0,
    'noises': (),
    'validation': 0.2,
    'train_limit': 600,
    'test_limit': 200,
  },
  'lotos_digits': {'methods': ('plain', 'lotos'), 'evaluate.lipschitz': False},
}
# Phases of trainings alone, whose images are known exactly.
_EXACT = {'trainings', 'originals', 'retraining', 'surrogates', 'ensembles'}


def _phases(study, context):
  """Phases with the images of each cell that its trainings reported."""
  plan, records = study.plan(context), None
  while True:
    try:
      phase = next(plan) if records is None else plan.send(records)
    except StopIteration:
      return
    records, heard = [], []
    for item in phase.cells:
      images = []
      with progress.listen(
        lambda count, _, images=images: images.append(count)
      ):
        record = item.compute()
      records.append((item.item, record))
      heard.append(sum(images))
    yield phase, heard


# The others take as long, and count in the same way.
_QUICK = ('cuts_digits', 'amun_digits')


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow)
    for name in _CASES
  ],
)
def test_studies_count_the_images_that_they_train_on(tmp_path, name):
  config = config_lib.load(f'configs/{name}.py:smoke').config
  fields = {**_TINY, **_CASES[name]}
  with config.unlocked():
    for field in fields.keys() & _TINY.keys():
      # A network of another family has other options.
      config[field] = fields[field]
    config.update({k: v for k, v in fields.items() if '.' not in k})
    config.update_from_flattened_dict(
      {k: v for k, v in fields.items() if '.' in k}
    )
  study = STUDIES[config.task]()
  context = run.make_context(config, study.load(config, tmp_path), tmp_path)
  phases = list(_phases(study, context))
  assert phases[0][0].cells
  for phase, heard in phases:
    stated = [item.images for item in phase.cells]
    if phase.title in _EXACT:
      assert stated == heard
    for images, count in zip(stated, heard, strict=True):
      # Predictions are counted too; a method may read two sets in a step.
      assert images == 0 or count / 2 <= images <= 9 * count
  # What was said to follow, follows.
  images = [sum(item.images for item in phase.cells) for phase, _ in phases]
  for number, (phase, _) in enumerate(phases):
    if phase.later:
      assert phase.later == pytest.approx(sum(images[number + 1 :]))
  assert phases[-1][0].is_covered or name == 'trw_digits'


@pytest.mark.parametrize(
  ('labels', 'rule', 'steps'), [('bad', 'safe', 5), ('true', 'published', None)]
)
def test_a_repair_counts_at_least_the_images_that_it_trains_on(
  monkeypatch, labels, rule, steps
):
  stated, heard = [], []

  @contextlib.contextmanager
  def follow(images):
    stated.append(images)
    with progress.listen(lambda count, _: heard.append(count)):
      yield

  monkeypatch.setattr(forecast, 'follow_trainings', follow)
  digits = cmu_jax.data.load('digits')
  inputs = input_step.make((0.5,), (0.5,))
  network = Network(networks.make('fc', 10, (8, 8, 1), width=8), inputs)
  image, label = digits.train.image[:120], digits.train.label[:120]
  start = network.model.init(jax.random.key(0), inputs.eval(image[:1], None))
  variables = train.fit(
    jax.random.key(1),
    network,
    start,
    digits.train,
    Training(optimizers.adamw(optimizers.constant_schedule(1e-2)), 60, 128),
  ).variables
  wrong = label if labels == 'true' else (label + 3) % 10
  cmu_jax.repair(
    *(network, image, wrong),
    **{'variables': variables, 'labels_are': labels},
    **{'rule': rule, 'steps': steps},
  )
  (images,) = stated
  # A number of steps is kept to; else the training may learn enough sooner.
  assert sum(heard) == images if steps else 0 < sum(heard) <= images


def test_trainings_of_a_command_have_an_upper_bound(clock, capfd):
  with forecast.follow_trainings(1000.0):
    clock.seconds = 20.0
    progress.report_images(10, 20.0)
  assert lines(capfd) == [
    'all trainings: at most 33 min left on this machine; stopped, the same '
    'command continues'
  ]
