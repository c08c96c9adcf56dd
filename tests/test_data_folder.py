"""Image folders: any mode and size, and what is wrong with bad ones."""

import os
import pathlib

import data_fakes
import numpy as np
import PIL.Image
import pytest

from cmu_jax.core import errors
from cmu_jax.data import sources
from cmu_jax.data.sources import pictures

SHARED = pathlib.Path(__file__).parents[2] / 'shared' / 'data'


def load(root, **options):
  return sources.load(
    f'folder:{root}', cache_dir=root.parent / 'cache', **options
  )


@pytest.fixture
def root(tmp_path):
  data_fakes.write_folder(tmp_path / 'set')
  return tmp_path / 'set'


def test_classes_and_files_are_in_the_order_of_their_names(tmp_path):
  written = data_fakes.write_folder(tmp_path / 'set')
  found = load(tmp_path / 'set')
  assert found.class_names == ('a', 'b')
  assert found.train.label.tolist() == [0, 0, 0, 1, 1, 1]
  for split, batch in (('train', found.train), ('test', found.test)):
    names = [f'{split}/{c}/{i}.png' for c in 'ab' for i in range(3)]
    assert np.array_equal(batch.image, np.stack([written[n] for n in names]))


def test_val_stands_in_for_test(tmp_path):
  data_fakes.write_folder(tmp_path / 'set', splits=('train', 'val'))
  assert load(tmp_path / 'set').test.label.shape == (6,)


def test_a_second_load_reads_the_cache_and_a_changed_file_does_not(root):
  first = load(root)
  path = root / 'train' / 'a' / '0.png'
  stat = path.stat()
  path.write_bytes(b'x' * stat.st_size)
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  # Same size and time: taken for the same file, so nothing is decoded.
  assert np.array_equal(load(root).train.image, first.train.image)
  path.touch()
  with pytest.raises(errors.UserError, match=r'a/0\.png'):
    load(root)


def test_images_are_resized_on_load(root):
  PIL.Image.new('RGB', (9, 4), (255, 0, 0)).save(root / 'train/a/big.JPG')
  found = load(root, image_size=8)
  assert found.train.image.shape == (7, 8, 8, 3)
  red = found.train.image[3].astype(int)
  assert abs(red - np.array([254, 0, 0])[None, None]).max() < 3


def test_all_grey_images_stay_grey(tmp_path):
  for split in ('train', 'test'):
    for c in 'ab':
      folder = tmp_path / 'set' / split / c
      folder.mkdir(parents=True)
      PIL.Image.new('L', (4, 4), 77).save(folder / '1.png')
  found = load(tmp_path / 'set')
  assert found.train.image.shape == (2, 4, 4, 1)
  assert (found.train.image == 77).all()
  PIL.Image.new('RGB', (4, 4), (1, 2, 3)).save(folder / '2.png')
  found = load(tmp_path / 'set')
  assert found.train.image.shape == (2, 4, 4, 3)
  assert (found.train.image == 77).all()
  assert found.test.image[-1, 0, 0].tolist() == [1, 2, 3]


def _palette():
  picture = PIL.Image.new('P', (4, 4), 1)
  picture.putpalette([0, 0, 0, 10, 20, 30])
  return picture


def _deep():
  return PIL.Image.fromarray(np.full((4, 4), 257 * 40, np.uint16))


MODES = {
  'RGB': (PIL.Image.new('RGB', (4, 4), (10, 20, 30)), {}, [10, 20, 30]),
  'RGBA': (PIL.Image.new('RGBA', (4, 4), (10, 20, 30, 9)), {}, [10, 20, 30]),
  'P': (_palette(), {}, [10, 20, 30]),
  'P, transparent': (_palette(), {'transparency': bytes([0, 9])}, [10, 20, 30]),
  'LA': (PIL.Image.new('LA', (4, 4), (40, 9)), {}, [40]),
  '1': (PIL.Image.new('1', (4, 4), 1), {}, [255]),
  '16 bits': (_deep(), {}, [40]),
  'animated': (
    PIL.Image.new('RGB', (4, 4), (10, 20, 30)),
    {'save_all': True, 'append_images': [PIL.Image.new('RGB', (4, 4))]},
    [10, 20, 30],
  ),
}


@pytest.mark.parametrize('mode', MODES)
def test_pngs_of_any_mode(mode, tmp_path):
  picture, options, expected = MODES[mode]
  picture.save(tmp_path / 'x.png', **options)
  head = pictures.read_header(tmp_path / 'x.png')
  assert head == (4, 4, len(expected) == 1)
  pixels = pictures.decode(tmp_path / 'x.png', 'x', head.grey)
  assert pixels.shape == (4, 4, len(expected)) and pixels.dtype == np.uint8
  assert (pixels == np.array(expected, np.uint8)[None, None]).all()


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
  PIL.Image.new('CMYK', (8, 8), (0, 255, 255, 0)).save(tmp_path / 'x.jpg')
  pixels = pictures.decode(tmp_path / 'x.jpg', 'x', grey=False)
  assert abs(pixels.astype(int) - np.array([255, 0, 0])[None, None]).max() < 4


def _truncated(root):
  path = root / 'train/a/cut.jpg'
  PIL.Image.fromarray(data_fakes.pictures(1, (64, 64, 3))[0]).save(path)
  path.write_bytes(path.read_bytes()[:-500])
  return {'image_size': 8}


def _write(name, content):
  def spoil(root):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)

  return spoil


def _clear(name, keep=False):
  def spoil(root):
    for path in (root / name).rglob('*.png'):
      path.unlink()
    if not keep:
      for path in sorted((root / name).rglob('*'), reverse=True):
        path.rmdir()

  return spoil


def _drop(name):
  def spoil(root):
    _clear(name)(root)
    (root / name).rmdir()

  return spoil


def _odd_size(root):
  PIL.Image.new('RGB', (7, 7)).save(root / 'test/b/odd.png')


SPOILED = {
  r'a/cut\.jpg .*truncated': _truncated,
  r'a/text\.png .*cannot identify': _write('train/a/text.png', b'hello'),
  r'a/none\.jpg ': _write('train/a/none.jpg', b''),
  r'odd\.png is 7x7; set image_size': _odd_size,
  "no 'test' or 'val' folder": _drop('test'),
  "no 'train' folder": _drop('train'),
  'has no class folders': _clear('train'),
  r'train/a has no picture': _clear('train/a', keep=True),
  r'test/b has no picture': _clear('test/b', keep=True),
  "class folder 'c' is in only one of": _write('train/c/1.png', b''),
  "class folder 'b' is in only one": _drop('test/b'),
}


@pytest.mark.parametrize('message', SPOILED)
def test_what_is_wrong_with_a_folder_is_one_line(message, root):
  options = SPOILED[message](root) or {}
  with pytest.raises(errors.UserError, match=message) as caught:
    load(root, **options)
  assert '\n' not in str(caught.value)


def test_a_folder_that_is_absent_or_a_file(tmp_path):
  with pytest.raises(errors.UserError, match='gone does not exist'):
    load(tmp_path / 'gone')
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='file does not exist'):
    load(tmp_path / 'file')


def test_one_class_is_not_enough(tmp_path):
  data_fakes.write_folder(tmp_path / 'set', classes=('only',))
  with pytest.raises(errors.UserError, match='1 class; at least 2'):
    load(tmp_path / 'set')


def test_hidden_files_and_other_files_are_passed_over(root):
  for name in ('.DS_Store', '._0.png', 'notes.txt', 'table.csv'):
    (root / 'train' / 'a' / name).write_bytes(b'junk')
  (root / 'train' / '.cache').mkdir()
  assert load(root).train.label.shape == (6,)


def test_the_real_histology_folder(tmp_path):
  real = SHARED / 'folders' / 'lc25000_colon'
  if not real.is_dir():
    pytest.skip(f'no histology images in {real}')
  found = sources.load(f'folder:{real}', image_size=32, cache_dir=tmp_path)
  assert found.train.image.shape == (300, 32, 32, 3)
  assert found.class_names == ('colon_aca', 'colon_n')
