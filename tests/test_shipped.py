"""What is inferred about somebody's weights: the stem, and the side file."""

import json

import jax
import numpy as np
import PIL.Image
import pytest
import torch_twin
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.networks import shipped, weights
from cmu_jax.networks.shipped import user_data

SAID = dict.fromkeys(user_data.SIDE_FIELDS) | {'mean': (0.5,), 'std': (0.5,)}


def _ship(path, stem):
  """A narrow ResNet-18 under PyTorch's names, all zero."""
  model = networks.make('resnet18', 3, (16, 16, 3), width=2, stem=stem)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3))
  )
  zero = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  torch_name = networks.REGISTRY['resnet18'].torch_name
  arrays = torch_twin.state_dict(zero, torch_name)
  weights.write(path, weights.StoredWeights(arrays, {}, '.npz'))


@pytest.mark.parametrize('stem', ('cifar', 'imagenet'))
def test_the_stem_is_read_off_the_weights(tmp_path, stem):
  _ship(tmp_path / 'w.npz', stem)
  PIL.Image.new('RGB', (16, 16)).save(tmp_path / 'a.png')
  place = str(tmp_path / 'w.npz'), 'resnet18:width=2', str(tmp_path)
  found = shipped.load(*place, SAID)
  kernel = found.variables.params['body']['conv1']['kernel']
  assert kernel.shape[:2] == ((3, 3) if stem == 'cifar' else (7, 7))
  assert any("stem='imagenet'" in note for note in found.notes) == (
    stem == 'imagenet'
  )
  other = {'cifar': 'imagenet', 'imagenet': 'cifar'}[stem]
  with pytest.raises(errors.UserError, match=r'conv1\.weight'):
    shipped.load(place[0], f'{place[1]},stem={other}', place[2], SAID)


def test_the_side_file_is_found_under_both_names(tmp_path):
  path = tmp_path / 'w.npz'
  assert user_data.read_side_file(path) == {}
  (tmp_path / 'w.json').write_text(json.dumps({'mean': [0.5]}))
  assert user_data.read_side_file(path) == {'mean': [0.5]}
  (tmp_path / 'w.npz.json').write_text('[1]')
  with pytest.raises(errors.UserError, match='JSON object'):
    user_data.read_side_file(path)


def test_a_side_file_may_give_one_number_for_all_channels():
  given = {'mean': 0.5, 'std': 1, 'target': 2, 'classes': ['a', 3]}
  found = user_data.check_side_file(
    {**given, 'image_size': None, 'notes': 'x'}, 'w.npz'
  )
  assert found == {
    **given,
    'mean': [0.5],
    'std': [1],
    'image_size': None,
    'notes': 'x',
  }


def test_the_earlier_name_of_a_field_is_read_and_said():
  with errors.collect_remarks() as remarks:
    side = user_data.check_side_file({'class_names': ['a', 'b']}, 'w.npz')
  assert side == {'classes': ['a', 'b']}
  assert len(remarks) == 1 and "'classes'" in remarks[0]
  with pytest.raises(errors.UserError, match="both 'class_names' and"):
    user_data.check_side_file({'class_names': ['a'], 'classes': ['b']}, 'w.npz')


@pytest.mark.parametrize(
  'field,value',
  (
    ('mean', 'x'),
    ('mean', []),
    ('mean', [0.5, None]),
    ('std', True),
    ('image_size', 0),
    ('image_size', 32.0),
    ('classes', 5),
    ('classes', [['a']]),
    ('target', [0]),
  ),
)
def test_a_field_of_another_kind_is_one_line(field, value):
  with pytest.raises(errors.UserError, match=f"'{field}' in the side file"):
    user_data.check_side_file({field: value}, 'w.npz')
