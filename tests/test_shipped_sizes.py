"""Networks of the library in and out: sizes off the weights, saving, fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import torch_twin
from flax import linen as nn

import cmu_jax
from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Network, Training, Variables
from cmu_jax.data import input_step
from cmu_jax.networks import shipped, weights
from cmu_jax.networks.shipped import user_data
from cmu_jax.training import optimizers

FACTS = dict.fromkeys(user_data.SIDE_FIELDS)
SHAPE = (16, 16, 3)


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
  folder = tmp_path_factory.mktemp('picture')
  PIL.Image.new('RGB', SHAPE[:2]).save(folder / 'a.png')
  return str(folder)


def zeros(family, **options):
  if 'width' in options and family.startswith('vit'):
    options['heads'] = options['width'] // 64
  model = networks.make(family, 3, SHAPE, **options)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
  return jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)


SIZES = (
  ('fc', {'width': 48}),
  ('fc', {'width': 7, 'depth': 3}),
  ('fc', {'width': 600, 'depth': 2}),
  ('convnet', {'width': 3}),
  ('resnet18', {'width': 6}),
  ('resnet44', {'width': 4}),
  ('wrn', {'width': 2, 'depth': 10}),
  ('wrn', {'width': 1, 'depth': 40}),
  ('mobilenet_v2', {'width': 0.5}),
  ('vit_tiny', {'depth': 2}),
  ('vit_tiny', {'patch': 8, 'depth': 1, 'width': 64}),
  ('vit_s_16', {'patch': 2, 'width': 128, 'depth': 3}),
)


@pytest.mark.parametrize('family,options', SIZES, ids=str)
def test_sizes_are_read_off_the_weights(tmp_path, picture, family, options):
  variables = zeros(family, **options)
  path = tmp_path / 'w.npz'
  torch_name = networks.REGISTRY[family].torch_name
  if torch_name is None:
    shipped.save_weights(path, variables, 0.5, 0.5)
  else:
    arrays = torch_twin.state_dict(variables, torch_name)
    arrays['total_ops'] = np.zeros(1)
    weights.write(path, weights.StoredWeights(arrays, {}, '.npz'))
    (tmp_path / 'w.json').write_text(json.dumps({'mean': 0.5, 'std': 0.5}))
  network = shipped.load(str(path), family, picture, FACTS)
  jax.tree.map(np.testing.assert_array_equal, network.variables, variables)
  said = ' '.join(network.notes)
  assert all(f'{name}={size}' in said for name, size in options.items())


def ship(path, family, **options):
  """A file of zeros with the names that PyTorch or this package gives them."""
  variables = zeros(family, **options)
  torch_name = networks.REGISTRY[family].torch_name
  shipped.save_weights(path, variables, 0.5, 0.5)
  if torch_name is not None:
    arrays = torch_twin.state_dict(variables, torch_name)
    weights.write(path, weights.StoredWeights(arrays, {}, '.npz'))


def test_what_a_transformer_does_not_tell_is_asked_for(tmp_path, picture):
  path = tmp_path / 'w.npz'
  ship(path, 'vit_tiny', depth=1, width=128)
  noted = shipped.load(str(path), 'vit_tiny', picture, FACTS).notes
  assert '2 of 64 channels' in ' '.join(noted)
  given = shipped.load(str(path), 'vit_tiny:heads=8', picture, FACTS)
  assert 'channels' not in ' '.join(given.notes)
  PIL.Image.new('RGB', (20, 20)).save(tmp_path / 'a.png')
  with pytest.raises(errors.UserError, match='--image_size=16'):
    shipped.load(str(path), 'vit_tiny', str(tmp_path), FACTS)
  model = networks.make('vit_tiny', 3, SHAPE, width=40, heads=4, depth=1)
  start = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
  shipped.save_weights(path, start, 0.5, 0.5)
  with pytest.raises(errors.UserError, match='vit_tiny:heads=N'):
    shipped.load(str(path), 'vit_tiny', picture, FACTS)
  loaded = shipped.load(str(path), 'vit_tiny:heads=4', picture, FACTS)
  assert loaded.variables.params['body']['conv_proj']['kernel'].shape[3] == 40


OTHERS = (
  ('convnet', {}, 'resnet18', "look like those of 'convnet'"),
  ('resnet44', {'width': 4}, 'resnet34', "look like those of 'resnet44'"),
  ('wrn', {'depth': 10, 'width': 1}, 'fc', "look like those of 'wrn'"),
  ('vit_tiny', {'depth': 1}, 'convnet', "like those of 'vit_.* --model=vit_"),
)


@pytest.mark.parametrize('family,options,given,said', OTHERS, ids=str)
def test_weights_of_another_family_are_told_in_one_line(
  tmp_path, picture, family, options, given, said
):
  path = tmp_path / 'w.npz'
  ship(path, family, **options)
  with pytest.raises(errors.UserError, match=said) as caught:
    shipped.load(str(path), given, picture, FACTS)
  assert len(str(caught.value).splitlines()) == 1


def test_the_first_line_is_about_the_family(tmp_path, picture):
  path = tmp_path / 'w.npz'
  ship(path, 'resnet44', width=2)
  arrays = dict(np.load(path))
  name = 'layer1.0.conv1.weight'

  def refused(arrays, given):
    weights.write(path, weights.StoredWeights(arrays, {}, '.npz'))
    with pytest.raises(errors.UserError) as caught:
      shipped.load(str(path), given, picture, FACTS)
    return str(caught.value).splitlines()

  partly = {n: x for n, x in arrays.items() if n != name}
  first, *others = refused(partly, 'fc')
  assert "'resnet44' (2" in first and others
  # The right family, and a mistake of another kind.
  (line,) = refused(partly, 'resnet44:width=2')
  assert line.endswith(f"'{name}' is missing; is it another network?")
  damaged = {**arrays, name: arrays[name] * np.nan}
  (line,) = refused(damaged, 'resnet44:width=2')
  assert 'NaN' in line
  unknown = {f'unit{i}.weight': np.zeros((3, i)) for i in range(2, 9)}
  first, *_ = refused({**unknown, 'head.weight': np.zeros((3, 9))}, 'resnet44')
  assert first.startswith('these tensors fit none of the known families: ')
  first, *_ = refused({'visual.conv1.weight': np.zeros((8, 3, 4, 4))}, 'wrn')
  assert '--model=clip' in first


def test_sizes_that_the_user_gave_stay(tmp_path, picture):
  path = tmp_path / 'w.npz'
  shipped.save_weights(path, zeros('fc', width=9), [0.5] * 3, [0.5] * 3)
  for option in ('width=8', 'depth=2'):
    with pytest.raises(errors.UserError, match='hidden_') as caught:
      shipped.load(str(path), f'fc:{option}', picture, FACTS)
    # The tensors that contradict the option follow.
    first, *others = str(caught.value).splitlines()
    assert f'not of fc:{option}: use --model=fc' in first and others


@pytest.mark.parametrize('suffix', ('.safetensors', '.npz', '.msgpack'))
def test_a_saved_network_is_found_with_its_facts(tmp_path, picture, suffix):
  variables = torch_twin.random_variables(
    networks.make('convnet', 3, SHAPE), jnp.zeros((1, *SHAPE))
  )
  path = cmu_jax.save_weights(
    tmp_path / f'w{suffix}',
    variables,
    mean=np.float32([0.1, 0.2, 0.3]),
    std=(0.5, 0.4, 0.3),
    classes=('a', 'b', 'c'),
    target='b',
  )
  network = shipped.load(str(path), 'convnet', picture, FACTS)
  jax.tree.map(np.testing.assert_array_equal, network.variables, variables)
  assert network.mean == pytest.approx((0.1, 0.2, 0.3))
  assert network.std == (0.5, 0.4, 0.3) and network.target == 'b'
  assert network.class_names == ('a', 'b', 'c')


def test_what_cannot_be_saved_is_one_line(tmp_path):
  variables = zeros('fc', width=2)
  with pytest.raises(errors.UserError, match='has no known format'):
    cmu_jax.save_weights(tmp_path / 'w.pt', variables, 0.5, 0.5)
  with pytest.raises(errors.UserError, match="'image_size' in the side file"):
    cmu_jax.save_weights(tmp_path / 'w.npz', variables, 0.5, 1, image_size=-1)
  broken = jax.tree.map(lambda x: x + np.nan, variables)
  with pytest.raises(errors.UserError, match='NaN'):
    cmu_jax.save_weights(tmp_path / 'w.npz', broken, 0.5, 0.5)
  with pytest.raises(errors.UserError, match='mean has 1 numbers, std 3'):
    cmu_jax.save_weights(tmp_path / 'w.npz', variables, 0.5, [1, 1, 1])
  with pytest.raises(errors.UserError, match=r'give mean=0\.3 std=0\.2'):
    cmu_jax.save_weights(tmp_path / 'w.npz', variables, 76.5, 51)
  for names in (['a'], ['a', 'b'], list('abcd')):
    with pytest.raises(errors.UserError, match='the network 3 outputs'):
      cmu_jax.save_weights(
        tmp_path / 'w.npz', variables, 0.5, 0.5, classes=names
      )
  for target in (3, -1):
    with pytest.raises(errors.UserError, match='has outputs 0 to 2'):
      cmu_jax.save_weights(tmp_path / 'w.npz', variables, 0, 1, target=target)
  with pytest.raises(errors.UserError, match="unknown target 'd'"):
    cmu_jax.save_weights(
      tmp_path / 'w.npz', variables, 0.5, 0.5, classes=list('abc'), target='d'
    )
  assert not list(tmp_path.iterdir())


class Plain(nn.Module):
  """A linen module of a user, without features and without `train`."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(2)(x.reshape(len(x), -1))


class Normed(nn.Module):
  """The same with BatchNorm."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(2)(x.reshape(len(x), -1))


@pytest.mark.parametrize('module', (Plain(), Normed()), ids=('plain', 'normed'))
def test_fit_trains_a_linen_module(module):
  rng = np.random.default_rng(0)
  label = rng.integers(0, 2, 64)
  image = np.uint8(
    rng.integers(0, 60, (64, 3, 3, 1)) + 150 * label[:, None, None, None]
  )
  batch = Batch(jnp.asarray(image), jnp.asarray(label, jnp.int32))
  inputs = input_step.make((0.5,), (0.25,))
  start = module.init(jax.random.key(0), inputs.eval(batch.image[:1], None))
  rate = optimizers.constant_schedule(1e-2)
  fitted = cmu_jax.fit(
    jax.random.key(1),
    Network(module, inputs),
    start,
    batch,
    Training(optimizers.adamw(rate), 60, 32),
  )
  assert isinstance(fitted.variables, Variables)
  assert fitted.history[-10:, 1].mean() > 0.95
  moved = jax.tree.leaves(fitted.variables.batch_stats)
  assert bool(moved) == isinstance(module, Normed)
  model = networks.as_model(module)
  with pytest.raises(errors.UserError, match='has no methods features'):
    model.features(fitted.variables, inputs.eval(batch.image[:1], None))


def test_variables_without_parameters_are_named():
  with pytest.raises(errors.UserError, match="have no 'params'"):
    networks.as_variables({'body': {}})
