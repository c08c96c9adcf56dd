"""Clothing1M: a tiny tree of its layout, and lists that are malformed."""

import os

import numpy as np
import PIL.Image
import pytest
import small_run

from cmu_jax.core import config, errors
from cmu_jax.data import sources
from cmu_jax.data.sources import clothing1m
from cmu_jax.studies.cuts import scene

LISTS = (
  *('noisy_train_key_list.txt', 'noisy_label_kv.txt'),
  *('clean_train_key_list.txt', 'clean_val_key_list.txt'),
  *('clean_test_key_list.txt', 'clean_label_kv.txt'),
)


def colour(label):
  return np.array([10 + 17 * label, 240 - 17 * label, 128], np.uint8)


def write(root, train=28, test=14):
  """A tree of flat pictures whose colour is their label; the keys, labels."""
  count = train + test + 6
  key = lambda i: f'images/{i % 10}/{i:02d}/{700 + i},{31 * i}.jpg'
  keys, labels = [key(i) for i in range(count)], np.arange(count) * 5 % 14
  for name, label in zip(keys, labels, strict=True):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    picture = np.broadcast_to(colour(label), (9, 6 + label, 3))
    PIL.Image.fromarray(picture).save(root / name, quality=95)
  pairs = [f'{k} {v}' for k, v in zip(keys, labels, strict=True)]
  text = {name: ['not read'] for name in LISTS}
  # Labels are in another order than keys, and there are more of them.
  text['noisy_train_key_list.txt'] = keys[:train]
  text['noisy_label_kv.txt'] = pairs[: train + 3][::-1]
  text['clean_test_key_list.txt'] = keys[train : train + test]
  text['clean_label_kv.txt'] = pairs[train:]
  for name, lines in text.items():
    (root / name).write_text('\n'.join(lines) + '\n')
  return keys, labels


@pytest.fixture
def root(tmp_path):
  write(tmp_path / 'set')
  return tmp_path / 'set'


def load(root, size=8):
  source = f'clothing1m:{root}'
  return sources.load(source, image_size=size, cache_dir=root.parent / 'cache')


@pytest.mark.parametrize('annotations', [False, True])
def test_images_and_labels_are_those_of_the_lists(tmp_path, annotations):
  root = tmp_path / 'set'
  _, labels = write(root)
  if annotations:
    (root / 'annotations').mkdir()
    for name in LISTS:
      (root / name).rename(root / 'annotations' / name)
  found = load(root)
  assert found.class_names == clothing1m.CLASSES and found.num_classes == 14
  for batch, expected in (
    (found.train, labels[:28]),
    (found.test, labels[28:]),
  ):
    expected = expected[: batch.label.size]
    assert np.array_equal(batch.label, expected)
    assert batch.image.shape == (expected.size, 8, 8, 3)
    wanted = np.stack([colour(label) for label in expected]).astype(int)
    mean = np.asarray(batch.image, float).mean((1, 2))
    assert abs(mean - wanted).max() < 4
  assert (found.train.label.size, found.test.label.size) == (28, 14)


def test_a_second_load_reads_the_cache_and_a_changed_image_does_not(root):
  load(root)
  path = next((root / 'images').rglob('700,0.jpg'))
  stat = path.stat()
  path.write_bytes(b'x' * stat.st_size)
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  load(root)
  path.touch()
  with pytest.raises(errors.UserError, match=r'cannot decode .*700,0\.jpg'):
    load(root)


def _edit(name, change):
  def edit(root):
    lines = (root / name).read_text().splitlines()
    (root / name).write_text('\n'.join(change(lines)))

  return edit


def _remove(name):
  return lambda root: (root / name).unlink()


KEYS, KV = 'noisy_train_key_list.txt', 'noisy_label_kv.txt'
MALFORMED = {
  'has no clean_test_key_list.txt': _remove('clean_test_key_list.txt'),
  'kv.txt is empty': _edit(KV, lambda lines: ['', ' ']),
  'kv.txt line 2 is .*label from 0 to 13': _edit(
    KV, lambda lines: [lines[0], lines[1].replace(' ', ' 1'), *lines[2:]]
  ),
  'kv.txt line 1 is': _edit(
    KV, lambda lines: [lines[0].split()[0], *lines[1:]]
  ),
  'line 1: .* has no label in': _edit(KV, lambda lines: lines[:-1]),
  'list.txt line 2: .* is listed twice': _edit(
    KEYS, lambda lines: [lines[0], *lines]
  ),
  'line 1: .* is no path inside': _edit(
    KEYS, lambda lines: ['../x.jpg', *lines[1:]]
  ),
  'list.txt line 3: .* is no path': _edit(
    KEYS, lambda lines: [*lines[:2], '', *lines[2:]]
  ),
  'is not text': lambda root: (root / KV).write_bytes(b'\xff\xfe\xff'),
  r'700,0\.jpg cannot be read': lambda root: (
    root / 'images/0/00/700,0.jpg'
  ).unlink(),
  "class 't-shirt' has no sample": _edit(
    KEYS,
    lambda lines: [x for x in lines if '/00/' not in x and '/14/' not in x],
  ),
}


@pytest.mark.parametrize('message', MALFORMED)
def test_malformed_trees_are_one_line(root, message):
  MALFORMED[message](root)
  with pytest.raises(errors.UserError, match=message) as caught:
    load(root)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'source,size,message',
  [
    ('clothing1m:/nowhere', 8, 'the folder /nowhere does not exist'),
    ('clothing1m:', 8, 'needs a path'),
    ('clothing1m:.', None, 'set image_size'),
    ('clothing1n', 8, "did you mean 'clothing1m'"),
  ],
)
def test_sources_that_cannot_be(source, size, message):
  with pytest.raises(errors.UserError, match=message):
    sources.load(source, image_size=size)


def test_its_config_makes_a_scene(tmp_path, monkeypatch):
  monkeypatch.setenv('CMU_JAX_CACHE', str(tmp_path / 'cache'))
  write(tmp_path / 'set', train=140)
  spec = f'{small_run.ROOT}/configs/cuts_clothing1m.py:smoke'
  cfg = config.load(spec, {'dataset': f'clothing1m:{tmp_path}/set'}).config
  place = scene.draw_scene(cfg, scene.load_world(cfg), 0)
  assert place.train.label.size == 112 and place.record['corrupted'] == 0
  assert place.proxy.label.shape == (2, 28)
