"""Every study, stopped in a training and between cells, ends as one run."""

import data_fakes
import PIL.Image
import pytest
import small_run
import tensorflow_datasets as tfds

from cmu_jax import main
from cmu_jax.core import files

_FEW = {'train_limit': 300, 'test_limit': 60}
STUDIES = {
  'corrective_digits.py': {'methods': 'rewod,ssd'},
  'amun_digits.py': {'methods': 'ft,amun', **_FEW},
  'trw_digits.py': {'methods': 'ft,trw'},
  'lotos_digits.py': {'methods': 'plain,lotos', **_FEW},
  'rmia_digits.py': _FEW,
  'cuts_digits.py': {'train.steps': 30, **_FEW},
  # A CLIP that did not learn is enough: only its files matter here.
  'negation_clip.py': {
    'pretrain.steps': 4,
    'pretrain.images': 24,
    'pretrain.times_chance': 0,
    'train_limit': 60,
  },
}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Folder of TFDS sets: noise under the names that the smoke run reads."""
  root, shape = tmp_path_factory.mktemp('tfds'), (8, 8, 3)
  features = data_fakes.tensor_features(shape=shape)
  features['image'] = tfds.features.Image(shape=shape)
  for seed, name in enumerate(('cifar10', 'mnist')):
    splits = {}
    for split, count in (('train', 120), ('test', 20)):
      splits[split] = data_fakes.rows(count, seed=seed + count, shape=shape)
      for row in splits[split]:
        # Without TensorFlow, TFDS takes files of images alone.
        path = root / f'{name}_{split}_{row["id"]}.png'
        PIL.Image.fromarray(row['image']).save(path)
        row['image'] = str(path)
    data_fakes.write_set(root, features, splits, name=name)
  return root


def _command(config, folder, data_dir):
  # Trainings save themselves after every segment.
  fields = {'checkpoint_seconds': 0, **STUDIES[config]}
  return [
    f'--config={small_run.ROOT}/configs/{config}:smoke',
    f'--workdir={folder}',
    f'--config.data_dir={data_dir}',
    *(f'--config.{name}={value}' for name, value in fields.items()),
  ]


def _rows(folder):
  """The rows, less clocks."""
  results = files.read_json(folder / 'results.json')
  assert results['finished']
  return [
    {k: v for k, v in row.items() if not k.endswith('seconds')}
    for row in results['rows']
  ]


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize('config', STUDIES)
def test_a_study_stopped_at_several_writes_continues(
  config, tmp_path, monkeypatch, data_dir
):
  small_run.keep_environment(monkeypatch)
  assert main.main(_command(config, tmp_path / 'whole', data_dir)) == 0
  command = _command(config, tmp_path / 'cut', data_dir)
  replace, writes = files.atomic_path, []

  def interrupted(path):
    writes.append(path)
    # Before a file of a training, of a cell, of the results.
    if len(writes) in (3, 8, 14):
      raise KeyboardInterrupt
    return replace(path)

  stops = 0
  with monkeypatch.context() as patch:
    patch.setattr(files, 'atomic_path', interrupted)
    while (code := main.main(command)) == 130:
      stops += 1
  assert code == 0 and stops == 3
  assert _rows(tmp_path / 'cut') == _rows(tmp_path / 'whole')


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize('config', STUDIES)
def test_every_study_stops_in_time_and_continues(
  config, tmp_path, monkeypatch, data_dir, capfd
):
  small_run.keep_environment(monkeypatch)
  command = _command(config, tmp_path / 'run', data_dir)
  assert main.main([*command, '--minutes=0.0001']) == 0
  assert 'the time is up with ' in capfd.readouterr().err
  results = files.read_json(tmp_path / 'run' / 'results.json')
  assert not results['finished']
  assert main.main([*command, '--minutes=99']) == 0
  assert _rows(tmp_path / 'run')
