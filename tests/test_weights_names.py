"""Names in weights files: prefixes of wrappers, counters, the states of NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch_twin
from flax import nnx

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.networks import weights
from cmu_jax.networks.weights import matching, names

FAMILY = 'resnet18'
TORCH_NAME = networks.REGISTRY[FAMILY].torch_name
IMAGE = jnp.zeros((1, 8, 8, 3))
MODEL = networks.make(FAMILY, 3, (8, 8, 3), width=2)


@pytest.fixture(scope='module')
def variables():
  return torch_twin.random_variables(MODEL, IMAGE)


@pytest.fixture(scope='module')
def arrays(variables):
  return torch_twin.state_dict(variables, TORCH_NAME)


def fit(stored, variables, torch_name=TORCH_NAME):
  """Fits, and checks values and names; returns the notes."""
  read, layout = weights.fit(dict(stored), variables, torch_name, 'w')
  jax.tree.map(np.testing.assert_array_equal, read, variables)
  twice = jax.tree.map(lambda x: 2 * x, variables)
  back = weights.put_back(twice, dict(stored), layout)
  assert list(back) == list(stored)
  used = {*layout.names.values()}
  for name, array in stored.items():
    expected = 2 * array if name in used else array
    np.testing.assert_array_equal(back[name], expected)
  return names.describe(stored, layout)


CHAINS = (
  *('module.', '_orig_mod.module.', 'module._orig_mod.model.', 'ema.module.'),
  *('backbone.', 'encoder.net.0.', 'a.b.c.d.e.', 'student_model.', 'net/w/'),
)


@pytest.mark.parametrize('head', ('fc', 'classifier', 'head', 'linear'))
@pytest.mark.parametrize('prefix', CHAINS)
def test_any_prefix_is_left_out_and_said(variables, arrays, prefix, head):
  headed = {n.replace('fc.', f'{head}.'): x for n, x in arrays.items()}
  renamed = {prefix + n: x for n, x in headed.items()}
  (note,) = fit(renamed, variables)
  assert f"'{prefix}'" in note


@pytest.mark.parametrize('head', ('fc', 'classifier', 'probe.head', 'x.y.fc'))
def test_the_head_may_have_a_prefix_of_its_own(variables, arrays, head):
  renamed = {
    n.replace('fc.', f'{head}.') if n.startswith('fc.') else f'body.m.{n}': x
    for n, x in arrays.items()
  }
  assert any("'body.m.'" in note for note in fit(renamed, variables))
  assert weights.count_classes(renamed) == 3


COUNTERS = {
  'n_averaged': np.array(5),
  'total_ops': np.zeros(1),
  'layer1.0.conv1.total_params': np.zeros(1),
  'layer1.0.bn1.num_batches_tracked': np.array(7),
  'bn1.num_batches_tracked': np.array(7),
}


@pytest.mark.parametrize('prefix', ('', 'module.', 'ema_model.module.'))
def test_counters_stay_and_are_said_in_a_line(variables, arrays, prefix):
  inner = {prefix + n: x for n, x in {**arrays, **COUNTERS}.items()}
  del inner[f'{prefix}n_averaged']
  notes = fit({'n_averaged': np.array(5), **inner}, variables)
  assert len(notes) == 1 + bool(prefix)
  assert 'num_batches_tracked (2 arrays)' in notes[-1]
  assert all(n in notes[-1] for n in ('n_averaged', 'total_ops', 'total_par'))


def test_a_name_that_only_ends_like_a_counter_is_refused(variables, arrays):
  stored = {**arrays, 'layer9.my_total_ops': np.zeros(1)}
  with pytest.raises(errors.UserError, match='belongs to no part'):
    weights.fit(stored, variables, TORCH_NAME, 'w')


def test_two_networks_are_not_chosen_from(variables, arrays):
  stored = {p + n: x for p in ('model.', 'ema.m.') for n, x in arrays.items()}
  with pytest.raises(errors.UserError, match=r"'ema\.m\.', 'model\.'; keep"):
    weights.fit(stored, variables, TORCH_NAME, 'w')


def test_names_of_another_program_are_one_line(variables):
  stored = {f'block{i}/w': np.zeros(3) for i in range(9)}
  with pytest.raises(errors.UserError, match='none of its names') as caught:
    weights.fit(stored, variables, TORCH_NAME, 'w')
  assert '\n' not in str(caught.value) and "'block0/w'" in str(caught.value)
  assert "'conv1.weight'" in str(caught.value)


@pytest.mark.parametrize('torch', (True, False))
def test_missing_statistics_are_one_line(variables, arrays, torch):
  if not torch:
    arrays = {n: np.asarray(x) for n, x in names.leaves(variables).items()}
  stored = {
    n: x for n, x in arrays.items() if 'running' not in n and 'stats' not in n
  }
  with pytest.raises(errors.UserError, match='lacks the statistics') as caught:
    weights.fit(stored, variables, TORCH_NAME, 'w')
  assert '\n' not in str(caught.value)


def nnx_state(variables, collections, value):
  """The variables as NNX names them; rngs as its dropout keeps them."""
  flat = {}
  for path, leaf in names.leaves(variables).items():
    name = path if collections else path.partition('/')[2]
    flat[f'{name}/value' if value else name] = np.asarray(leaf)
  last = '/value' if value else ''
  flat[f'drop/rngs/count{last}'] = np.uint32(3)
  flat[f'drop/rngs/key{last}'] = np.zeros(2, np.uint32)
  return flat


@pytest.mark.parametrize('suffix', ('', '.msgpack', '.npz', '.safetensors'))
@pytest.mark.parametrize('collections', (True, False))
@pytest.mark.parametrize('value', (True, False))
def test_states_of_nnx_are_read_and_written(
  tmp_path, variables, collections, value, suffix
):
  flat = nnx_state(variables, collections, value)
  path = tmp_path / f'w{suffix}'
  weights.write(path, weights.StoredWeights(flat, {}, suffix))
  stored = weights.read(path)
  assert stored.arrays.keys() == flat.keys()
  (note,) = fit(stored.arrays, variables)
  assert 'count' in note and 'key' in note
  assert weights.count_classes(stored.arrays) == 3


class Net(nnx.Module):
  """A dense network with the names of `fc`, saved as NNX users do."""

  def __init__(self, rngs):
    self.body = nnx.Module()
    self.body.hidden_0 = nnx.Linear(4, 5, rngs=rngs)
    self.head = nnx.Linear(5, 3, rngs=rngs)


def test_a_state_that_nnx_itself_saved_is_read(tmp_path):
  net = Net(nnx.Rngs(1))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'net', nnx.state(net))
  model = networks.make('fc', 3, (2, 2, 1), width=5)
  template = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 2, 2, 1))
  )
  stored = weights.read(tmp_path / 'net')
  assert 'body/hidden_0/kernel/value' in stored.arrays
  read, _ = matching.fit(stored.arrays, template, None, 'net')
  x = jnp.arange(4.0).reshape(1, 2, 2, 1)
  expected = net.head(jax.nn.relu(net.body.hidden_0(x.reshape(1, 4))))
  np.testing.assert_allclose(model.apply(read, x), expected, rtol=1e-6)
