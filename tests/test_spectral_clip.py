"""Clipping: every guarantee of `clip_weights`."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import numpy as jnp
from spectral_case import (
  SHAPE,
  Small,
  equal,
  network,
  sigmas,
  true_norms,
)

from cmu_jax.core import errors, jit
from cmu_jax.core.types import Batch, Variables
from cmu_jax.networks import conv
from cmu_jax.robustness import spectral
from cmu_jax.robustness.spectral import clipping

pytestmark = pytest.mark.usefixtures('quick_compilation')

BOUND = 0.8


@functools.cache
def case():
  """A small network, and what the clip makes of it."""
  apply, variables = network(Small(), SHAPE)
  # One layer is within the bound from the start.
  params = {**variables.params, 'head': _halved(variables.params['head'])}
  variables = variables._replace(params=params)
  image = jax.random.normal(jax.random.key(1), (30, *SHAPE), jnp.float32)
  label = jnp.argmax(apply(variables, image), 1).astype(jnp.int32)
  done, info = spectral.clip_weights(
    jax.random.key(0),
    apply,
    variables,
    SHAPE,
    BOUND,
    data=spectral.ClipData(batch=Batch(image, label)),
  )
  return apply, variables, done, info


def _halved(params):
  return {**params, 'kernel': 0.05 * params['kernel']}


def test_every_norm_is_within_the_bound_by_a_dense_svd():
  apply, variables, done, info = case()
  before, after = true_norms(apply, variables), true_norms(apply, done)
  assert max(after.values()) <= BOUND * 1.001
  for row in info['layers']:
    np.testing.assert_allclose(row['before'], before[row['path']], rtol=1e-4)
    np.testing.assert_allclose(row['after'], after[row['path']], rtol=1e-4)


def test_a_second_call_changes_nothing():
  apply, _, done, _ = case()
  again, info = spectral.clip_weights(
    jax.random.key(7), apply, done, SHAPE, BOUND
  )
  assert equal(again, done)
  assert [row['rounds'] for row in info['layers']] == [0, 0, 0]
  assert info['accuracy'] is None


def test_untouched_parts_and_the_tree_stay():
  _, variables, done, info = case()
  assert jax.tree.structure(variables) == jax.tree.structure(done)
  for path in ('first', 'norm', 'head'):
    old, new = variables.params[path], done.params[path]
    assert equal(old['bias'], new['bias'])
    name = 'scale' if path == 'norm' else 'kernel'
    assert equal(old[name], new[name]) == (path == 'head')
  assert equal(variables.batch_stats, done.batch_stats)
  rows = {row['path']: row for row in info['layers']}
  assert rows['first']['rounds'] > 0
  assert rows['first']['factor'] == 1


def test_accuracies_are_reported_next_to_those_of_rescaling():
  accuracy = case()[3]['accuracy']
  assert accuracy['before'] == 1
  assert set(accuracy) == {'before', 'after', 'rescaled'}


def test_batch_norm_is_cut_where_it_was_above():
  _, variables, done, _ = case()
  var = variables.batch_stats['norm']['var']
  limit = np.asarray(BOUND * np.sqrt(var + 1e-5))
  old = np.asarray(variables.params['norm']['scale'])
  np.testing.assert_allclose(
    done.params['norm']['scale'], np.clip(old, -limit, limit), rtol=1e-6
  )


def test_a_dense_kernel_keeps_its_other_singular_values():
  apply, variables = network(nn.Dense(5), (7,))
  done, _ = spectral.clip_weights(
    jax.random.key(0), apply, variables, (7,), 1.0
  )
  old = np.linalg.svd(variables.params['kernel'])[1]
  new = np.linalg.svd(done.params['kernel'])[1]
  np.testing.assert_allclose(new, np.minimum(old, 1), atol=1e-5)


def test_low_precision_stays_and_is_within_the_bound():
  apply, variables = network(nn.Dense(5), SHAPE)
  low = variables._replace(
    params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables.params)
  )
  done, _ = spectral.clip_weights(jax.random.key(0), apply, low, SHAPE, 1.0)
  assert done.params['kernel'].dtype == jnp.bfloat16
  assert true_norms(apply, done)[''] <= 1.001


def test_without_rounds_a_kernel_is_rescaled():
  apply, variables, _, _ = case()
  layers = spectral.find_layers(apply, variables, SHAPE)[:1]
  done, info = spectral.clip_weights(
    jax.random.key(0),
    apply,
    variables,
    SHAPE,
    1.0,
    layers=layers,
    settings=spectral.ClipSettings(rounds=0),
  )
  old, new = (x.params['first']['kernel'] for x in (variables, done))
  factor = 1 / true_norms(apply, variables)['first']
  np.testing.assert_allclose(new, old * factor, rtol=1e-4)
  np.testing.assert_allclose(info['layers'][0]['factor'], factor, rtol=1e-4)


@pytest.mark.slow
def test_a_convolution_and_its_batch_norm_as_one_map():
  apply, variables, _, _ = case()
  found = spectral.find_layers(apply, variables, SHAPE)
  (both,) = spectral.joint_layers(found)
  done, _ = spectral.clip_weights(
    jax.random.key(0), apply, variables, SHAPE, 1.0, layers=(both, found[0])
  )
  for layer in (both, found[0]):
    true = sigmas(spectral.bind_layer(layer, done), SHAPE)[0]
    assert true <= 1.001
  assert equal(done.params['norm'], variables.params['norm'])


def _descend(scale, rounds=40):
  """40 rounds of the authors' step on an 8x8 convolution, from norm 5.25."""
  kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 4), jnp.float32)
  run = lambda w, x: conv.convolve(x, w, (1, 1), 'SAME')

  def spectrum(w, start, iterations):
    return spectral.power_qr(
      jax.random.key(1),
      lambda x: run(w, x),
      (8, 8, 3),
      iterations=iterations,
      start=start,
    )

  def round_(_, held):
    w, found = held
    image = run(w, found.vector)
    target = image / found.sigma[0]
    slope = lambda w: jax.grad(clipping.descent_objective, 1)(
      run, w, found.vector, target
    )
    for _ in range(5):
      w = w - 0.35 * scale * slope(w)
    return w, spectrum(w, found.vector, 10)

  def go(kernel):
    found = spectrum(kernel, None, 100)
    kernel = kernel * 5.25 / found.sigma[0]
    begin = (kernel, spectrum(kernel, found.vector, 1))
    w = jax.lax.fori_loop(0, rounds, round_, begin)[0]
    return spectrum(w, None, 500).sigma[0]

  return float(jit.compile_cheaply(go)(kernel))


def test_the_division_by_the_width_is_load_bearing():
  assert _descend(1.0) <= 1.1
  assert not _descend(8.0) <= 5.25


@pytest.mark.parametrize(('rate', 'rounds'), ((0.5, 1), (0.35, 5)))
def test_descent_on_a_dense_kernel_has_the_closed_form(rate, rounds):
  kernel = jax.random.normal(jax.random.key(0), (6, 4))
  u, s, v = np.linalg.svd(kernel)
  vector = jnp.asarray(u[:, :1].T)[:, None]
  run = lambda w, x: x @ w
  w, image = kernel, run(kernel, vector)
  for _ in range(rounds):
    slope = jax.grad(clipping.descent_objective, 1)(
      run, w, vector, image / s[0]
    )
    w = w - rate * slope
  expected = 1 + (1 - 2 * rate) ** rounds * (s[0] - 1)
  new = np.linalg.norm(vector[:, 0] @ w)
  np.testing.assert_allclose(new, expected, rtol=1e-5)
  others = np.linalg.svd(w - np.outer(u[:, 0], v[0]) * new)[1]
  np.testing.assert_allclose(others[:3], s[1:], rtol=1e-4)


@pytest.mark.parametrize(
  'options',
  (
    {'bound': 0.0},
    {'bound': float('nan')},
    {'settings': spectral.ClipSettings(tolerance=0.0)},
    {'settings': spectral.ClipSettings(rounds=-1)},
    {'settings': spectral.ClipSettings(directions=0)},
    {'settings': spectral.ClipSettings(steps=0)},
    {'settings': spectral.ClipSettings(rate=0.0)},
    {'layers': ()},
  ),
)
def test_settings_that_cannot_be_get_one_line(options):
  apply, variables, _, _ = case()
  options = {'bound': 1.0, **options}
  with pytest.raises(errors.UserError) as caught:
    spectral.clip_weights(jax.random.key(0), apply, variables, SHAPE, **options)
  assert '\n' not in str(caught.value)


def test_a_network_without_linen_layers_gets_one_line():
  apply = lambda variables, x: x @ variables.params['w']
  variables = Variables({'w': jnp.ones((3, 2))}, {})
  with pytest.raises(errors.UserError, match='flax'):
    spectral.clip_weights(jax.random.key(0), apply, variables, (3,), 1.0)
