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


def test_sizes_that_the_user_gave_stay(tmp_path, picture):
  path = tmp_path / 'w.npz'
  shipped.save_weights(path, zeros('fc', width=9), [0.5] * 3, [0.5] * 3)
  with pytest.raises(errors.UserError, match='the network has') as caught:
    shipped.load(str(path), 'fc:width=8', picture, FACTS)
  assert 'hidden_0' in str(caught.value)
  with pytest.raises(errors.UserError, match='hidden_1'):
    shipped.load(str(path), 'fc:depth=2', picture, FACTS)


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
