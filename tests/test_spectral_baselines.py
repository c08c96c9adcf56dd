"""FFT, Gram iteration, reshaped kernels, division, and the report."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from spectral_case import Small, network, only, sigmas

from cmu_jax.core import errors, jit
from cmu_jax.core.types import Variables
from cmu_jax.networks import conv, layers
from cmu_jax.robustness import spectral
from experiments import spectral_baselines

pytestmark = pytest.mark.usefixtures('quick_compilation')

KERNEL = jax.random.normal(jax.random.key(0), (3, 3, 2, 3))


def wrapped(x):
  """A convolution on a grid that wraps around."""
  wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='wrap')
  return conv.convolve(wide, KERNEL, (1, 1), 'VALID')


def padded(x):
  return conv.convolve(x, KERNEL, (1, 1), 'SAME')


@functools.cache
def norms():
  return {
    'zero': sigmas(padded, (5, 5, 2))[0],
    'circular': np.sort(
      spectral_baselines.circular_singular_values(KERNEL, (7, 7)).ravel()
    ),
    'fine': spectral_baselines.circular_singular_values(KERNEL, (64, 64)).max(),
  }


def test_the_fft_has_all_singular_values_of_a_circular_convolution():
  true = np.sort(sigmas(wrapped, (7, 7, 2)))
  np.testing.assert_allclose(norms()['circular'], true, rtol=1e-4)


def test_zero_padding_is_below_the_circle_below_all_frequencies():
  seen = norms()
  assert seen['zero'] <= seen['circular'][-1] * (1 + 1e-5)
  assert seen['circular'][-1] <= seen['fine'] * (1 + 1e-3)


@pytest.mark.parametrize('iterations', (1, 6))
def test_gram_iteration_is_an_upper_bound_that_closes_in(iterations):
  bound = spectral_baselines.gram_upper_bound(
    KERNEL, (7, 7), iterations=iterations
  )
  true = norms()['circular'][-1]
  assert bound >= true * (1 - 1e-6)
  assert bound <= true * (1.01 if iterations == 6 else 2)


def test_gram_iteration_of_large_and_zero_kernels_is_finite():
  for factor in (0.0, 1e12):
    bound = spectral_baselines.gram_upper_bound(KERNEL * factor, (7, 7))
    np.testing.assert_allclose(
      bound, norms()['circular'][-1] * factor, rtol=1e-2, atol=1e-6
    )


def test_a_reshaped_kernel_bounds_the_norm_up_to_its_window():
  sigma, vector = spectral_baselines.reshaped_norm(
    jax.random.key(1), KERNEL, iterations=200
  )
  matrix = np.asarray(KERNEL).reshape(-1, 3)
  np.testing.assert_allclose(sigma, np.linalg.svd(matrix)[1][0], rtol=1e-5)
  assert norms()['zero'] <= 3 * sigma
  warm, _ = spectral_baselines.reshaped_norm(
    jax.random.key(2), KERNEL, start=vector
  )
  np.testing.assert_allclose(warm, sigma, rtol=1e-5)


def test_division_brings_the_measured_norm_to_the_bound():
  layer, _ = only(layers.Conv(3), (5, 5, 2))
  own = {'kernel': KERNEL}
  run = jit.compile_cheaply(
    lambda key, own: spectral_baselines.divide_by_norm(
      key, layer, own, 1.0, iterations=200
    )
  )
  done, found = run(jax.random.key(0), own)
  np.testing.assert_allclose(done['kernel'], KERNEL / found.sigma[0], rtol=1e-5)
  again, low = run(jax.random.key(1), {'kernel': 0.01 * KERNEL})
  assert low.sigma[0] < 1
  np.testing.assert_array_equal(again['kernel'], 0.01 * KERNEL)


def test_cutting_on_the_grid_leaves_the_window_above_the_bound():
  whole = spectral_baselines.clip_circular(KERNEL, (3, 3), 1.0)
  cut = spectral_baselines.circular_singular_values(whole, (3, 3))
  np.testing.assert_allclose(cut.max(), 1, rtol=1e-4)
  window = spectral_baselines.clip_circular(KERNEL, (8, 8), 1.0)
  assert window.shape == KERNEL.shape
  assert spectral_baselines.circular_singular_values(window, (8, 8)).max() > 1


def test_a_grid_below_the_kernel_gets_one_line():
  with pytest.raises(errors.UserError, match='smaller'):
    spectral_baselines.circular_singular_values(KERNEL, (2, 8))
  with pytest.raises(errors.UserError, match='iterations'):
    spectral_baselines.gram_upper_bound(KERNEL, (8, 8), iterations=0)


@pytest.mark.slow
def test_the_report_has_every_layer_and_the_joint_map(capsys):
  apply, variables = network(Small(), (6, 5, 3))
  rows = spectral.report_norms(apply, variables, (6, 5, 3), caption='no more')
  assert [(row['path'], row['kind']) for row in rows] == [
    ('first', 'conv'),
    ('norm', 'norm'),
    ('first', 'conv_norm'),
    ('head', 'dense'),
  ]
  by_kind = {row['kind']: row['sigma'] for row in rows[:3]}
  assert by_kind['conv_norm'] <= by_kind['conv'] * by_kind['norm']
  found = spectral.find_layers(apply, variables, (6, 5, 3))
  for layer in found:
    (row,) = [
      x for x in rows if (x['path'], x['kind']) == (layer.path, layer.kind)
    ]
    true = sigmas(spectral.bind_layer(layer, variables), layer.shape)[0]
    np.testing.assert_allclose(row['sigma'], true, rtol=1e-4)
  printed = capsys.readouterr().out
  assert 'first + norm' in printed
  assert printed.endswith('no more\n')
  assert f'{rows[0]["sigma"]:.4f}' in printed


def test_a_network_without_such_layers_gets_one_line():
  with pytest.raises(errors.UserError, match='flax'):
    spectral.report_norms(lambda v, x: x, Variables({}, {}), (2, 2, 1))
