"""Reference lines that see clean images: pruning, running statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmu_jax import networks
from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Batch,
  MethodInputs,
  Model,
  Network,
  Training,
  Variables,
)
from cmu_jax.data import input_step
from cmu_jax.methods.backdoor import pruning as pruning_lib
from cmu_jax.networks import layers
from cmu_jax.training import batch_norm

SHAPE = (8, 8, 1)
STEP = input_step.make((0.4,), (0.3,))
FC = networks.make('fc', 3, SHAPE, width=10)


def clean(count=20, seed=0):
  generator = np.random.default_rng(seed)
  image = generator.integers(0, 255, (count, *SHAPE)).astype(np.uint8)
  return Batch(jnp.asarray(image), jnp.asarray(np.arange(count) % 3))


def start(model):
  return jax.jit(model.init)(rng.fold_in(0), jnp.zeros((1, *SHAPE)))


def pruning(steps=5, optimizer=None):
  chosen = optimizer or optax.sgd(0.1)
  return pruning_lib.fine_pruning(
    Network(FC, STEP),
    training=Training(optimizer=chosen, steps=steps, batch_size=8),
  )


def test_activity_is_the_mean_magnitude_of_each_feature():
  variables, batch = start(FC), clean()
  wanted = np.abs(FC.features(variables, STEP.eval(batch.image, None))).mean(0)
  found = pruning_lib.mean_activity(Network(FC, STEP), variables, batch, 7)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(('share', 'left'), [(0.0, 10), (0.3, 7), (1.0, 0)])
def test_the_least_active_channels_go(share, left):
  activity = jnp.asarray(np.random.default_rng(1).permutation(10) / 9)
  found = np.asarray(jax.jit(pruning_lib.active_channels)(activity, share))
  assert found.sum() == left
  np.testing.assert_array_equal(found, np.asarray(activity) > (9 - left) / 9)


def test_a_share_of_zero_is_the_identity_before_fine_tuning():
  variables, method = start(FC), pruning(steps=0)
  given = MethodInputs(clean_proxy=clean())
  prepared = method.prepare(rng.fold_in(0), variables, given)
  at = lambda share: method.solve(
    rng.fold_in(1), variables, given, prepared, {'pruned_share': share}
  )
  found, info = at(0.0)
  assert info == {'gradient_evaluations': 0}
  jax.tree.map(np.testing.assert_array_equal, found, variables)
  # What is cut off no longer matters to the logits, the rest does as before.
  half = at(0.5)[0]
  mask = pruning_lib.active_channels(prepared, 0.5)
  image = STEP.eval(clean().image, None)
  features = FC.features(variables, image) * mask[None, :]
  np.testing.assert_allclose(
    FC.apply(half, image), FC.head(variables, features), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  'optimizer', [optax.sgd(0.1, momentum=0.9), optax.adamw(0.01)]
)
def test_pruned_channels_stay_so_while_the_rest_learns(optimizer):
  variables, method = start(FC), pruning(optimizer=optimizer)
  given = MethodInputs(clean_proxy=clean())
  prepared = method.prepare(rng.fold_in(0), variables, given)
  found, info = method.solve(
    rng.fold_in(1), variables, given, prepared, {'pruned_share': 0.4}
  )
  mask = np.asarray(pruning_lib.active_channels(prepared, 0.4))
  kernel = np.asarray(found.params['head']['kernel'])
  before = np.asarray(variables.params['head']['kernel'])
  assert (kernel[~mask] == 0).all() and (~mask).sum() == 4
  assert (kernel[mask] != before[mask]).any()
  assert info == {'gradient_evaluations': 5 * 8}


def test_a_network_without_a_linear_head_is_refused():
  with pytest.raises(
    errors.UserError, match='needs the parameters of a linear'
  ):
    pruning_lib.prune(Variables({'w': jnp.ones(3)}, {}), jnp.ones(3, bool))


def test_the_shares_are_a_grid_with_a_default_in_front():
  method = pruning()
  shares = [point['pruned_share'] for point in method.grid]
  assert shares[0] == 0.5 and min(shares) > 0 and max(shares) < 1
  assert len(set(shares)) == len(shares)
  assert method.needs == ('clean_proxy',)


def _normalising(momentum):
  """One BatchNorm on raw channels: its statistics are those of the images."""
  norm = layers.BatchNorm(momentum=momentum)

  def update(variables, image):
    y, state = norm.apply(
      variables._asdict(), image, True, mutable=['batch_stats']
    )
    return y.mean((1, 2)), state['batch_stats']

  def init(key, image):
    made = norm.init(key, image, True)
    return Variables(made['params'], made['batch_stats'])

  evaluate = lambda variables, image: norm.apply(
    variables._asdict(), image, False
  ).mean((1, 2))
  return Model(init, evaluate, update, evaluate, lambda variables, x: x)


@pytest.mark.parametrize('momentum', [0.0, 0.9, 0.99])
@pytest.mark.parametrize('batch_size', [50, 7])
def test_statistics_are_the_mean_and_variance_of_all_images(
  momentum, batch_size
):
  model, batch = _normalising(momentum), clean(50)
  variables = start(model)
  found = batch_norm.recalibrate(
    rng.fold_in(1), Network(model, STEP), variables, batch, batch_size
  )
  pixels = (np.asarray(batch.image, np.float64) / 255 - 0.4) / 0.3
  np.testing.assert_allclose(
    found.batch_stats['mean'], [pixels.mean()], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    found.batch_stats['var'], [pixels.var()], rtol=1e-4
  )
  jax.tree.map(np.testing.assert_array_equal, found.params, variables.params)


def test_statistics_of_the_same_images_stay():
  model, batch = networks.make('convnet', 3, SHAPE, width=1), clean(40)
  solve = pruning_lib.bn_recalibration(
    Network(model, STEP), batch_size=20
  ).solve
  given, variables = MethodInputs(clean_proxy=batch), start(model)
  once, info = solve(rng.fold_in(1), variables, given, None, {})
  twice, _ = solve(rng.fold_in(1), once, given, None, {})
  assert info == {'gradient_evaluations': 0}
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, twice.batch_stats, once.batch_stats)
  before = jax.tree.leaves(variables.batch_stats)
  moved = [
    float(jnp.abs(a - b).max())
    for a, b in zip(jax.tree.leaves(once.batch_stats), before, strict=True)
  ]
  assert min(moved) > 1e-3


def test_a_network_without_statistics_stays():
  variables = start(FC)
  method = pruning_lib.bn_recalibration(Network(FC, STEP))
  given = MethodInputs(clean_proxy=clean())
  found, _ = method.solve(rng.fold_in(1), variables, given, None, {})
  jax.tree.map(np.testing.assert_array_equal, found, variables)
  assert method.needs == ('clean_proxy',)


@functools.cache
def frozen():
  """A network that never moves its statistics, not even in training."""
  features = lambda variables, image: image.mean((1, 2))
  return networks.from_functions(features, lambda variables, x: x)


def test_statistics_that_never_move_stay_bit_for_bit():
  # The head of a CLIP lies among them; three batches of unequal sizes.
  head = jnp.asarray(np.random.default_rng(0).normal(size=(9, 4)), jnp.float32)
  kept = {'head': {'kernel': head, 'mean': head[0], 'var': head[1] ** 2}}
  variables = Variables({'w': jnp.ones(1)}, kept)
  found = batch_norm.recalibrate(
    rng.fold_in(1), Network(frozen(), STEP), variables, clean(), 7
  )
  jax.tree.map(np.testing.assert_array_equal, found.batch_stats, kept)
