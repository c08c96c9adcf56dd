"""Orbax folders as people write them: a whole training, steps, both APIs."""

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax.training.train_state import TrainState
from jax import numpy as jnp
from orbax.checkpoint import v1

from cmu_jax import networks
from cmu_jax.core import checkpoint, errors
from cmu_jax.core.types import Variables
from cmu_jax.networks import weights
from cmu_jax.training import train

MODEL = networks.make('fc', 3, (4, 4, 1), width=5, depth=1)
START = MODEL.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))


def saved(path, tree):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, tree)
  return path


def fitted(path, template=START):
  stored = weights.read(path)
  found, layout = weights.fit(stored.arrays, template, None, path.name)
  return stored, found, layout


def doubled(path):
  """The file read, its network's weights doubled, and written beside it."""
  stored, found, layout = fitted(path)
  twice = Variables(jax.tree.map(lambda x: 2 * x, found.params), {})
  arrays = weights.put_back(twice, stored.arrays, layout)
  weights.write(path.with_name('repaired'), stored._replace(arrays=arrays))
  return path.with_name('repaired')


def state():
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  made = TrainState.create(
    apply_fn=MODEL.apply, params=START.params, tx=optimizer
  )
  return made.apply_gradients(grads=jax.tree.map(jnp.ones_like, START.params))


def test_a_train_state_comes_back_as_one_with_other_weights(tmp_path):
  before = state()
  path = doubled(saved(tmp_path / 'mine', before))
  like = jax.tree.map(ocp.utils.to_shape_dtype_struct, before)
  with ocp.StandardCheckpointer() as checkpointer:
    after = checkpointer.restore(path, like)
  assert after.step == 1
  jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(x, 2 * y),
    after.params,
    before.params,
  )


@pytest.mark.parametrize(
  'tree',
  (
    START.params,
    {'params': START.params},
    {'model': {'params': START.params, 'batch_stats': {}}, 'epoch': 3},
    {'state': {'variables': {'params': START.params}}},
  ),
  ids=('bare', 'params', 'model', 'state'),
)
def test_both_interfaces_of_orbax_read_what_is_written(tmp_path, tree):
  path = doubled(saved(tmp_path / 'mine', tree))
  with ocp.StandardCheckpointer() as checkpointer:
    old = checkpointer.restore(path)
  _, kept, _ = fitted(path)
  for found in (old, v1.load(path)):
    assert found.keys() == tree.keys()
    leaves = [x for x in jax.tree.leaves(found) if np.ndim(x)]
    for x, y in zip(leaves, jax.tree.leaves(START.params), strict=True):
      np.testing.assert_array_equal(x, 2 * y)
  assert kept.params['head']['kernel'].shape == (5, 3)


def test_what_v1_writes_is_read_without_a_word(tmp_path, caplog):
  v1.save(tmp_path / 'mine', {'params': START.params})
  caplog.clear()
  _, found, _ = fitted(tmp_path / 'mine')
  assert not caplog.records
  jax.tree.map(np.testing.assert_array_equal, found.params, START.params)


def test_the_only_step_of_a_manager_is_taken_and_several_are_listed(tmp_path):
  tree = {'params': START.params}
  with ocp.CheckpointManager(tmp_path / 'run') as manager:
    manager.save(200, args=ocp.args.StandardSave(tree))
    manager.wait_until_finished()
    _, found, _ = fitted(tmp_path / 'run')
    manager.save(400, args=ocp.args.StandardSave(tree))
  jax.tree.map(np.testing.assert_array_equal, found.params, START.params)
  with pytest.raises(errors.UserError, match='200/default, 400/default; give'):
    weights.read(tmp_path / 'run')
  fitted(tmp_path / 'run' / '400')


def test_the_state_of_a_training_of_ours_is_read(tmp_path):
  begun = train.initial_state(optax.adamw(1e-3), START, 2)
  checkpoint.save(tmp_path / 'run', 1, begun, 'fingerprint')
  for path in (tmp_path / 'run', tmp_path / 'run' / '1'):
    _, found, _ = fitted(path)
    jax.tree.map(np.testing.assert_array_equal, found.params, START.params)


def test_two_networks_in_one_folder_are_not_chosen_from(tmp_path):
  tree = {'ema': {'params': START.params}, 'model': {'params': START.params}}
  with pytest.raises(
    errors.UserError,
    match="networks, under the prefixes 'ema/', 'model/'; ",
  ):
    fitted(saved(tmp_path / 'mine', tree))


def test_what_is_no_state_of_a_training_is_still_refused(tmp_path):
  tree = {'params': START.params, 'heads': {'kernel': jnp.ones(3)}}
  with pytest.raises(errors.UserError, match="'heads/kernel' belongs to no"):
    fitted(saved(tmp_path / 'mine', tree))


def test_a_folder_without_a_whole_checkpoint_is_one_line(tmp_path, capfd):
  with pytest.raises(errors.UserError, match='holds no whole Orbax checkpoint'):
    weights.read(tmp_path)
  path = saved(tmp_path / 'mine', {'params': START.params})
  for file in path.rglob('d/*'):
    file.write_bytes(b'')
  with pytest.raises(errors.UserError, match='not a directory that Orbax can'):
    weights.read(path)
  assert 'Traceback' not in capfd.readouterr().err
