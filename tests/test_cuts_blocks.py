"""A coefficient a block: what an edit touches, and that the climb climbs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_cuts
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import jit, tree
from cmu_jax.core.types import Network, Variables
from cmu_jax.methods.cuts import alpha_rules, cross_fitting
from cmu_jax.methods.cuts import blocks as blocks_lib

PARAMS = {
  'body': {
    'one': {'kernel': jnp.ones(3), 'bias': jnp.ones(2)},
    'two': {'kernel': 2 * jnp.ones(3)},
    'norm': {'scale': jnp.ones(2)},
  },
  'head': {'kernel': jnp.ones(4)},
  'steps': jnp.int32(7),
}
TAU = jax.tree.map(lambda x: jnp.ones_like(x) + 0.5, PARAMS)
TAU['body']['norm']['scale'] = jnp.zeros(2)
TAU['steps'] = PARAMS['steps']
BLOCKS = ('body/one', 'body/two', 'head')
GRID = np.array([0.0, 0.5, 1.0, 2.0])


def test_blocks_are_the_layers_that_the_task_vector_moves():
  assert blocks_lib.block_names(TAU) == BLOCKS
  assert blocks_lib.block_names({'w': jnp.ones(2)}) == ('w',)
  deep = {'body': {'stage': {'conv': {'kernel': jnp.ones(1)}}}}
  assert blocks_lib.block_names(deep) == ('body/stage/conv',)
  assert blocks_lib.block_names(deep, blocks_lib.stage_of) == ('body/stage',)


@settings(max_examples=20, deadline=None)
@given(alphas=st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3))
def test_each_block_takes_its_own_step_and_nothing_else_moves(alphas):
  edited = jax.jit(lambda a: blocks_lib.edit(PARAMS, TAU, a, BLOCKS))(
    jnp.asarray(alphas, jnp.float32)
  )
  single = [tree.edit(PARAMS, TAU, a) for a in alphas]
  for name, one in zip(('one', 'two'), single, strict=False):
    for leaf, expected in one['body'][name].items():
      np.testing.assert_allclose(
        edited['body'][name][leaf], expected, rtol=1e-5, atol=1e-5
      )
  np.testing.assert_allclose(
    edited['head']['kernel'], single[2]['head']['kernel'], rtol=1e-5, atol=1e-5
  )
  np.testing.assert_array_equal(edited['body']['norm']['scale'], np.ones(2))
  assert edited['steps'] == 7


def bowl(alphas):
  """Highest at (2, 0, 1); the blocks do not interact."""
  return -((alphas - np.array([2.0, 0.0, 1.0])) ** 2).sum(axis=1)


def test_a_climb_ends_where_no_block_gains_and_counts_its_calls():
  calls = []

  def score(alphas):
    calls.append(alphas.shape)
    return bowl(alphas)

  found = blocks_lib.climb(score, BLOCKS, 0.75, GRID, sweeps=9)
  np.testing.assert_array_equal(found.alphas, [2.0, 0.0, 1.0])
  assert found.start == 0.75 and found.J[0] == pytest.approx(-2.1875)
  assert found.J[1:] == [0.0, 0.0]  # the second sweep moves nothing: the end
  assert calls == 6 * [(5, 3)]


def test_a_tie_is_no_move_and_a_sum_is_climbed_together():
  flat = lambda alphas: np.zeros(len(alphas))
  stays = blocks_lib.climb(flat, BLOCKS, 0.75, GRID)
  np.testing.assert_array_equal(stays.alphas, 3 * [0.75])
  coupled = lambda alphas: -((alphas.sum(axis=1) - 4) ** 2)
  found = blocks_lib.climb(coupled, BLOCKS, 1.0, GRID, sweeps=3)
  assert found.alphas.sum() == 4 and sorted(found.J) == found.J


@pytest.mark.slow
def test_the_score_is_the_cross_fitted_one_and_one_alpha_is_a_case_of_it():
  model = test_cuts.MODELS['fc']
  image = jnp.zeros((1, *test_cuts.SHAPE))
  variables = jit.compile_cheaply(model.init)(jax.random.key(0), image)
  whole = test_cuts.noisy_proxy()
  folds = cross_fitting.split(jax.random.key(4), whole, 2)
  draw = lambda seed: jax.tree.map(
    lambda x: np.random.default_rng(seed).normal(0, 0.2, x.shape),
    variables.params,
  )
  tau = jax.tree.map(
    lambda a, b: jnp.asarray(np.stack([a, b]), jnp.float32), draw(1), draw(2)
  )
  blocks = blocks_lib.block_names(tree.index(tau, 0))
  score = blocks_lib.scorer(
    Network(model, test_cuts.STEP), variables, folds, tau, blocks
  )
  given = np.array([[0.5] * len(blocks), [0.0] * (len(blocks) - 1) + [2.0]])
  found = score(given)
  held = [test_cuts.STEP.eval(whole.image[x], None) for x in folds.held_out]
  size = held[0].shape[0]
  k = alpha_rules.neighbour_count(
    size, model.apply(variables, held[0]).shape[1]
  )
  for row, alphas in enumerate(given):
    expected = []
    for fold, images in enumerate(held):
      direction = tree.index(tau, fold)
      params = tree.edit(variables.params, direction, 0.5)
      if row:
        params = dict(variables.params)
        params['head'] = tree.edit(
          params['head'], direction['head'], alphas[-1]
        )
      edited = Variables(params, variables.batch_stats)
      features = model.features(edited, images)
      logits = model.head(edited, features)
      expected.append(float(alpha_rules.agreement(features, logits, k=k).J))
    assert found[row] == pytest.approx(np.mean(expected), abs=1e-3)
