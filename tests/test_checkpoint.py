"""Checkpoints: what goes in comes out, or is refused in one line."""

import time

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies
from states import ENTRY, entry, same, steps

from cmu_jax.core import checkpoint
from cmu_jax.core.types import Variables


def _training_state():
  params = {
    'dense': {
      'kernel': jax.random.normal(jax.random.key(1), (5, 4)),
      'bias': jnp.asarray([jnp.nan, -0.0, 1e-40, jnp.inf], jnp.bfloat16),
    },
    'empty': {},
  }
  return {
    'variables': Variables(params, {}),
    'optimizer': optax.sgd(0.1, momentum=0.9).init(params),
    'key': jax.random.key(3),
    'keys': jax.random.split(jax.random.key(0), 4),
    'rbg': jax.random.key(1, impl='rbg'),
    'step': jnp.asarray(7),
    'mask': jnp.asarray([True, False]),
    'image': jnp.arange(6, dtype=jnp.uint8).reshape(1, 2, 3),
    'none': None,
    'nothing': jnp.zeros((0, 3)),
  }


@pytest.mark.parametrize('abstract', [False, True])
def test_round_trip_is_bit_exact(tmp_path, abstract):
  state = _training_state()
  checkpoint.save(tmp_path, 5, state, 'a')
  template = jax.eval_shape(lambda: state) if abstract else state
  restored, step = checkpoint.restore(tmp_path, template, 'a')
  assert step == 5
  same(state, restored)


def test_restored_arrays_can_be_donated(tmp_path):
  checkpoint.save(tmp_path, 0, {'w': jnp.arange(1024.0)}, 'a')
  restored, _ = checkpoint.restore(tmp_path, {'w': jnp.zeros(1024)}, 'a')
  assert isinstance(restored['w'], jax.Array)
  double = jax.jit(
    lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0
  )
  for _ in range(3):
    restored = double(restored)
  np.testing.assert_array_equal(restored['w'], 8 * np.arange(1024.0))
  again, _ = checkpoint.restore(tmp_path, {'w': jnp.zeros(1024)}, 'a')
  np.testing.assert_array_equal(again['w'], np.arange(1024.0))


@pytest.mark.parametrize('state', [{}, jnp.ones(3), (), [jnp.ones(()), {}]])
def test_odd_trees(tmp_path, state):
  checkpoint.save(tmp_path, 0, state, 'a')
  restored, _ = checkpoint.restore(tmp_path, state, 'a')
  same(state, restored)


@hypothesis.given(
  strategies.dictionaries(
    strategies.text('ab./ []\'"', max_size=4),
    strategies.tuples(
      strategies.lists(strategies.integers(0, 3), max_size=3),
      strategies.sampled_from(['float32', 'bfloat16', 'int8', 'bool']),
    ),
    max_size=4,
  )
)
@hypothesis.settings(max_examples=8, deadline=None)
def test_any_names_shapes_and_dtypes(tmp_path_factory, leaves):
  folder = tmp_path_factory.mktemp('any')
  state = {
    name: jnp.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape), kind)
    for name, (shape, kind) in leaves.items()
  }
  checkpoint.save(folder, 1, state, 'a')
  same(state, checkpoint.restore(folder, state, 'a')[0])


def test_nothing_to_restore(tmp_path):
  assert checkpoint.restore(tmp_path / 'absent', ENTRY, 'a') is None
  assert checkpoint.restore(tmp_path, ENTRY, 'a') is None


def test_pruning_keeps_the_newest(tmp_path):
  for step in range(5):
    checkpoint.save(tmp_path, step, entry(step), 'a', keep=3)
  assert steps(tmp_path) == [2, 3, 4]
  checkpoint.save(tmp_path, 10, entry(10), 'a', keep=1)
  assert steps(tmp_path) == [10]


def test_pruning_leaves_what_is_not_ours(tmp_path):
  (tmp_path / '1').mkdir()
  (tmp_path / '1' / 'notes.txt').write_text('mine')
  (tmp_path / 'notes').mkdir()
  checkpoint.save(tmp_path, 2, entry(2), 'other')
  for step in (3, 4, 5):
    checkpoint.save(tmp_path, step, entry(step), 'a', keep=1)
  assert {path.name for path in tmp_path.iterdir()} == {'1', 'notes', '2', '5'}
  assert (tmp_path / '1' / 'notes.txt').read_text() == 'mine'


def test_saving_over_something_else_sets_it_aside(tmp_path, capfd):
  (tmp_path / '3').mkdir()
  (tmp_path / '3' / 'notes.txt').write_text('mine')
  checkpoint.save(tmp_path, 3, entry(3), 'a')
  assert (tmp_path / '3.old1' / 'notes.txt').read_text() == 'mine'
  assert 'renamed' in capfd.readouterr().err
  same(entry(3), checkpoint.restore(tmp_path, ENTRY, 'a')[0])


def test_saving_a_step_again_replaces_it(tmp_path):
  checkpoint.save(tmp_path, 3, entry(3), 'a')
  checkpoint.save(tmp_path, 3, entry(9), 'a')
  assert steps(tmp_path) == [3]
  same(entry(9), checkpoint.restore(tmp_path, ENTRY, 'a')[0])


def test_what_a_killed_save_left_is_swept(tmp_path):
  (tmp_path / '.checkpoint-7-xyz.part' / 'state').mkdir(parents=True)
  checkpoint.save(tmp_path, 8, entry(8), 'a')
  assert [path.name for path in tmp_path.iterdir()] == ['8']


def test_a_damaged_newest_one_does_not_push_out_the_good_ones(tmp_path):
  for step in (1, 3):
    checkpoint.save(tmp_path, step, entry(step), 'a')
  next((tmp_path / '3' / 'state').rglob('_METADATA')).unlink()
  assert checkpoint.restore(tmp_path, ENTRY, 'a')[1] == 1
  checkpoint.save(tmp_path, 2, entry(2), 'a', keep=1)
  assert checkpoint.restore(tmp_path, ENTRY, 'a')[1] == 2
  checkpoint.save(tmp_path, 3, entry(3), 'a', keep=1)
  assert checkpoint.restore(tmp_path, ENTRY, 'a')[1] == 3
  assert steps(tmp_path) == [3]


def test_a_small_save_is_quick(tmp_path):
  state = _training_state()
  checkpoint.save(tmp_path, 0, state, 'a')
  times = []
  for step in range(1, 5):
    began = time.perf_counter()
    checkpoint.save(tmp_path, step, state, 'a')
    times.append(time.perf_counter() - began)
  assert min(times) < 1
