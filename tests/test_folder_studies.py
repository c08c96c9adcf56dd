"""Studies on a user's pictures: cuts that keep rare classes, and mirroring."""

import numpy as np
import pytest
from jax import numpy as jnp

from cmu_jax.core import config as config_lib
from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Dataset
from cmu_jax.studies.engine import binding

SIZES = (700, 260, 31, 14)


def archive(path, sizes=SIZES):
  """An archive of small pictures, so many of each class; its source."""
  label = np.repeat(np.arange(len(sizes)), sizes)
  image = np.zeros((label.size, 4, 4), np.uint8)
  image[:, 0, 0], image[:, 0, 1] = np.arange(label.size) % 256, label
  np.savez(path, images=image, labels=label)
  return f'npz:{path}'


def load(path, name, **changes):
  """The cut of a config's data: images a class, and the remarks."""
  overrides = {'dataset': archive(path), 'image_size': '0', **changes}
  config = config_lib.load(f'configs/{name}', overrides).config
  with errors.collect_remarks() as remarks:
    loaded = binding.load(config)
  counts = np.bincount(np.asarray(loaded.dataset.train.label)).tolist()
  return counts, remarks


# The fifth of each class that is for testing is taken off first.
TRAIN = [560, 208, 25, 12]


def test_a_smoke_keeps_what_the_confusion_of_two_classes_needs(tmp_path):
  changes = {'interclass.pair': '1:2', 'train_limit': '200'}
  counts, remarks = load(
    tmp_path / 'a.npz', 'corrective_folder.py:smoke', **changes
  )
  # 100 manipulated images: 50 of each, of four fifths of the class.
  assert counts[1] == 63 and counts[2] == 25
  assert counts[0] == 200 * 560 // 805
  assert any('(config.train_limit=200)' in line for line in remarks)
  assert any('rare classes' in line for line in remarks)


def test_a_smoke_keeps_images_of_each_class_for_the_proxy(tmp_path):
  counts, _ = load(
    tmp_path / 'a.npz', 'cuts_folder.py:smoke', train_limit='100'
  )
  assert counts == [69, 25, 10, 10]


def test_a_limit_of_the_user_is_kept(tmp_path):
  changes = {'train_limit': '100'}
  counts, remarks = load(tmp_path / 'a.npz', 'cuts_folder.py', **changes)
  assert counts == [69, 25, 3, 1]
  assert any('100 of' in line or '98 of 805' in line for line in remarks)


def test_no_cut_says_nothing(tmp_path):
  counts, remarks = load(tmp_path / 'a.npz', 'cuts_folder.py:smoke')
  assert counts == TRAIN and not any('are used' in line for line in remarks)


@pytest.mark.parametrize('name', ['cuts_folder', 'corrective_folder'])
def test_folders_are_mirrored_only_if_the_user_says_so(name):
  assert not config_lib.load(f'configs/{name}.py', {}).config.input.flip
  assert config_lib.load(f'configs/{name}.py:flip', {}).config.input.flip


@pytest.mark.parametrize('name', ['folder:signs', 'npz:x.npz', 'cifar10'])
@pytest.mark.parametrize('flip', [False, True])
def test_mirrored_pictures_of_a_user_are_said(name, flip):
  config = config_lib.load('configs/cuts_digits.py', {}).config
  config.input.flip = flip
  batch = Batch(jnp.zeros((4, 8, 8, 1), jnp.uint8), jnp.zeros(4, jnp.int32))
  dataset = Dataset(batch, batch, ('a', 'b'), name)
  with errors.collect_remarks() as remarks:
    binding.make_inputs(config.input, dataset, None)
  said = any('are mirrored' in line for line in remarks)
  assert said == (flip and name != 'cifar10')
