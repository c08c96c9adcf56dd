"""Human labels and matrices from files, in an experiment's config."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from small_run import NOISE

from cmu_jax.core import config, errors, rng, vectorize
from cmu_jax.core.types import Batch, Variables
from cmu_jax.data import corruption, sources
from cmu_jax.data.corruption.kind import DatasetFacts
from cmu_jax.studies.cuts import scene, stages, words
from cmu_jax.studies.cuts import settings as cuts_settings
from cmu_jax.studies.engine import recipes
from cmu_jax.training import train

TRUE = np.arange(30) % 5
GIVEN = (TRUE + (np.arange(30) % 4 == 0)) % 5
KNOWN = DatasetFacts(TRUE, tuple('abcde'))


def arguments(kind, **fields):
  settings = cuts_settings.base('x').corruption
  settings.update(fields)
  return corruption.KINDS[kind].arguments(settings, KNOWN)


@pytest.fixture
def labels(tmp_path):
  path = tmp_path / 'labels.npz'
  short, high = TRUE[:9], TRUE + 1
  float_label, other = TRUE * 1.0, (TRUE + (np.arange(30) == 7)) % 5
  np.savez(
    path, worse_label=GIVEN, short=short, high=high, real=float_label, o=other
  )
  np.savez(tmp_path / 'right.npz', worse_label=GIVEN, clean_label=TRUE)
  np.savez(tmp_path / 'other.npz', worse_label=GIVEN, clean_label=other)
  np.save(tmp_path / 'one.npy', TRUE)
  (tmp_path / 'text.npz').write_text('no archive')
  return path


def test_human_labels_are_read_with_or_without_the_true_ones(labels):
  for name in ('labels.npz', 'right.npz'):
    path = str(labels.with_name(name))
    found = arguments('human', labels_file=path)
    assert np.array_equal(found['human'], GIVEN) and found['rate'] is None


@pytest.mark.parametrize(
  'name,key,message',
  [
    ('', 'x', 'labels_file is empty'),
    ('absent.npz', 'x', 'does not exist'),
    ('text.npz', 'x', 'not a readable'),
    ('one.npy', 'x', 'is one array'),
    ('labels.npz', 'wors_label', "did you mean 'worse_label'"),
    ('labels.npz', 'short', r'shape \(9,\); the training split has 30'),
    ('labels.npz', 'real', "'real' is float64"),
    ('labels.npz', 'high', 'labels from 1 to 5; the dataset has classes 0 to'),
    ('other.npz', 'worse_label', 'in 1 of 30 images, first in image 7'),
  ],
)
def test_label_files_that_do_not_fit(labels, name, key, message):
  path = str(labels.with_name(name)) if name else ''
  with pytest.raises(errors.UserError, match=message) as caught:
    arguments('human', labels_file=path, labels_key=key)
  assert '\n' not in str(caught.value)


def test_a_matrix_is_read_as_what_it_is(tmp_path):
  path = tmp_path / 'm.npz'
  kept = 0.6 * np.eye(5) + 0.4 * np.roll(np.eye(5), 1, axis=1)
  counts = np.arange(25).reshape(5, 5)
  np.savez(path, transition=kept.astype(np.float32), counts=counts)
  read = lambda **fields: arguments(
    'transition', matrix_file=f'{path}', **fields
  )
  assert np.allclose(read()['matrix'], np.roll(np.eye(5), 1, axis=1))
  estimated = read(matrix_key='counts', matrix='confusion')['matrix']
  assert estimated[0].argmax() == 4 and estimated[0, 0] == 0
  with pytest.raises(errors.UserError, match='matrix sums to 110'):
    read(matrix_key='counts')
  with pytest.raises(errors.UserError, match="did you mean 'confusion'"):
    read(matrix='confusions')
  np.savez(path, transition=(1 - np.eye(3)) / 2)
  with pytest.raises(errors.UserError, match='of 3 classes, the dataset has 5'):
    read()


def test_pairs_of_classes_are_read():
  pair = lambda text: arguments('interclass', class_map=text)['pair']
  assert pair('3:1') == (3, 1) and pair('b:e') == (1, 4)
  for text, message in (
    ('cifar10', 'names class 5'),
    ('cifar1', "did you mean 'cifar1"),
    ('1:2,3:4', 'of one pair'),
    ('', 'unknown pair'),
  ):
    with pytest.raises(errors.UserError, match=message):
      pair(text)


def test_human_labels_stay_with_their_images(tmp_path):
  train = sources.load('digits').train
  true = np.asarray(train.label)
  draw = np.random.default_rng(0)
  given = np.where(draw.random(true.size) < 0.3, draw.integers(0, 10), true)
  path = tmp_path / 'labels.npz'
  np.savez(path, worse_label=given, clean_label=true)
  of = {
    image.tobytes(): label
    for image, label in zip(np.asarray(train.image), given, strict=True)
  }
  fields = {
    'corruption.kind': 'human',
    'corruption.labels_file': str(path),
    'train_limit': '900',
  }
  cfg = config.load(NOISE, fields).config
  place = scene.draw_scene(cfg, scene.load_world(cfg), 1)
  seen = [of[image.tobytes()] for image in np.asarray(place.train.image)]
  assert place.train.label.tolist() == seen
  pool = place.proxy
  images = np.asarray(pool.image)[np.asarray(pool.positions[0])]
  assert pool.label[0].tolist() == [of[image.tobytes()] for image in images]
  assert 0 < images.shape[0] < pool.image.shape[0]
  clean = np.asarray(place.clean.image)
  assert place.clean.label.tolist() == [of[x.tobytes()] for x in clean]
  assert place.record['corrupted'] == place.train.label.size - len(clean)


@pytest.mark.parametrize(
  'kind,fields',
  [
    ('interclass', {}),
    ('constant', {'corruption.target': '4'}),
  ],
)
def test_every_kind_makes_a_scene(kind, fields):
  fields = {'corruption.kind': kind, 'noise_rate': '0.05', **fields}
  cfg = config.load(NOISE, fields).config
  place = scene.draw_scene(cfg, scene.load_world(cfg), 0)
  assert place.record['corrupted'] > 0
  assert place.proxy.label.shape[1] > 0


def test_the_report_names_people_and_no_rate():
  settings = {'dataset': 'cifar10', 'noise_rate': 0.4}
  results = {'task': 'label_noise', 'class_names': ['a', 'b']}
  said = words.describe_corruption(
    {**results, 'config': {**settings, 'corruption': {'kind': 'human'}}}
  )
  assert 'people gave' in said[0] and '40' not in said[0]


@pytest.mark.parametrize('sizes,together', [((9, 9), True), ((9, 8), False)])
def test_seeds_of_unequal_sets_are_trained_apart(sizes, together, monkeypatch):
  calls = []

  def fit(*args, strategy='map', **options):
    calls.append((strategy, args[4].steps))
    return train.Fit(args[2], [None] * 2, 0.0)

  monkeypatch.setattr(vectorize, 'default_strategy', lambda: 'vmap')
  monkeypatch.setattr(train, 'fit', fit)
  batches = [
    Batch(jnp.zeros((n, 2, 2, 1), jnp.uint8), jnp.zeros(n, int)) for n in sizes
  ]
  settings = recipes.training(epochs=2, batch_size=4)
  world = scene.World(*[None] * len(scene.World._fields))
  start = Variables({'w': jnp.ones(1)}, {})
  where = stages.Checkpoints(pathlib.Path('.'), '', 1.0)
  keys, seeds = [rng.fold_in(0), rng.fold_in(1)], (0, 1)
  stages.train_all(
    'oracle', world, keys, [start] * 2, batches, settings, where, seeds
  )
  assert calls == ([('vmap', 6)] if together else [('map', 6), ('map', 4)])
