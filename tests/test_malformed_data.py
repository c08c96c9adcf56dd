"""Data that cannot be used: one line that names the file, through main."""

import numpy as np
import pytest
import small_run
from PIL import Image
from small_run import refused

IMAGES = np.random.default_rng(0).integers(0, 255, (60, 8, 8), np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
  small_run.keep_environment(monkeypatch)
  monkeypatch.setenv('CMU_JAX_CACHE', str(tmp_path / 'cache'))


def with_label(value):
  return np.where(np.arange(60) == 7, value, LABELS)


ARCHIVES = {
  'label -1 of sample': {'labels': with_label(-1)},
  'label 5 of sample': {
    'labels': with_label(5),
    'class_names': np.array(['a', 'b', 'c']),
  },
  "class 'd' has no sample": {'class_names': np.array(list('abcd'))},
  'NaN or infinite pixels': {'images': np.full((60, 8, 8), np.nan)},
  'is float64; uint8': {'images': IMAGES / 255},
  'plain arrays (Object arrays': {'images': np.array([{}] * 60)},
  '60 images but 59 labels': {'labels': LABELS[:-1]},
  'are float64': {'labels': LABELS.astype(float)},
}


@pytest.mark.parametrize('named', ARCHIVES)
def test_archives(capfd, tmp_path, named):
  path = tmp_path / 'data.npz'
  np.savez(path, **{'images': IMAGES, 'labels': LABELS, **ARCHIVES[named]})
  said = refused(capfd, tmp_path, {'dataset': f'npz:{path}'})
  assert named in said and 'data.npz' in said


def test_a_truncated_archive(capfd, tmp_path):
  path = tmp_path / 'data.npz'
  np.savez(path, images=IMAGES, labels=LABELS)
  path.write_bytes(path.read_bytes()[:-200])
  said = refused(capfd, tmp_path, {'dataset': f'npz:{path}'})
  assert 'data.npz is not a readable .npz' in said


def _folder(root, split, names='ab'):
  for name in names:
    (root / split / name).mkdir(parents=True)
    for i in range(12):
      Image.fromarray(IMAGES[i]).save(root / split / name / f'{i}.jpg')


def _cut(root):
  path = root / 'train' / 'a' / '3.jpg'
  path.write_bytes(path.read_bytes()[:150])


FOLDERS = {
  "no 'train' folder": lambda root: root.mkdir(),
  'has no class folders': lambda root: [
    (root / split).mkdir(parents=True) for split in ('train', 'test')
  ],
  "no 'test' or 'val' folder": lambda root: _folder(root, 'train'),
  "class folder 'c' is in only one": lambda root: [
    _folder(root, 'train', 'abc'),
    _folder(root, 'test'),
  ],
  '3.jpg': lambda root: [
    _folder(root, 'train'),
    _folder(root, 'test'),
    _cut(root),
  ],
}


@pytest.mark.parametrize('named', FOLDERS)
def test_folders(capfd, tmp_path, named):
  FOLDERS[named](tmp_path / 'data')
  said = refused(capfd, tmp_path, {'dataset': f'folder:{tmp_path}/data'})
  assert named in said and f'{tmp_path}/data' in said
