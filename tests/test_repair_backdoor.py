"""Repair of a backdoor from ordinary pictures: files, arrays, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import repair_case

import cmu_jax
from cmu_jax import networks
from cmu_jax.commands import flags, requests
from cmu_jax.commands.repair import advice, words
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, Network
from cmu_jax.data import sources, splits
from cmu_jax.networks import weights
from cmu_jax.training import metrics

WIDTH = 128
MODEL = networks.make('fc', 10, (8, 8, 1), width=WIDTH)
NETWORK = Network(MODEL, repair_case.STEP)


def read(folder, name='w.npz'):
  template = jax.eval_shape(
    MODEL.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  stored = weights.read(folder / name)
  return weights.fit(stored.arrays, template, None, 'w')[0]


def write(batch, folder, by_class=False):
  for i, (pixels, c) in enumerate(
    zip(np.asarray(batch.image), np.asarray(batch.label), strict=True)
  ):
    place = folder / str(c) if by_class else folder
    place.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels[..., 0]).save(place / f'{i:04}.png')


@pytest.fixture(scope='module')
def case(tmp_path_factory):
  """A network with a backdoor, and pictures that it has not seen."""
  folder = tmp_path_factory.mktemp('backdoor')
  test, trigger = repair_case.make(folder, 'poison', width=WIDTH)
  key = rng.fold_in(rng.fold_in(0, 'case'), 'hold')
  pool, _ = splits.hold_out(key, sources.load('digits').train, 0.15, 10)
  write(pool, folder / 'ordinary', by_class=True)
  write(test, folder / 'test', by_class=True)
  return folder, pool, test, trigger


def repair(folder, out, **changes):
  settings = {
    'weights': str(folder / 'w.npz'),
    'model': f'fc:width={WIDTH}',
    'kind': 'poison',
    'ordinary': str(folder / 'ordinary'),
    'out': str(folder / out),
    **changes,
  }
  return cmu_jax.repair(**settings)


@pytest.fixture(scope='module')
def results(case):
  folder, *_ = case
  return repair(folder, 'out', test=str(folder / 'test'))


def success(variables, test, trigger):
  image = repair_case.triggered(test, trigger)
  predicted = metrics.predict(NETWORK, variables, image)
  return metrics.attack_success(np.asarray(test.label), predicted, 0)


def test_a_trigger_that_nobody_has_is_forgotten(case, results):
  folder, _, test, trigger = case
  assert results['repaired'] and results['method'] == 'self_tuning'
  assert results['samples'] == 0 and results['diagnosis'] is None
  before, after = (
    success(v, test, trigger)
    for v in (read(folder), read(folder / 'out', 'repaired.npz'))
  )
  assert before > 0.9 and after < 0.25
  accuracy = [
    results['measured'][when]['test_accuracy'] for when in ('before', 'after')
  ]
  assert accuracy[1] > accuracy[0] - 0.05


def test_the_report_says_that_nobody_tried_the_trigger(case, results):
  folder, *_ = case
  page = (folder / 'out/report.html').read_text()
  assert 'Nobody tried the trigger' in page and 'held-out pictures' in page
  assert 'Repaired from' in words.console(results)
  assert (folder / 'out/figures/alpha_curve.png').stat().st_size > 5000
  assert results['curve']['agreement'][0] == 1.0


def test_the_same_command_gives_the_same_weights(case, results):
  folder, *_ = case
  again = repair(folder, 'again')
  assert again['weights_sha256'] == results['weights_sha256']


def test_arrays_give_what_files_give(case, results):
  folder, *_ = case
  from cmu_jax.data.sources import image_folder

  image = image_folder.read_folder(folder / 'ordinary', None, None).image
  result = cmu_jax.repair(
    NETWORK, variables=read(folder), kind='poison', ordinary=image
  )
  assert result.repaired and result.alpha == 1.0
  assert result.record['cost'] == results['cost']


def test_true_labels_judge_the_cost(case):
  folder, *_ = case
  found = repair(folder, 'labelled', labels='true')
  cost = found['cost']
  assert 0.8 < cost['accuracy_after'] <= cost['accuracy_before'] + 0.05
  assert 'accuracy on held-out pictures' in words.console(found)


def test_a_costly_repair_is_left_and_help_is_named(case):
  folder, *_ = case
  found = repair(folder, 'costly', steps=1, learning_rate=1e-9)
  assert not found['repaired'] and found['cost']['reason'] == 'cost'
  text = words.console(found)
  assert 'Left unedited' in text and '--labels=true' in text
  jax.tree.map(
    np.testing.assert_array_equal,
    read(folder),
    read(folder / 'costly', 'repaired.npz'),
  )


def test_a_class_without_pictures_stops_the_repair(case):
  folder, pool, *_ = case
  rows = np.flatnonzero(np.asarray(pool.label) != 3)
  write(splits.take(pool, rows), folder / 'few')
  found = repair(folder, 'lacking', ordinary=str(folder / 'few'), steps=20)
  assert not found['repaired'] and found['cost']['absent'] == [3]
  text = words.console(found)
  assert "too little of '3'" in text and "Ordinary pictures of '3'" in text


def test_triggered_pictures_that_stay_fooled_stop_the_repair(case):
  """The trigger covers more than can be located, and no step frees from it."""
  folder, pool, _, _ = case
  # Pictures of the target class: no repair sends them elsewhere.
  rows = np.flatnonzero(np.asarray(pool.label) == 0)
  result = cmu_jax.repair(
    NETWORK,
    pool.image[rows],
    variables=read(folder),
    kind='poison',
    ordinary=pool.image,
  )
  assert not result.repaired and result.record['cost']['reason'] == 'gain'
  assert 'freed fewer than half' in ' '.join(result.sentences)


def test_advice_without_ordinary_pictures_asks_for_them():
  left = {
    'repaired': False,
    'kind': 'poison',
    'method': 'cuts',
    'rule': 'safe',
    'measured': {'before': {'bad_label_rate': 0.9}},
  }
  first, second, _ = advice.sentences(left)
  assert '--ordinary=FOLDER' in first and '--rule=published' in second


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'ordinary': None}, '--ordinary or --proxy missing'),
    ({'rule': 'published'}, '--proxy missing: --rule=published'),
    (
      {'ordinary': None, 'proxy': 'p', 'labels': 'true'},
      '--labels=true is about the pictures of --ordinary',
    ),
  ],
)
def test_a_repair_without_its_pictures_is_refused(changes, message):
  values = {
    'weights': 'w.npz',
    'model': 'fc',
    'kind': 'poison',
    'ordinary': 'o',
    'out': 'out',
    **changes,
  }
  argv = [f'--{k}={v}' for k, v in values.items() if v is not None]
  with pytest.raises(errors.UserError, match=message):
    flags.parse(requests.REPAIR, argv)


def test_labels_of_arrays_must_fit(case):
  folder, pool, *_ = case
  with pytest.raises(errors.UserError, match='labels of the'):
    cmu_jax.repair(
      NETWORK,
      labels=np.zeros(3, int),
      variables=read(folder),
      kind='poison',
      ordinary=pool.image,
      labels_are='true',
      test=Batch(pool.image, pool.label),
    )
