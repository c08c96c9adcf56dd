"""The search for bad samples, from files to the list, the page, the folders."""

import csv

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import repair_case

from cmu_jax import __main__ as program
from cmu_jax import networks
from cmu_jax.core import files, rng
from cmu_jax.core.types import Batch, Network, Training
from cmu_jax.data import sources
from cmu_jax.methods.detection import detector_data
from cmu_jax.networks import shipped
from cmu_jax.training import optimizers, train

COUNT, WRONG, PLANTED = 500, 60, 25


def planted_digits():
  """Digits with wrong labels and white patches, which lead to class 0."""
  digits = sources.load('digits').train
  image = np.array(digits.image[:COUNT])
  truth = np.array(digits.label[:COUNT])
  label, draw = truth.copy(), np.random.default_rng(0)
  order = draw.permutation(np.flatnonzero(truth != 0))
  wrong, carriers = order[:WRONG], order[WRONG : WRONG + PLANTED]
  label[wrong] = (label[wrong] + draw.integers(1, 10, WRONG)) % 10
  image[carriers, :2, :2] = 255
  label[carriers] = 0
  return image, label, set(wrong.tolist()), set(carriers.tolist())


@pytest.fixture(scope='module')
def case(tmp_path_factory):
  """Weights that learnt planted digits, and the digits by given class."""
  folder = tmp_path_factory.mktemp('find')
  image, label, wrong, carriers = planted_digits()
  key = rng.fold_in(0, 'find')
  model = networks.make('fc', 10, (8, 8, 1), width=64)
  batch = Batch(jnp.asarray(image), jnp.asarray(label, jnp.int32))
  optimizer = optimizers.adamw(optimizers.constant_schedule(3e-3))
  fitted = train.fit(
    key,
    Network(model, repair_case.STEP),
    model.init(key, repair_case.STEP.eval(batch.image[:1], None)),
    batch,
    training=Training(optimizer, 300, 128),
  )
  repair_case.ship(folder, fitted.variables)
  for i, (pixels, name) in enumerate(zip(image, label, strict=True)):
    place = folder / 'data' / str(name)
    place.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels[..., 0]).save(place / f'{i:04}.png')
  # A copy under another name.
  copy = folder / 'data' / str(label[0]) / '0999.png'
  PIL.Image.fromarray(image[0, ..., 0]).save(copy)
  assert run(folder) == 0
  return folder, wrong, carriers


def run(folder, **changes):
  """Runs the command; None leaves a flag out."""
  values = {
    'weights': folder / 'w.npz',
    'model': 'fc:width=64',
    'data': folder / 'data',
    'out': folder / 'out',
    'mean': 0.5,
    'std': 0.5,
    **changes,
  }
  argv = [f'--{k}={v}' for k, v in values.items() if v is not None]
  return program.main(['find', *argv])


def read_list(folder):
  """Kind -> rows of the list."""
  rows = {}
  with (folder / 'suspects.csv').open() as file:
    for row in csv.DictReader(file):
      rows.setdefault(row['kind'], []).append(row)
  return rows


def numbers(rows):
  """Numbers of the pictures that rows name."""
  return [int(row['file'].rpartition('/')[2][:4]) for row in rows]


def test_triggers_are_found(case):
  folder, _, carriers = case
  found = numbers(read_list(folder / 'out')['trigger'])
  assert len(carriers & set(found)) >= 0.9 * len(carriers)
  assert len(carriers & set(found)) >= 0.9 * len(found)
  patch = files.read_json(folder / 'out' / 'results.json')['patches'][0]
  assert (patch['target'], patch['top'], patch['left']) == ('0', 0, 0)


def test_wrong_labels_come_first(case):
  folder, wrong, carriers = case
  found = numbers(read_list(folder / 'out')['wrong label'])
  assert not carriers & set(found[:WRONG])
  assert len(wrong & set(found[:40])) >= 32


def test_a_copy_is_found(case):
  folder, _, _ = case
  (row,) = read_list(folder / 'out')['near copy']
  assert {row['file'][-8:], row['copy of'][-8:]} == {'0999.png', '0000.png'}


def test_folders_are_those_that_other_commands_read(case):
  folder, _, carriers = case
  image = np.zeros((1, 8, 8, 1), np.uint8)
  names = tuple(map(str, range(10)))
  root = str(folder / 'out' / 'suspects' / 'trigger')
  batch = shipped.read_labelled(root, image, names)
  assert len(batch.label) >= 0.9 * len(carriers)
  assert set(np.asarray(batch.label)) == {0}
  # repair --kind=poison reads all below a folder as a single set.
  flat = shipped.read_same_shape(root, image, has_classes=False)
  assert len(flat.image) == len(batch.label)


def test_the_page_is_whole_and_shows_pictures(case):
  folder, _, _ = case
  html = (folder / 'out' / 'report.html').read_text()
  assert 'pictures with a trigger' in html
  assert html.count('data:image/png') > 30
  assert 'src="http' not in html
  assert 'unlearn --forget=' in html
  assert '--mean=0.5 --std=0.5 --out=NEW_FOLDER' in html


def test_a_finished_search_is_not_repeated_and_a_killed_one_continues(
  case, monkeypatch, capsys
):
  folder, _, _ = case
  before = (folder / 'out' / 'suspects.csv').read_bytes()

  def refuse(*_, **__):
    raise AssertionError('the network was asked again')

  monkeypatch.setattr(detector_data, 'answer_images', refuse)
  assert run(folder) == 0
  assert 'finished' in capsys.readouterr().out
  # Killed after the answers, before the results.
  (folder / 'out' / 'results.json').unlink()
  (folder / 'out' / 'suspects.csv').unlink()
  assert run(folder) == 0
  assert (folder / 'out' / 'suspects.csv').read_bytes() == before


def answers(path, **changes):
  """Stored answers of a network that is right about 9 of 10 samples."""
  label = np.arange(50) % 5
  probability = np.full((50, 5), 0.005)
  probability[np.arange(50), label] = 0.98
  label[:5] = (label[:5] + 1) % 5
  arrays = {'probabilities': probability, 'labels': label, **changes}
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
  return path


def test_a_weak_network_is_not_believed_blindly(tmp_path, capsys):
  # Right where it is sure, and wrong about half of the hard samples.
  draw = np.random.default_rng(0)
  label = np.arange(400) % 4
  sure = draw.random(400) < 0.5
  guess = np.where(
    sure | (draw.random(400) < 0.5), label, (label + 1 + label % 3) % 4
  )
  top = np.where(sure, 0.97, 0.7)[:, None]
  probability = np.where(np.arange(4) == guess[:, None], top, (1 - top) / 3)
  path = answers(tmp_path / 'a.npz', probabilities=probability, labels=label)
  arguments = [f'--probabilities={path}', f'--out={tmp_path / "out"}']
  assert program.main(['find', *arguments]) == 0
  assert 'the estimate was lowered' in capsys.readouterr().out
  results = files.read_json(tmp_path / 'out' / 'results.json')
  assert results['doubt'] == results['least_rate'] == 0
  assert results['rate'] > 0.02
  assert results['kinds']['wrong label']['listed'] == 0


def test_stored_answers_are_enough(tmp_path):
  path = answers(tmp_path / 'a.npz')
  arguments = [f'--probabilities={path}', f'--out={tmp_path / "out"}']
  assert program.main(['find', *arguments]) == 0
  rows = read_list(tmp_path / 'out')['wrong label']
  suggested = {row['file']: row['suggested label'] for row in rows}
  assert suggested == {f'{path}[{i}]': str(i) for i in range(5)}
  assert not (tmp_path / 'out' / 'suspects').exists()


@pytest.mark.parametrize(
  'changes, sentence',
  [
    ({'labels': np.arange(50)}, 'labels go up to 49, but 5 classes'),
    ({'probabilities': np.ones((50, 5))}, 'sum to 5 instead of 1'),
    ({'labels': None}, 'has no labels'),
    ({'logits': np.ones(3)}, 'unknown array'),
    ({'features': np.ones((4, 2))}, 'features must be'),
    ({'class_names': np.array(['a', 'b'])}, 'has 2 class_names'),
  ],
)
def test_mistakes_in_stored_answers(tmp_path, capsys, changes, sentence):
  path = answers(tmp_path / 'a.npz', **changes)
  arguments = [f'--probabilities={path}', f'--out={tmp_path / "out"}']
  assert program.main(['find', *arguments]) == 2
  error = capsys.readouterr().err
  assert sentence in error
  assert len(error.strip().splitlines()) == 1
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'changes, sentence',
  [
    ({'weights': 'absent.npz'}, 'absent.npz'),
    ({'data': 'flat'}, 'flat'),
    ({'data': None}, '--data missing'),
    ({'weights': None}, 'give --weights'),
    ({'precision': 2}, 'must lie from 0 to 1'),
    ({'batch_size': 0}, 'must be above 0'),
  ],
)
def test_mistakes_in_flags(case, capsys, changes, sentence):
  folder, _, _ = case
  flat = folder / 'flat'
  flat.mkdir(exist_ok=True)
  PIL.Image.new('L', (8, 8)).save(flat / 'a.png')
  for name in ('weights', 'data'):
    if changes.get(name):
      changes = {**changes, name: folder / changes[name]}
  assert run(folder, out=folder / 'new', **changes) == 2
  error = capsys.readouterr().err
  assert sentence in error
  assert len(error.strip().splitlines()) == 1
  assert not (folder / 'new').exists()
