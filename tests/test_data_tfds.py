"""TFDS sets without TensorFlow: order, formats, versions, bad files."""

import pathlib
import sys

import data_fakes
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from cmu_jax.core import errors
from cmu_jax.data import sources

SHARED = pathlib.Path(__file__).parents[2] / 'shared' / 'data' / 'tfds'
# Decoding the large sets once for all runs of the suite.
CACHE = pathlib.Path(__file__).parents[1] / '.cache' / 'data_tests'
SPLITS = {'train': data_fakes.rows(8), 'test': data_fakes.rows(4, seed=1)}


def load(root, name='tiny', **options):
  return sources.load(name, data_dir=root, cache_dir=root / 'cache', **options)


def write(root, features=None, splits=None, **options):
  given = data_fakes.tensor_features() if features is None else features
  return data_fakes.write_set(root, given, splits or SPLITS, **options)


@pytest.fixture
def root(tmp_path):
  write(tmp_path)
  return tmp_path


def test_rows_are_sorted_by_id(root):
  for _ in range(2):
    found = load(root)
    assert found.class_names == ('cat', 'dog') and found.name == 'tiny'
    # The ids of the rows run backwards.
    assert np.array_equal(found.train.image, data_fakes.pictures(8)[::-1])
    assert found.train.label.tolist() == [1, 0] * 4
    assert np.array_equal(
      found.test.image, data_fakes.pictures(4, seed=1)[::-1]
    )


def test_without_id_rows_are_as_stored(tmp_path):
  features = data_fakes.tensor_features()
  del features['id']
  bare = {
    name: [{k: v for k, v in row.items() if k != 'id'} for row in rows]
    for name, rows in SPLITS.items()
  }
  write(
    tmp_path, features, {'train': bare['train'], 'validation': bare['test']}
  )
  found = load(tmp_path)
  assert np.array_equal(found.train.image, data_fakes.pictures(8))
  assert found.test.label.tolist() == [0, 1, 0, 1]


def encoded(root, shape, mode='RGB'):
  """A set with PNG-encoded images; one image is wider if shapes are free."""
  features = data_fakes.tensor_features() | {
    'image': tfds.features.Image(shape=shape)
  }
  splits = {}
  for split, rows in SPLITS.items():
    splits[split] = [
      row | {'image': PIL.Image.fromarray(row['image']).convert(mode)}
      for row in rows
    ]
  if shape[0] is None:
    splits['train'][0]['image'] = PIL.Image.new(mode, (9, 9))
  # TFDS takes files of images, not Pillow images of a given mode.
  for split, rows in splits.items():
    for i, row in enumerate(rows):
      path = root / f'{split}{i}.png'
      row['image'].save(path)
      row['image'] = str(path)
  write(root, features, splits)


def test_encoded_images_are_decoded_exactly(tmp_path):
  encoded(tmp_path, (6, 5, 3))
  found = load(tmp_path)
  assert np.array_equal(found.train.image, data_fakes.pictures(8)[::-1])


def test_grey_images_have_one_channel(tmp_path):
  encoded(tmp_path, (6, 5, 1), mode='L')
  found = load(tmp_path)
  grey = [
    np.asarray(PIL.Image.fromarray(image).convert('L'))
    for image in data_fakes.pictures(8)[::-1]
  ]
  assert np.array_equal(found.train.image[..., 0], grey)


def test_images_of_many_sizes_need_image_size(tmp_path):
  encoded(tmp_path, (None, None, 3))
  with pytest.raises(errors.UserError, match='differ in size; set image_size'):
    load(tmp_path)
  assert load(tmp_path, image_size=8).train.image.shape == (8, 8, 8, 3)


def test_raw_images_are_resized_too(root):
  found = load(root, image_size=4)
  assert found.train.image.shape == (8, 4, 4, 3)


def test_the_newest_version_is_taken_unless_one_is_named(root):
  other = {'train': SPLITS['test'], 'test': SPLITS['test']}
  write(root, splits=other, version='1.10.0')
  assert load(root).train.label.shape == (4,)
  assert load(root, 'tiny:1.2.3').train.label.shape == (8,)
  with pytest.raises(errors.UserError, match=r'1\.2\.3, 1\.10\.0, not 9\.9\.9'):
    load(root, 'tiny:9.9.9')


def test_a_configuration_is_named_with_a_slash(tmp_path):
  write(tmp_path / 'many', name='small')
  assert load(tmp_path, 'many/small').train.label.shape == (8,)
  with pytest.raises(errors.UserError, match="write 'many/small'"):
    load(tmp_path, 'many')


def test_download_prepares_a_set_that_is_not_there(tmp_path):
  data_fakes.write_set(
    tmp_path,
    data_fakes.tensor_features(),
    SPLITS,
    name='preparable',
    register=True,
  )
  with pytest.raises(errors.UserError, match=r'--config\.download=true'):
    load(tmp_path, 'preparable')
  found = load(tmp_path, 'preparable', download=True)
  assert found.train.label.shape == (8,)
  assert load(tmp_path, 'preparable').train.label.shape == (8,)


def test_a_download_that_fails_is_one_line(tmp_path):
  data_fakes.write_set(
    tmp_path,
    data_fakes.tensor_features(),
    {'train': [{'id': 'x', 'image': 'no image', 'label': 0}], 'test': []},
    name='unpreparable',
    register=True,
  )
  with pytest.raises(errors.UserError, match='cannot download') as caught:
    load(tmp_path, 'unpreparable', download=True)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('download', [False, True])
def test_an_unknown_name_gets_the_nearest(tmp_path, download):
  with pytest.raises(errors.UserError, match="did you mean 'fashion_mnist'"):
    load(tmp_path, 'fashon_mnist', download=download)


@pytest.mark.parametrize('folder', ['', 'missing'])
def test_a_known_set_that_is_not_there(tmp_path, folder):
  with pytest.raises(errors.UserError, match=r'mnist.*set data_dir.*download'):
    sources.load('mnist', data_dir=tmp_path / folder)


def test_another_format_is_refused(tmp_path):
  write(tmp_path, file_format='parquet')
  with pytest.raises(errors.UserError, match=r"parquet.*'array_record'"):
    load(tmp_path)


def test_a_set_without_classes_is_refused(tmp_path):
  features = {'text': tfds.features.Text()}
  write(tmp_path, features, {'train': [{'text': 'a'}]})
  with pytest.raises(
    errors.UserError, match=r'not image classification \(features: text\)'
  ):
    load(tmp_path)


def test_a_set_of_deep_images_is_refused(tmp_path):
  features = data_fakes.tensor_features() | {
    'image': tfds.features.Tensor(shape=(2, 2, 3), dtype=np.float32)
  }
  image = np.zeros((2, 2, 3), np.float32)
  write(tmp_path, features, {'train': [{'id': '', 'image': image, 'label': 0}]})
  with pytest.raises(errors.UserError, match='uint8 images'):
    load(tmp_path)


def test_a_set_without_a_test_split_is_refused(tmp_path):
  write(tmp_path, splits={'train': SPLITS['train']})
  with pytest.raises(errors.UserError, match=r'test split \(found: train\)'):
    load(tmp_path)


def _cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


SPOILED = {
  'cut': ('*-train.array_record*', _cut),
  'removed': ('*-test.array_record*', pathlib.Path.unlink),
  'empty': ('*-train.array_record*', lambda path: path.write_bytes(b'')),
  'no info': ('dataset_info.json', pathlib.Path.unlink),
  'bad info': ('dataset_info.json', lambda path: path.write_text('{')),
  'no features': ('features.json', pathlib.Path.unlink),
  'bad features': ('features.json', lambda path: path.write_text('{}')),
}


@pytest.mark.parametrize('damage', SPOILED)
def test_a_damaged_set_is_one_line(damage, root):
  pattern, spoil = SPOILED[damage]
  (path,) = (root / 'tiny' / '1.2.3').glob(pattern)
  spoil(path)
  with pytest.raises(errors.UserError, match='prepare') as caught:
    load(root)
  assert '\n' not in str(caught.value)


def test_tensorflow_is_never_loaded(root):
  load(root)
  assert 'tensorflow' not in sys.modules


def real(name, cache_dir):
  if not (SHARED / name).is_dir():
    pytest.skip(f'no {name} in {SHARED}')
  return sources.load(name, data_dir=SHARED, cache_dir=cache_dir)


def test_real_rows_are_decoded_and_in_order_of_id(tmp_path):
  found = real('cifar100', tmp_path)
  folder = SHARED / 'cifar100' / '3.0.2'
  builder = tfds.builder_from_directory(folder)
  rows = builder.as_data_source('test').__getitems__(range(50))
  place = [int(row['id'].decode().rsplit('_', 1)[1]) for row in rows]
  assert found.num_classes == 100
  assert found.test.label[np.array(place)].tolist() == [
    row['label'] for row in rows
  ]
  stored = np.stack([row['image'] for row in rows])
  assert np.array_equal(found.test.image[np.array(place)], stored)


@pytest.mark.slow
def test_cifar10_is_whole_and_in_its_published_order():
  found = real('cifar10', CACHE)
  assert found.train.image.shape == (50000, 32, 32, 3)
  assert found.test.image.shape == (10000, 32, 32, 3)
  label = np.asarray(found.train.label)
  # The order of the published index sets: cats come at 9, 17, 21.
  assert np.flatnonzero(label == 3)[:3].tolist() == [9, 17, 21]
  assert np.bincount(label).tolist() == [5000] * 10
  assert found.class_names[:2] == ('airplane', 'automobile')


@pytest.mark.slow
def test_mnist_is_whole():
  found = real('mnist', CACHE)
  assert found.train.image.shape == (60000, 28, 28, 1)
  assert found.test.image.shape == (10000, 28, 28, 1)
  counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
  assert np.bincount(found.train.label).tolist() == counts
