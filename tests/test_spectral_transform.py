"""The optimiser part that keeps norms below a bound."""

import functools

import jax
import numpy as np
import optax
import pytest
from spectral_case import SHAPE, Small, equal, network, true_norms

from cmu_jax.core import errors, jit
from cmu_jax.robustness import spectral


@pytest.fixture(autouse=True)
def _compiled_cheaply():
  with jit.skip_optimizations(True):
    yield


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
