"""Repair of wrong labels from ordinary pictures: files, arrays, mistakes."""

import json

import jax
import numpy as np
import PIL.Image
import pytest
import repair_case
from jax import numpy as jnp

import cmu_jax
from cmu_jax import networks
from cmu_jax.commands import flags, requests
from cmu_jax.commands.repair import words
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, Network
from cmu_jax.data import sources, splits
from cmu_jax.networks import weights
from cmu_jax.training import metrics

WIDTH = 256
MODEL = networks.make('fc', 10, (8, 8, 1), width=WIDTH)
NETWORK = Network(MODEL, repair_case.STEP)
COMMON = {
  'model': f'fc:width={WIDTH}',
  'kind': 'label_noise',
  'learning_rate': 0.02,
}


def read(folder, name='w.npz'):
  template = jax.eval_shape(
    MODEL.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))
  )
  stored = weights.read(folder / name)
  return weights.fit(stored.arrays, template, None, 'w')[0]


def accuracy(variables, test):
  predicted = metrics.predict(NETWORK, variables, test)
  return np.mean(predicted == np.asarray(test.label))


@pytest.fixture(scope='module')
def case(tmp_path_factory):
  """A network with wrong labels, and pictures that it has not seen."""
  folder = tmp_path_factory.mktemp('noise')
  # Long enough to learn the wrong labels by heart.
  test, _ = repair_case.make(folder, 'label_noise', width=WIDTH, steps=1500)
  key = rng.fold_in(rng.fold_in(0, 'case'), 'hold')
  pool, _ = splits.hold_out(key, sources.load('digits').train, 0.15, 10)
  (folder / 'ordinary').mkdir()
  for i, pixels in enumerate(np.asarray(pool.image)):
    image = PIL.Image.fromarray(pixels[..., 0])
    image.save(folder / f'ordinary/{i:04}.png')
  for i, (pixels, c) in enumerate(
    zip(np.asarray(test.image), np.asarray(test.label), strict=True)
  ):
    (folder / f'test/{c}').mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels[..., 0]).save(folder / f'test/{c}/{i:04}.png')
  return folder, pool, test


def repair(folder, out, **changes):
  settings = {
    'weights': str(folder / 'w.npz'),
    'ordinary': str(folder / 'ordinary'),
    'out': str(folder / out),
    **COMMON,
    **changes,
  }
  return cmu_jax.repair(**settings)


@pytest.fixture(scope='module')
def results(case):
  folder, _, _ = case
  return repair(folder, 'out', test=str(folder / 'test'))


def test_pictures_without_labels_repair_wrong_labels(case, results):
  folder, _, test = case
  assert results['repaired'] and results['method'] == 'information_maximization'
  assert results['samples'] == 0 and results['ordinary'] > 100
  before, after = (
    accuracy(v, test)
    for v in (read(folder), read(folder / 'out', 'repaired.npz'))
  )
  assert after > before + 0.02
  measured = results['measured']
  assert measured['before']['test_accuracy'] == pytest.approx(before)
  assert measured['after']['test_accuracy'] == pytest.approx(after)
  assert measured['before']['bad_label_rate'] is None


def test_the_estimates_are_close_to_the_truth(results):
  for when in ('before', 'after'):
    mean, low, high = results['label_free'][f'accuracy_{when}']
    truth = results['measured'][when]['test_accuracy']
    assert low < mean < high
    # They are of runs on half of the pictures, 9.5 points off at most in
    # results/unlabelled_repair_digits.json, which has twice as many.
    assert abs(mean - truth) < 0.15


def test_the_report_says_what_was_done(case, results):
  folder, _, _ = case
  text = words.console(results)
  assert 'ordinary pictures' in text and 'alike' in text
  assert 'bad samples' not in text.lower()
  page = (folder / 'out/report.html').read_text()
  assert 'Two runs on halves' in page and '--test measures the truth' in page
  assert (folder / 'out/figures/alpha_curve.png').stat().st_size > 5000
  curve = json.loads((folder / 'out/results.json').read_text())['curve']
  assert curve['alike'][0] == curve['alone'][0] == 0


def test_the_same_command_gives_the_same_weights(case, results):
  folder, _, _ = case
  again = repair(folder, 'again')
  assert again['weights_sha256'] == results['weights_sha256']


def test_arrays_give_what_files_give(case, results):
  folder, pool, test = case
  image = np.asarray(pool.image)
  result = cmu_jax.repair(
    NETWORK,
    variables=read(folder),
    ordinary=image,
    learning_rate=COMMON['learning_rate'],
    test=Batch(test.image, test.label),
  )
  assert result.repaired and result.alpha == 1.0
  written = read(folder / 'out', 'repaired.npz')
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    result.variables,
    written,
  )


def test_bad_samples_beside_ordinary_pictures_are_diagnosed(case):
  folder, _, _ = case
  results = repair(folder, 'both', proxy=str(folder / 'bad'), steps=20)
  assert results['method'] == 'information_maximization'
  assert results['samples'] > 0 and results['diagnosis'] is not None
  assert results['measured']['before']['bad_label_rate'] is not None
  assert 'Bad samples given their wrong label' in words.console(results)


def test_a_network_is_left_alone_by_steps_of_no_length(case):
  folder, _, _test = case
  results = repair(folder, 'idle', learning_rate=1e-9, steps=5)
  assert not results['repaired'] and results['alpha'] == 0
  text = words.console(results)
  assert 'Left unedited' in text and 'More ordinary pictures' in text
  jax.tree.map(
    np.testing.assert_array_equal,
    read(folder),
    read(folder / 'idle', 'repaired.npz'),
  )


def test_pictures_that_lack_a_class_stop_the_repair(case):
  """The report names the class, and the pictures that would help."""
  folder, pool, _ = case
  few = folder / 'few'
  few.mkdir()
  for i in np.flatnonzero(np.asarray(pool.label) != 3):
    PIL.Image.fromarray(np.asarray(pool.image)[i, ..., 0]).save(
      few / f'{i}.png'
    )
  results = repair(folder, 'lacking', ordinary=str(few))
  assert not results['repaired']
  text = words.console(results)
  if results['label_free']['reason'] == 'classes':
    assert "'3'" in text and 'Ordinary pictures of' in text


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'ordinary': None}, '--ordinary or --proxy missing'),
    ({'kind': 'poison', 'rule': 'published'}, '--proxy missing: --rule'),
    ({'kind': 'poison', 'ordinary': None}, '--ordinary or --proxy missing'),
    ({'rule': 'published'}, '--proxy missing.*--rule=published'),
    ({'labels': 'true'}, '--labels=true is about the pictures of --proxy'),
  ],
)
def test_a_repair_without_its_pictures_is_refused(changes, message):
  values = {
    'weights': 'w.npz',
    'ordinary': 'o',
    'out': 'out',
    **COMMON,
    **changes,
  }
  argv = [f'--{k}={v}' for k, v in values.items() if v is not None]
  with pytest.raises(errors.UserError, match=message):
    flags.parse(requests.REPAIR, argv)


def test_too_few_pictures_are_refused(case):
  folder, pool, _ = case
  few = folder / 'three'
  few.mkdir()
  for i in range(3):
    PIL.Image.fromarray(np.asarray(pool.image)[i, ..., 0]).save(
      few / f'{i}.png'
    )
  with pytest.raises(errors.UserError, match='3 ordinary pictures are too few'):
    repair(folder, 'refused', ordinary=str(few))
