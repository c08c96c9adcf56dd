"""Weights that commands write: read back, measured, and never over an input."""

import functools
import json
import shutil

import clip_case
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import torch_twin

import cmu_jax
from cmu_jax import networks
from cmu_jax.core import errors, types
from cmu_jax.data import input_step
from cmu_jax.networks import shipped, weights
from cmu_jax.networks.families import dinov2
from cmu_jax.networks.shipped import user_data
from cmu_jax.training import metrics, optimizers, train

FACTS = dict.fromkeys(user_data.SIDE_FIELDS)
MODEL = networks.make('fc', 3, (4, 4, 1), width=6)
TYPES = ('bfloat16', 'float16', 'float32', 'float64')


SHADES = np.random.default_rng(1).integers(0, 256, (3, 4, 4))


def shade(label, rng):
  """A picture of a class: its pattern with noise."""
  return np.clip(SHADES[label] + rng.integers(-30, 31, (4, 4)), 0, 255)


@functools.cache
def start():
  """A network that tells the classes: a command refuses another."""
  rng = np.random.default_rng(2)
  label = np.arange(90) % 3
  image = np.stack([shade(c, rng) for c in label]).astype(np.uint8)[..., None]
  batch = types.Batch(jnp.asarray(image), jnp.asarray(label, jnp.int32))
  variables = MODEL.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
  adam = optimizers.adamw(optimizers.constant_schedule(1e-2))
  return train.fit(
    jax.random.key(1),
    types.Network(MODEL, input_step.make((0.5,), (0.25,))),
    variables,
    batch,
    types.Training(adam, 150, 30),
  ).variables


def ship(folder, kind, suffix='.npz', variables=None, name='w'):
  """A network in a file of a number type, with side file; its path."""
  path = shipped.save_weights(
    folder / f'{name}{suffix}', variables or start(), 0.5, [0.25]
  )
  content = weights.read(path)
  arrays = {n: x.astype(jnp.dtype(kind)) for n, x in content.arrays.items()}
  weights.write(path, content._replace(arrays=arrays))
  return path


def load(path, pictures):
  return shipped.load(str(path), 'fc:width=6', str(pictures), FACTS)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  folder = tmp_path_factory.mktemp('pictures')
  rng = np.random.default_rng(0)

  for i in range(30):
    place = folder / str(i % 3)
    place.mkdir(exist_ok=True)
    pixels = shade(i % 3, rng).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(place / f'{i}.png')
  return folder


def step(variables, size):
  """Moves every weight by a share of its size."""
  return jax.tree.map(lambda x: x * (1 + size), variables)


@pytest.mark.parametrize('suffix', ('.npz', '.safetensors', '.msgpack'))
@pytest.mark.parametrize('kind', TYPES)
def test_what_is_returned_is_what_the_file_holds(
  tmp_path, pictures, kind, suffix
):
  network = load(ship(tmp_path, kind, suffix), pictures)
  (tmp_path / 'out').mkdir()
  written = shipped.write(
    network, step(network.variables, 0.003), tmp_path / 'out', 'new'
  )
  again = load(tmp_path / 'out' / written.name, pictures)
  jax.tree.map(
    np.testing.assert_array_equal, written.variables, again.variables
  )
  stored = weights.read(tmp_path / 'out' / written.name).arrays
  assert {str(x.dtype) for x in stored.values()} == {kind}
  coarse = kind in ('bfloat16', 'float16')
  assert bool(written.notes) == coarse
  if coarse:
    assert f'The file holds {kind}' in written.notes[0]
    assert f'{written.changed:,} change in the file' in written.notes[0]


@pytest.mark.parametrize('kind,size', (('bfloat16', 1e-3), ('float16', 1e-4)))
def test_an_edit_below_the_resolution_is_said(tmp_path, pictures, kind, size):
  network = load(ship(tmp_path, kind), pictures)
  edited = step(network.variables, size)
  written = shipped.write(network, edited, tmp_path, 'new')
  assert written.changed == 0
  assert 'below the resolution' in written.notes[0] and kind in written.notes[0]
  jax.tree.map(
    np.testing.assert_array_equal, written.variables, network.variables
  )
  # The same weights in float32 take the edit.
  network = load(
    ship(tmp_path, 'float32', variables=network.variables), pictures
  )
  written = shipped.write(network, edited, tmp_path, 'new')
  jax.tree.map(np.testing.assert_array_equal, written.variables, edited)


def test_without_an_edit_the_file_keeps_all_its_digits(tmp_path, pictures):
  path = ship(tmp_path, 'float64')
  content = weights.read(path)
  third = {n: x + 1e-12 for n, x in content.arrays.items()}
  weights.write(path, content._replace(arrays=third))
  network = load(path, pictures)
  params = {
    **network.variables.params,
    'head': step(network.variables.params['head'], 0.1),
  }
  shipped.write(network, types.Variables(params, {}), tmp_path, 'new')
  new = weights.read(tmp_path / 'new.npz').arrays
  for name, array in third.items():
    assert np.array_equal(new[name], array) != ('/head/' in name)


def test_what_half_precision_cannot_hold_is_written_as_float32(
  tmp_path, pictures
):
  network = load(ship(tmp_path, 'float16'), pictures)
  edited = jax.tree.map(lambda x: x + 1e5, network.variables)
  written = shipped.write(network, edited, tmp_path, 'new')
  assert all('exceed the range of float16' in n for n in written.notes)
  assert len(written.notes) == 4
  jax.tree.map(np.testing.assert_array_equal, written.variables, edited)


@pytest.mark.parametrize('value', (np.nan, np.inf))
def test_a_damaged_edit_is_not_written(tmp_path, pictures, value):
  network = load(ship(tmp_path, 'float32'), pictures)
  edited = jax.tree.map(lambda x: x.at[0].set(value), network.variables)
  with pytest.raises(errors.UserError, match='NaN or infinity'):
    shipped.write(network, edited, tmp_path, 'new')
  assert not list(tmp_path.glob('new*'))


@pytest.mark.parametrize('kind', ('int8', 'int32', 'uint8', 'bool', 'int64'))
def test_whole_numbers_are_no_weights(tmp_path, pictures, kind):
  path = ship(tmp_path, kind, '.safetensors')
  with pytest.raises(
    errors.UserError, match=f'are {kind} in 4 arrays'
  ) as caught:
    load(path, pictures)
  assert '\n' not in str(caught.value)


def measured(path, pictures):
  """Predictions and accuracy of the network in a file."""
  network = load(path, pictures)
  image = jnp.asarray(network.pictures.image)
  label = network.pictures.group
  batch = types.Batch(image, jnp.asarray(label))
  predicted = metrics.predict(network.classifier, network.variables, batch, 256)
  return predicted, float(np.mean(predicted == label))


@pytest.mark.parametrize('kind', ('bfloat16', 'float16'))
@pytest.mark.parametrize('command', ('repair', 'unlearn'))
def test_the_report_is_of_the_file(tmp_path, pictures, command, kind):
  path = ship(tmp_path, kind, '.safetensors')
  common = {
    'weights': str(path),
    'model': 'fc:width=6',
    'out': str(tmp_path / 'out'),
    'learning_rate': 0.05,
  }
  if command == 'repair':
    results = cmu_jax.repair(
      **common,
      proxy=str(pictures),
      kind='label_noise',
      rule='published',
      steps=9,
    )
  else:
    results = cmu_jax.unlearn(
      **common, forget=str(pictures), method='gradient_ascent', epochs=9
    )
  written = tmp_path / 'out' / results['weights']
  predicted, accuracy = measured(written, pictures)
  after = results['measured']['after']
  if command == 'repair':
    assert after['predicted'] == np.bincount(predicted, minlength=3).tolist()
    assert after['bad_label_rate'] == pytest.approx(accuracy)
  else:
    assert after['accuracy']['forget'] == pytest.approx(accuracy)
  # A repair may leave such a network as it is.
  old, new = weights.read(path).arrays, weights.read(written).arrays
  moved = any((old[n] != new[n]).any() for n in old)
  assert moved or command == 'repair'
  assert moved == any('The file holds' in note for note in results['notes'])


COMMANDS = {
  'repair': {'kind': 'label_noise', 'rule': 'published', 'steps': 2},
  'unlearn': {'method': 'gradient_ascent', 'epochs': 1},
}


def call(command, path, pictures, out, **changes):
  """Runs a command on a network in a file."""
  folder = {'repair': 'proxy', 'unlearn': 'forget'}[command]
  settings = {
    'weights': str(path),
    'model': 'fc:width=6',
    folder: str(pictures),
    'out': str(out),
    **COMMANDS[command],
    **changes,
  }
  return getattr(cmu_jax, command)(**settings)


def digests(folder):
  """The content of all files below a folder."""
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('suffix', ('.npz', '.safetensors', '.msgpack'))
@pytest.mark.parametrize('command', COMMANDS)
def test_a_given_file_is_never_written_over(
  tmp_path, pictures, command, suffix
):
  name = {'repair': 'repaired', 'unlearn': 'unlearned'}[command]
  ship(tmp_path, 'float32', suffix, name=name)
  before = digests(tmp_path)
  for path in (tmp_path / f'{name}{suffix}', tmp_path / f'link{suffix}'):
    for out in (tmp_path, tmp_path / '..' / tmp_path.name):
      with pytest.raises(errors.UserError, match='write over; choose another'):
        call(command, path, pictures, out)
    (tmp_path / f'link{suffix}').unlink(missing_ok=True)
    (tmp_path / f'link{suffix}').hardlink_to(tmp_path / f'{name}{suffix}')
    (tmp_path / f'link{suffix}.json').write_bytes(
      (tmp_path / f'{name}{suffix}.json').read_bytes()
    )
  after = digests(tmp_path)
  assert {p: after[p] for p in before} == before
  assert not (tmp_path / 'config.json').exists()


@pytest.mark.parametrize('command', COMMANDS)
def test_weights_of_nobody_here_are_not_written_over(
  tmp_path, pictures, command
):
  path = ship(tmp_path, 'float32')
  (tmp_path / 'out').mkdir()
  ship(tmp_path / 'out', 'float32', name='repaired')
  before = digests(tmp_path)
  with pytest.raises(errors.UserError, match=r'holds repaired\.npz, repaired'):
    call(command, path, pictures, tmp_path / 'out')
  assert digests(tmp_path) == before


@pytest.mark.parametrize('place', ['.', 'new', '1/deep/new'])
@pytest.mark.parametrize('command', COMMANDS)
def test_no_report_goes_into_a_folder_of_pictures(
  tmp_path, pictures, command, place
):
  before = sorted(pictures.rglob('*'))
  with pytest.raises(errors.UserError, match='is the folder of --'):
    call(command, ship(tmp_path, 'float32'), pictures, pictures / place)
  assert sorted(pictures.rglob('*')) == before


def test_figures_do_not_join_the_pictures(tmp_path, pictures):
  folder = shutil.copytree(pictures, tmp_path / 'out' / 'figures')
  before = sorted(folder.rglob('*'))
  with pytest.raises(errors.UserError, match='is the folder of --forget'):
    call('unlearn', ship(tmp_path, 'float32'), folder, tmp_path / 'out')
  assert sorted(folder.rglob('*')) == before


@pytest.mark.parametrize('command', COMMANDS)
def test_the_same_command_may_be_repeated(tmp_path, pictures, command):
  path = ship(tmp_path, 'float32')
  # A folder of another run below this one is none of its weights.
  (tmp_path / 'repaired').mkdir()
  first, second = (call(command, path, pictures, tmp_path) for _ in range(2))
  assert first['measured'] == second['measured']


def ship_dinov2(folder):
  """A tiny DINOv2 with config.json, and a picture of each of 3 classes."""
  sizes = {'patch': 4, 'width': 8, 'depth': 1, 'heads': 2, 'ratio': 2}
  model = networks.make('dinov2', 3, (12, 12, 3), side=12, **sizes)
  image = jnp.zeros((1, 12, 12, 3))
  arrays = torch_twin.state_dict(
    torch_twin.random_variables(model, image), dinov2.torch_name
  )
  # Random constants outweigh the pixels: every picture would have one class.
  constant = ('bias', 'cls_token', 'position_embeddings')
  arrays = {
    name: x * (not any(word in name for word in constant))
    for name, x in arrays.items()
  }
  arrays['embeddings.mask_token'] = np.zeros((1, 8), np.float32)
  path = folder / 'model.safetensors'
  weights.write(path, weights.StoredWeights(arrays, {}, '.safetensors'))
  config = {'model_type': 'dinov2', 'hidden_size': 8, 'num_hidden_layers': 1}
  config |= {'patch_size': 4, 'num_attention_heads': 2, 'image_size': 12}
  config |= {'mlp_ratio': 2}
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'model.json').write_text('{"mean": 0.5, "std": 0.5}')
  for name, (r, g, b) in zip('abc', clip_case.COLOURS, strict=True):
    (folder / 'bad' / name).mkdir(parents=True)
    for i in range(4):
      picture = PIL.Image.new('RGB', (12, 12), (r + i, g + i, b + i))
      picture.save(folder / 'bad' / name / f'{i}.png')
  return path


@pytest.mark.parametrize(
  'command', ('unlearn', pytest.param('repair', marks=pytest.mark.slow))
)
def test_a_config_goes_with_its_weights_not_with_the_run(
  tmp_path, monkeypatch, command
):
  ship_dinov2(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  place = ('~/model.safetensors', '~/bad', '~/out')
  first = call(command, *place, model='dinov2')
  # The folder's config.json is the run's: the same command continues.
  run = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert run['model'] == 'dinov2' and run['weights'] == place[0]
  assert call(command, *place, model='dinov2')['measured'] == first['measured']
  # The written weights find their own config, and are a next step's input.
  written = f'~/out/{first["weights"]}'
  again = call(command, written, '~/bad', '~/next', model='dinov2')
  assert again['measured']['before'] == first['measured']['after']
