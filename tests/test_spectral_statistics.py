"""New running statistics after a clip, and clips inside of training."""

import functools

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from spectral_case import SHAPE, Small, equal, network, true_norms

from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Model
from cmu_jax.robustness import spectral

pytestmark = pytest.mark.usefixtures('quick_compilation')

BOUND = 0.8


@functools.cache
def case():
  """(apply, variables) of a small network."""
  return network(Small(), SHAPE)


@functools.cache
def restated():
  """The small network as a Model, clipped with new running statistics."""
  apply, variables = case()
  module = Small()

  def update(variables, image):
    logits, held = module.apply(
      variables._asdict(), image, train=True, mutable=['batch_stats']
    )
    return logits, held['batch_stats']

  whole = lambda variables, image: image
  model = Model(lambda key, image: variables, apply, update, apply, whole)
  image = 2 + jax.random.normal(jax.random.key(1), (40, *SHAPE))
  label = jnp.argmax(apply(variables, image), 1).astype(jnp.int32)
  images = Batch(image, label)
  done, info = spectral.clip_weights(
    jax.random.key(0),
    model,
    variables,
    SHAPE,
    BOUND,
    data=spectral.ClipData(images, images),
  )
  return model, images, done, info


@pytest.mark.slow
def test_new_statistics_are_of_the_clipped_network_and_within_the_bound():
  apply, _ = case()
  model, images, done, info = restated()
  assert max(true_norms(apply, done).values()) <= BOUND * 1.001
  first = done.params['first']
  seen = jax.lax.conv_general_dilated(
    images.image, first['kernel'], (1, 1), 'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  ) + first['bias'][None, None, None]  # fmt: skip
  found = done.batch_stats['norm']
  np.testing.assert_allclose(found['mean'], seen.mean((0, 1, 2)), rtol=1e-3)
  np.testing.assert_allclose(found['var'], seen.var((0, 1, 2)), rtol=1e-3)
  after = {row['path']: row['after'] for row in info['layers']}
  np.testing.assert_allclose(
    after['norm'], true_norms(apply, done)['norm'], rtol=1e-4
  )
  assert set(info['accuracy']) == {
    'before', 'after', 'rescaled', 'reestimated', 'rescaled_reestimated'
  }  # fmt: skip
  data = spectral.ClipData(images=images)
  again, _ = spectral.clip_weights(
    jax.random.key(3), model, done, SHAPE, BOUND, data=data
  )
  assert equal(again, done)


def test_new_statistics_need_to_know_how_they_are_updated():
  apply, variables = case()
  with pytest.raises(errors.UserError, match='Model'):
    spectral.clip_weights(
      jax.random.key(0),
      apply,
      variables,
      SHAPE,
      BOUND,
      data=spectral.ClipData(images=restated()[1]),
    )


@functools.cache
def trained():
  """Four noisy steps with the transformation last in a chain."""
  apply, variables = network(Small(), SHAPE)
  layers = spectral.find_layers(apply, variables, SHAPE)[:2]
  settings = spectral.ClipSettings(rounds=5)
  clip = spectral.clip_spectral_norm(layers, 1.0, 2, settings=settings)
  tx = optax.chain(optax.identity(), clip)

  @jax.jit
  def step(given, params, state):
    updates, state = tx.update(
      given, state, params, batch_stats=variables.batch_stats
    )
    return optax.apply_updates(params, updates), updates, state

  params, state, seen = variables.params, tx.init(variables.params), []
  for i in range(4):
    noise = lambda x, i=i: 0.3 * jax.random.normal(jax.random.key(i), x.shape)
    given = jax.tree.map(noise, params)
    params, updates, state = step(given, params, state)
    seen.append((params, updates, given, state))
  return apply, variables, seen


def test_the_bound_holds_after_every_second_step():
  apply, variables, seen = trained()
  for i, (params, _, _, state) in enumerate(seen):
    true = true_norms(apply, variables._replace(params=params))
    del true['head']
    sigma = np.asarray(state[-1].sigma)
    if i % 2 == 0:
      assert max(true.values()) <= 1.001
      np.testing.assert_allclose(sigma, list(true.values()), rtol=1e-3)
    else:
      assert max(true.values()) > 1.001
      assert np.all(sigma <= np.asarray(list(true.values())) * (1 + 1e-4))
      assert np.max(sigma) > 1.001


def test_other_updates_pass_as_they_are():
  seen = trained()[2]
  for i, (_, updates, given, _) in enumerate(seen):
    assert equal(updates, given) == (i % 2 == 1)
    for path in ('first', 'norm', 'head'):
      assert equal(updates[path]['bias'], given[path]['bias'])


def test_missing_statistics_and_parameters_get_one_line():
  apply, variables = network(Small(), SHAPE)
  layers = spectral.find_layers(apply, variables, SHAPE)
  tx = spectral.clip_spectral_norm(layers, 1.0, 1)
  params = variables.params
  with pytest.raises(errors.UserError, match='batch_stats'):
    tx.update(params, tx.init(params), params)
  with pytest.raises(errors.UserError, match='params'):
    tx.update(params, tx.init(params))
