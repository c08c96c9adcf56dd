"""Loading by name, the digits, and the cache of decoded images."""

import json

import data_fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets

from cmu_jax.core import errors
from cmu_jax.data import sources
from cmu_jax.data.sources import cache, common
from cmu_jax.data.sources.common import SplitArrays

FACTS = {'files': [['a.png', 3, 17]]}


def small(seed=0):
  image = data_fakes.pictures(4, seed=seed)
  label = np.array([0, 1, 0, 1], np.int32)
  return SplitArrays(image, label, image[::-1], label[::-1], ('cat', 'dog'))


def equal(one, other):
  return one.class_names == other.class_names and all(
    np.array_equal(a, b) for a, b in zip(one[:4], other[:4], strict=True)
  )


def test_digits_are_all_of_them_rescaled_to_bytes():
  found = sources.load('digits')
  pixels, label = sklearn.datasets.load_digits(return_X_y=True)
  assert found.class_names == tuple('0123456789') and found.name == 'digits'
  images = np.concatenate([found.train.image, found.test.image])
  assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
  assert (images.min(), images.max()) == (0, 255)
  values = np.unique(images)
  assert np.array_equal(values, np.round(np.arange(17) * 255 / 16))
  fifth = common.every_fifth(label)
  expected = np.round(pixels[fifth] * 255 / 16).reshape(-1, 8, 8, 1)
  assert np.array_equal(found.test.image, expected)
  assert np.array_equal(found.train.label, label[~fifth])


def test_arrays_are_on_the_device_with_the_right_types():
  found = sources.load('digits')
  for batch in (found.train, found.test):
    assert isinstance(batch.image, jax.Array) and batch.has_trigger is None
    assert batch.image.dtype == jnp.uint8 and batch.label.dtype == jnp.int32


def test_the_fixed_test_split_is_a_fifth_of_every_class():
  label = np.random.default_rng(0).integers(0, 7, 200)
  test = common.every_fifth(label)
  size = np.bincount(label, minlength=7)
  assert np.array_equal(np.bincount(label[test], minlength=7), size // 5)
  assert np.flatnonzero(common.every_fifth(np.zeros(11, int))).tolist() == [
    4,
    9,
  ]


def test_a_cached_source_is_decoded_once(tmp_path):
  calls = []

  def build():
    calls.append(1)
    return small()

  first = cache.read_or_build(tmp_path, 'set', FACTS, build)
  second = cache.read_or_build(tmp_path, 'set', FACTS, build)
  assert len(calls) == 1 and equal(first, second)
  assert isinstance(second.train_image, np.memmap)
  cache.read_or_build(tmp_path, 'set', {'files': [['a.png', 3, 18]]}, build)
  assert len(calls) == 2


def _cut(folder):
  path = folder / 'train_image.npy'
  path.write_bytes(path.read_bytes()[:-1])


def _flip(folder):
  path = folder / 'test_label.npy'
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(bytes(content))


def _replace(name, text):
  return lambda folder: (folder / name).write_text(text)


def _remove(name):
  return lambda folder: (folder / name).unlink()


DAMAGE = {
  'cut': _cut,
  'flipped': _flip,
  'removed': _remove('test_image.npy'),
  'no contents': _remove(cache.CONTENTS),
  'empty contents': _replace(cache.CONTENTS, ''),
  'other contents': _replace(cache.CONTENTS, '[]'),
  'fewer contents': _replace(cache.CONTENTS, json.dumps({'files': {}})),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_cache_is_noticed_and_rebuilt(damage, tmp_path, capsys):
  cache.read_or_build(tmp_path, 'set', FACTS, small)
  folder = cache.cache_folder(tmp_path, 'set', FACTS)
  DAMAGE[damage](folder)
  again = cache.read_or_build(tmp_path, 'set', FACTS, lambda: small(seed=1))
  assert equal(again, small(seed=1))
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and 'is damaged' in said
  unused = lambda: pytest.fail('it was not rebuilt')
  assert equal(cache.read_or_build(tmp_path, 'set', FACTS, unused), again)
  assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, capsys):
  (tmp_path / 'file').write_text('in the way')
  arrays = cache.read_or_build(tmp_path / 'file' / 'cache', 'set', FACTS, small)
  assert equal(arrays, small())
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and 'without a data cache' in said
  assert 'CMU_JAX_CACHE' in said


def test_a_write_that_fails_leaves_nothing(tmp_path, capsys, monkeypatch):
  def full(*_, **__):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(np, 'save', full)
  assert equal(cache.read_or_build(tmp_path, 'set', FACTS, small), small())
  assert 'No space left' in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []


def test_the_cache_folder_comes_from_the_environment(tmp_path, monkeypatch):
  monkeypatch.setenv('CMU_JAX_CACHE', str(tmp_path / 'there'))
  cache.read_or_build(None, 'folder:/a b/c', FACTS, small)
  (folder,) = (tmp_path / 'there').iterdir()
  assert folder.name.startswith('folder_a_b_c-')
  monkeypatch.delenv('CMU_JAX_CACHE')
  monkeypatch.setenv('HOME', str(tmp_path))
  assert cache.default_dir() == tmp_path / '.cache' / 'cmu_jax'


def test_an_error_in_a_thread_is_raised_and_the_first_one():
  def work(span):
    if 300 in span or 900 in span:
      raise errors.UserError(f'broken from {span.start}')

  with pytest.raises(errors.UserError, match='broken from 256'):
    common.run_in_chunks('working', 5000, work)


def test_all_indices_are_worked_on_once():
  done = np.zeros(1000, int)

  def work(span):
    done[span.start : span.stop] += 1

  common.run_in_chunks('working', 1000, work)
  assert (done == 1).all()


BAD = {
  'uint8 .* is needed': {'train_image': np.zeros((4, 6, 5, 3), np.float32)},
  '1 or 3. is needed': {'test_image': np.zeros((4, 6, 5, 4), np.uint8)},
  'of zero size': {'train_image': np.zeros((4, 0, 5, 3), np.uint8)},
  'train split: 4 images but 3 labels': {'train_label': np.array([0, 1, 0])},
  'label 2 of sample 1 is outside 0..1': {'test_label': np.array([0, 2, 0, 1])},
  'label -1 of sample 0': {'train_label': np.array([-1, 1, 0, 1])},
  "class 'dog' has no sample": {'test_label': np.zeros(4, int)},
  'at least 2 are needed': {'class_names': ('cat',)},
  'but test images': {'test_image': np.zeros((4, 5, 5, 3), np.uint8)},
}


@pytest.mark.parametrize('message', BAD)
def test_arrays_that_are_no_classification_set(message):
  with pytest.raises(errors.UserError, match=message):
    common.check_arrays('set', small()._replace(**BAD[message]))


NAMES = {
  "did you mean 'cifar10'": 'cifra10',
  "did you mean 'folder'": 'foldr:/somewhere',
  'folder:PATH': 'zzzzqqqq',
  "write 'folder:PATH'": 'folder',
  "write 'npz:PATH'": 'npz:',
  "write 'digits'": 'digits:1',
  "write 'tfds:NAME'": 'tfds',
}


@pytest.mark.parametrize('message', NAMES)
def test_names_that_are_no_source(message, tmp_path):
  with pytest.raises(errors.UserError, match=message) as caught:
    sources.load(NAMES[message], data_dir=tmp_path)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 250


def test_image_size_is_checked():
  with pytest.raises(errors.UserError, match='integer of at least 1'):
    sources.load('digits', image_size=0)
  with pytest.raises(errors.UserError, match='does not apply to digits'):
    sources.load('digits', image_size=32)
