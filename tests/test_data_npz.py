"""NumPy archives: the layout, and what is wrong with bad ones."""

import data_fakes
import numpy as np
import pytest

from cmu_jax.core import errors
from cmu_jax.data import sources

IMAGES = data_fakes.pictures(20)
LABELS = np.arange(20) % 2


def load(path):
  return sources.load(f'npz:{path}', cache_dir=path.parent / 'cache')


def save(tmp_path, **arrays):
  given = {'images': IMAGES, 'labels': LABELS} | arrays
  kept = {name: value for name, value in given.items() if value is not None}
  np.savez(tmp_path / 'set.npz', **kept)
  return tmp_path / 'set.npz'


def test_a_fifth_of_each_class_is_held_out(tmp_path):
  path = save(tmp_path)
  for _ in range(2):
    found = load(path)
    assert found.class_names == ('0', '1')
    assert found.test.label.tolist() == [0, 1, 0, 1]
    assert np.array_equal(found.test.image, IMAGES[[8, 9, 18, 19]])
    assert np.array_equal(
      found.train.image, np.delete(IMAGES, [8, 9, 18, 19], 0)
    )


def test_given_test_arrays_and_names_are_used(tmp_path):
  grey = data_fakes.pictures(6, (5, 4))
  path = save(
    tmp_path,
    images=grey,
    labels=np.array([0, 1, 2, 2, 1, 0], np.uint8),
    test_images=grey[:3],
    test_labels=np.array([2, 1, 0]),
    class_names=np.array(['x', 'y', 'z']),
  )
  found = load(path)
  assert found.class_names == ('x', 'y', 'z')
  assert np.array_equal(found.train.image, grey[..., None])
  assert found.test.label.tolist() == [2, 1, 0]


def test_an_archive_saved_anew_is_read_anew(tmp_path):
  first = load(save(tmp_path))
  second = load(save(tmp_path, images=255 - IMAGES))
  assert np.array_equal(second.train.image, 255 - first.train.image)


def _floats(value=None):
  pixels = IMAGES / 255
  if value is not None:
    pixels[3, 2, 1] = value
  return pixels


ARRAYS = {
  "has no 'images'": {'images': None},
  "has no 'labels'": {'labels': None},
  r'float64; uint8 .* convert floats in 0\.\.1': {'images': _floats()},
  'images has NaN': {'images': _floats(np.nan)},
  'NaN or infinite': {'images': _floats(np.inf)},
  'images is int64; uint8': {'images': IMAGES.astype(np.int64)},
  r'images has shape \(20, 6\)': {'images': IMAGES[:, :, 0, 0]},
  r'images has shape \(20, 0, 5, 3\)': {'images': IMAGES[:, :0]},
  r'images has shape \(0, ': {'images': IMAGES[:0], 'labels': LABELS[:0]},
  'images are uint8 of shape .* 1 or 3': {'images': IMAGES[..., :2]},
  'labels are float64': {'labels': LABELS + 0.5},
  'labels have NaN': {'labels': np.where(LABELS, np.nan, 0)},
  r'labels are one-hot, \(20, 2\)': {'labels': np.eye(2, dtype=int)[LABELS]},
  'labels are text': {'labels': LABELS.astype('U1')},
  '20 images but 19 labels': {'labels': LABELS[1:]},
  'label -1 of sample 0': {'labels': LABELS * 2 - 1},
  "class '1' has no sample": {'labels': LABELS * 2},
  r'label 1 of sample \d+ is outside 0\.\.0|at least 2': {
    'class_names': np.array(['one'])
  },
  'outside 0': {'labels': LABELS * 3, 'class_names': np.array(['a', 'b'])},
  'class_names is int64': {'class_names': np.arange(2)},
  'test split: no image': {
    'images': IMAGES[:2],
    'labels': np.array([0, 1]),
  },
  'only one of test_images and test_labels': {'test_images': IMAGES},
  'but test images': {
    'test_images': data_fakes.pictures(4, (9, 9, 3)),
    'test_labels': np.array([0, 1, 0, 1]),
  },
  'not a readable .npz of plain arrays': {
    'class_names': np.array(['a', None], object)
  },
}


@pytest.mark.parametrize('message', ARRAYS)
def test_what_is_wrong_with_the_arrays_is_one_line(message, tmp_path):
  with pytest.raises(errors.UserError, match=message) as caught:
    load(save(tmp_path, **ARRAYS[message]))
  assert '\n' not in str(caught.value)


def _array(path):
  with path.open('wb') as file:
    np.save(file, IMAGES)


def _cut(path):
  content = save(path.parent).read_bytes()
  path.write_bytes(content[: len(content) // 2])


def _overwritten(path):
  content = bytearray(save(path.parent).read_bytes())
  content[300:400] = bytes(100)
  path.write_bytes(bytes(content))


FILES = {
  'is one array, not an .npz': _array,
  'not a readable .npz': lambda path: path.write_text('hello'),
  'not a readable .npz of': lambda path: path.write_bytes(b''),
  '.npz of plain arrays': _cut,
  'CRC': _overwritten,
  'does not exist': lambda path: None,
}


@pytest.mark.parametrize('message', FILES)
def test_what_is_wrong_with_the_file_is_one_line(message, tmp_path):
  FILES[message](tmp_path / 'set.npz')
  with pytest.raises(errors.UserError, match=message) as caught:
    load(tmp_path / 'set.npz')
  assert '\n' not in str(caught.value)


def test_image_size_is_for_folders(tmp_path):
  with pytest.raises(errors.UserError, match='does not apply to npz'):
    sources.load(f'npz:{save(tmp_path)}', image_size=8)
