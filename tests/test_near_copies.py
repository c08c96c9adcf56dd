"""Copies in another format or size are found, and other pictures are not."""

import io
import time

import copying_network
import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from cmu_jax import __main__ as program
from cmu_jax.commands import intake
from cmu_jax.core import errors, files
from cmu_jax.data import near_copies, sources


def scenes(count, side=32, channels=3, seed=0):
  """Smooth random pictures, uint8 [count, side, side, channels]."""
  draw = np.random.default_rng(seed)
  noise = draw.normal(size=(count, side, side, channels))
  smooth = ndimage.gaussian_filter(noise, (0, side / 12, side / 12, 0))
  spread = smooth.std((1, 2, 3), keepdims=True)
  return np.clip(128 + 50 * smooth / spread, 0, 255).astype(np.uint8)


def encode(picture, kind, **options):
  """The picture after it was saved and read again."""
  stream = io.BytesIO()
  picture.save(stream, kind, **options)
  return PIL.Image.open(stream)


def resize(picture, factor):
  """The picture after it was resized and read in its former size."""
  size = tuple(round(factor * side) for side in picture.size)
  bilinear = PIL.Image.Resampling.BILINEAR
  return picture.resize(size, bilinear).resize(picture.size, bilinear)


CHANGES = {
  'jpeg': lambda p: encode(p, 'JPEG', quality=75),
  'webp': lambda p: encode(p, 'WEBP', quality=80).convert(p.mode),
  'larger': lambda p: resize(p, 1.7),
  'smaller': lambda p: resize(p, 0.7),
}


def change(image, kind):
  """Pictures after a change that keeps their sight."""
  pictures = [
    PIL.Image.fromarray(x[..., 0] if x.shape[2] == 1 else x) for x in image
  ]
  pixels = np.stack([np.asarray(CHANGES[kind](p)) for p in pictures])
  return pixels.reshape(image.shape)


@pytest.mark.parametrize('kind', CHANGES)
@pytest.mark.parametrize('side, channels', [(28, 1), (32, 3), (90, 3)])
def test_a_resaved_or_resized_picture_is_found(kind, side, channels):
  image = scenes(60, side, channels)
  copies = change(image[40:], kind)
  others = np.concatenate([scenes(50, side, channels, seed=1), image[:40]])
  found = near_copies.find_near_copies(copies, np.concatenate([others, image]))
  positions, matches = found.T
  assert len(found) >= 19
  assert (matches == len(others) + 40 + positions).all()


def test_equal_pixels_and_other_pictures_are_no_near_copies():
  image = scenes(80)
  for others in (image, scenes(80, seed=2), image[:, ::-1], 255 - image):
    assert not len(near_copies.find_near_copies(image, others))


@pytest.mark.parametrize('count', [2, 20, 700])
def test_digits_of_one_class_are_no_copies(count):
  digits = sources.load('digits')
  train, test = (np.asarray(x.image) for x in (digits.train, digits.test))
  false = near_copies.find_near_copies(test[:count], train[:count])
  # Two people wrote nearly the same 1: at most one of 350.
  assert len(false) <= count / 350


def test_plain_pictures_are_no_copies():
  draw = np.random.default_rng(0)
  colours = draw.integers(0, 256, (40, 1, 1, 3), np.uint8)
  plain = np.broadcast_to(colours, (40, 32, 32, 3))
  grain = plain // 2 + draw.integers(0, 2, plain.shape, np.uint8)
  for image in (plain, grain):
    assert not len(near_copies.find_near_copies(image[:20], image[20:]))
  none = np.zeros((0, 32, 32, 3), np.uint8)
  for pair in ((none, plain), (plain, none)):
    assert near_copies.find_near_copies(*pair).shape == (0, 2)


def test_ten_thousand_against_ten_thousand_take_two_seconds():
  draw = np.random.default_rng(0)
  image, others = draw.integers(0, 256, (2, 10_000, 32, 32, 3), np.uint8)
  others[:30] = image[:30] ^ 1
  began = time.process_time()
  found = near_copies.find_near_copies(image, others)
  # Processor time, because other tests may run beside this.
  assert time.process_time() - began < 4
  assert found.tolist() == [[i, i] for i in range(30)]


def test_the_warning_names_two_files_once_a_pair_of_sets(tmp_path):
  """Sets of a folder, of subfolders without classes and of an archive."""
  image = scenes(12)
  for i, pixels in enumerate(image[:6]):
    folder = tmp_path / 'a' / 'ab'[i // 3]
    folder.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(folder / f'{i}.png')
  flat = tmp_path / 'b' / 'deep'
  flat.mkdir(parents=True)
  for i, pixels in enumerate(change(image[4:8], 'webp')):
    PIL.Image.fromarray(pixels).save(flat / f'{i}.bmp')
  sets = {
    '--proxy': intake.PictureSet(str(tmp_path / 'a'), image[:6]),
    '--ordinary': intake.PictureSet(
      str(tmp_path / 'b'), change(image[4:8], 'webp'), False
    ),
    '--test': intake.PictureSet('c.npz', change(image[[9, 10, 5]], 'jpeg')),
    '--retain': None,
  }
  with errors.collect_remarks() as remarks:
    intake.warn_of_near_copies(sets)
  assert [text.partition(', res')[0] for text in remarks] == [
    'Warning: 2 of 4 pictures of --ordinary look like pictures of --proxy',
    'Warning: 1 of 3 pictures of --test look like pictures of --proxy',
    'Warning: 1 of 3 pictures of --test look like pictures of --ordinary',
  ]
  first = f'{flat / "0.bmp"} and {tmp_path / "a" / "b" / "4.png"}. They stay'
  assert first in remarks[0]
  assert f'c.npz[2] and {tmp_path / "a" / "b" / "5.png"}' in remarks[1]
  assert f'c.npz[2] and {flat / "1.bmp"}' in remarks[2]


@pytest.mark.parametrize('command', ['unlearn', 'repair', 'audit'])
def test_every_command_warns(command, tmp_path, capsys):
  names = {'ant': 0, 'bee': 1, 'cat': 2}
  copying_network.ship(tmp_path, [0, 1, 2], {'classes': list(names)})
  for seed, name in enumerate('ab'):
    copying_network.pictures(tmp_path / name, names, 4, seed)
  source = np.asarray(PIL.Image.open(tmp_path / 'a' / 'bee' / '2.png'))
  near = source ^ np.eye(8, dtype=np.uint8)
  PIL.Image.fromarray(near).save(tmp_path / 'b' / 'bee' / 'resaved.png')
  a, b = tmp_path / 'a', tmp_path / 'b'
  values = {
    'unlearn': {
      **{'forget': a, 'test': b, 'epochs': 1},
      **{'method': 'gradient_ascent', 'learning_rate': 1e-9},
    },
    'audit': {'members': a, 'nonmembers': b, 'refs': 2, 'replicates': 20}
    | {'epochs': 1},
    'repair': {'proxy': a, 'kind': 'label_noise', 'test': b, 'steps': 1},
  }
  flags = copying_network.flags(tmp_path, **values[command])
  assert program.main([command, *flags]) == 0
  results = files.read_json(tmp_path / 'out' / 'results.json')
  said = [text for text in results['remarks'] if 'look like' in text]
  assert len(said) == 1 and 'Warning: 1 of 13 pictures of --' in said[0]
  assert f'{b / "bee" / "resaved.png"} and {a / "bee" / "2.png"}' in said[0]
  assert capsys.readouterr().out.count(said[0]) == 1
