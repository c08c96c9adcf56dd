"""The mean over a simplex of networks, against closed forms and references."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_close
from simplex_case import (
  X,
  at,
  case,
  chances,
  corners_of,
  mean,
  network,
  points,
  polynomials,
  rows,
  values,
)

from cmu_jax.core import errors
from cmu_jax.methods import simplex


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def test_one_vertex_is_one_network():
  one = points(1)
  for method, value in values(polynomials, one).items():
    expected = at(corners_of(one)[0])
    np.testing.assert_allclose(value, expected, rtol=1e-14, err_msg=method)


def test_equal_vertices_and_no_strength_change_nothing():
  found = points()
  same = {'w': jnp.broadcast_to(found.taus['w'][:1], (4, 6))}
  for flat, point in (
    (found.replace(taus=same), corners_of(found)[0]),
    (found.replace(scale=0.0), found.base['w']),
  ):
    for method, value in values(polynomials, flat).items():
      np.testing.assert_allclose(value, at(point), rtol=1e-12, err_msg=method)


def test_a_common_shift_and_the_order_of_vertices():
  found, delta = points(), np.cos(np.arange(6.0))
  before = values(polynomials, found)
  permuted = found.replace(taus={'w': found.taus['w'][np.array([2, 0, 3, 1])]})
  for method in simplex.METHODS:
    if not method.startswith('mc'):  # Its draws are of positions.
      value = mean(polynomials, permuted, method=method).value
      assert_close(value, before[method], 1e-12)
  moved = found.replace(base={'w': found.base['w'] + delta})
  back = lambda params: polynomials({'w': params['w'] - delta})
  for method in ('cubature2', 'taylor2'):
    value = mean(back, moved, method=method).value
    assert_close(value, before[method], 1e-12)


def control_points(degree, corners):
  """The mean over all symmetrised products of vertices (Bezier form)."""
  slopes, shifts = rows()
  scores = slopes[:degree] @ corners.T + shifts[:degree, None]
  choices = itertools.combinations_with_replacement(range(4), degree)
  return np.mean(
    [
      np.mean(
        [
          np.prod(scores[np.arange(degree), np.array(order)])
          for order in itertools.permutations(chosen)
        ]
      )
      for chosen in choices
    ]
  )


EXACT = {
  'centroid': 1,
  'vertices': 1,
  'tangent': 1,
  'cubature2': 2,
  'taylor2': 2,
  'cubature3': 3,
  'taylor3': 3,
  'grundmann_moeller': 3,
}


def test_polynomials_of_the_weights():
  found = points()
  corners = corners_of(found)
  expected = [control_points(degree, corners) for degree in (1, 2, 3)]
  got = values(polynomials, found, methods=EXACT)
  for method, degree in EXACT.items():
    right = np.abs(got[method] - np.array(expected)) < 1e-11
    assert right.tolist() == [k <= degree for k in (1, 2, 3)], method
  slopes, shifts = rows()
  scores = slopes[:2] @ corners.T + shifts[:2, None]
  pairs = scores[0].sum() * scores[1].sum() + scores[0] @ scores[1]
  assert abs(pairs / (4 * 5) - expected[1]) < 1e-12
  fourth = mean(polynomials, found, method='vertices')
  assert fourth.visits == 4 and fourth.space == 'outputs'


@pytest.mark.slow
def test_dirichlet_weights_with_other_alphas():
  alpha = np.array([0.5, 2.0, 1.0, 3.5])
  found = points().replace(alpha=jnp.asarray(alpha))
  a = corners_of(found)[:, 0]
  fn = lambda params: params['w'][0] ** 3 + 0 * params['w'].sum()
  p = [float(np.sum(alpha * a**k)) for k in (1, 2, 3)]
  total = alpha.sum()
  cube = p[0] ** 3 + 3 * p[0] * p[1] + 2 * p[2]
  expected = cube / (total * (total + 1) * (total + 2))
  for method in ('taylor3', 'cubature3'):
    assert abs(float(mean(fn, found, method=method).value) - expected) < 1e-12
  square = lambda params: params['w'][0] ** 2
  expected = (p[0] ** 2 + p[1]) / (total * (total + 1))
  for method, options in (
    ('taylor2', {}),
    ('taylor2', {'directions': 'helmert'}),
    ('cubature2', {}),
  ):
    value = mean(square, found, method=method, **options).value
    assert abs(float(value) - expected) < 1e-12
  sampled = mean(square, found, method='mc_cv', n=4000)
  assert abs(sampled.value - expected) < 4.5 * sampled.error
  with pytest.raises(errors.UserError, match='leave alpha out'):
    mean(square, found, method='grundmann_moeller')


def test_three_ways_to_the_second_order():
  found = case()
  expected = mean(network, found, X, method='taylor2')
  helmert = mean(network, found, X, method='taylor2', directions='helmert')
  assert_close(helmert.value, expected.value, 1e-12)
  assert_close(helmert.variance, expected.variance, 1e-12)
  one = points()
  hessian = jax.hessian(lambda w: polynomials({'w': w})[2])
  corners = corners_of(one)
  bends = np.asarray(hessian(jnp.asarray(corners.mean(0))))
  d = corners - corners.mean(0)
  value = at(corners.mean(0))[2] + np.einsum('qi,ij,qj', d, bends, d) / 40
  second = mean(polynomials, one, method='taylor2').value
  assert abs(float(second[2]) - value) < 1e-12


@pytest.mark.slow
def test_leading_directions_come_closer_with_their_number():
  found = case()
  whole = mean(network, found, X, method='taylor2').value
  middle = mean(network, found, X, method='centroid').value
  gaps = [
    np.abs(
      mean(network, found, X, method='taylor2', directions=r).variance
      - mean(network, found, X, method='taylor2').variance
    ).max()
    for r in (1, 2, 3)
  ]
  assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-13
  full = mean(network, found, X, method='taylor2', directions=3).value
  assert np.abs(full - whole).max() < 1e-13 < np.abs(middle - whole).max()
  with pytest.raises(errors.UserError, match='none of'):
    mean(network, found, X, method='taylor2', directions='hadamard')


def test_errors_fall_with_the_radius_as_their_orders_say():
  radii = 0.5 * 0.5 ** np.arange(4)
  found = case(size=1.0)
  orders = {
    'centroid': 2, 'taylor2': 3, 'taylor3': 4, 'cubature2': 3, 'cubature3': 4,
  }  # fmt: skip
  apart = jax.tree.map(
    lambda x: x - x.mean(0)[None] if x.dtype == float else x, found.taus
  )

  def along(method, **options):
    at = lambda radius: (
      mean(
        network,
        found.replace(taus=apart, scale=radius),
        X,
        method=method,
        **options,
      ).value
    )
    return jax.jit(jax.vmap(at))(jnp.asarray(radii))

  exact = along('grundmann_moeller', degree=13)
  for method, order in orders.items():
    error = np.sqrt(np.mean((along(method) - exact) ** 2, axis=(1, 2)))
    slope = np.polyfit(np.log(radii), np.log(error), 1)[0]
    assert abs(slope - order) < 0.35, (method, slope)


def test_the_correction_of_independent_vertices():
  q, draws, size = 3, 20000, 4
  rng = np.random.default_rng(0)
  root = rng.normal(size=(size, size))
  hessian = root @ root.T
  mix = rng.normal(size=(size, size))
  taus = rng.normal(size=(draws, q, size)) @ mix.T
  fn = lambda params: params['w'] @ hessian @ params['w'] / 2
  base = {'w': jnp.zeros(size)}

  def correction(rows):
    one = simplex.TaskSimplex(base, {'w': rows})
    found = mean(fn, one, method='taylor2').value
    return found - mean(fn, one, method='centroid').value

  got = np.asarray(jax.jit(jax.vmap(correction))(jnp.asarray(taus)))
  law = (q - 1) / (2 * q * (q + 1)) * np.trace(hessian @ mix @ mix.T)
  assert abs(got.mean() - law) < 4.5 * got.std() / np.sqrt(draws)
  assert abs(law) > 20 * got.std() / np.sqrt(draws)


def test_means_of_probabilities_are_probabilities():
  found = case(size=1.5)
  methods = ('cubature2', 'taylor3', 'grundmann_moeller', 'mc_cv')
  options = {'mc_cv': {'n': 4000}, 'grundmann_moeller': {'degree': 11}}
  got = {
    method: mean(
      chances, found, X, method=method, **options.get(method, {})
    ).value
    for method in methods
  }
  for method, value in got.items():
    np.testing.assert_allclose(value.sum(-1), 1, rtol=1e-12, err_msg=method)
  assert got['cubature2'].min() >= 0 and got['cubature2'].max() <= 1
