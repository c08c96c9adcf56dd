"""Monte Carlo, distances and linearised networks of a simplex."""

import jax
import numpy as np
import pytest
from close import assert_close
from simplex_case import (
  X,
  case,
  chances,
  corners_of,
  mean,
  moment,
  network,
  points,
)


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize('seed', range(3))
def test_monte_carlo_finds_the_fine_rule(seed):
  found = case(size=0.5, seed=seed)
  fine = mean(chances, found, X, method='grundmann_moeller', degree=11).value
  key = jax.random.key(seed)
  with_control = mean(chances, found, X, method='mc_cv', n=4000, key=key)
  plain = mean(chances, found, X, method='mc', n=4000, key=key)
  for sampled in (with_control, plain):
    assert (np.abs(sampled.value - fine) < 4.5 * sampled.error).all()
  assert with_control.error.mean() < plain.error.mean()


def test_distances_and_angles_of_the_simplex():
  found = points()
  corners = corners_of(found)
  assert_close(found.vertices()['w'], corners, 1e-14)
  d = corners - corners.mean(0)
  assert_close(found.gram(), d @ d.T, 1e-12)
  radius = np.sqrt((d**2).sum() / (4 * 5))
  assert_close(found.radius(), radius, 1e-12)
  rows = np.asarray(found.sample(jax.random.key(0), 20000))
  away = ((rows @ corners - corners.mean(0)) ** 2).sum(1)
  assert abs(away.mean() - radius**2) < 4.5 * away.std() / np.sqrt(20000)
  w = np.array([0.5, 0.25, 0.25, 0.0])
  assert_close(found.point(w)['w'], w @ corners, 1e-12)
  assert abs(moment(np.arange(4.0), 1) - 1.5) < 1e-12


def test_the_tangent_is_first_order_with_its_head_exact():
  found = case(size=0.3)
  softmax = lambda z: jax.nn.softmax(z, axis=-1)
  assert_close(
    mean(network, found, X, method='tangent').value,
    network(found.centroid(), X),
    1e-12,
  )
  # A network that is linear in its parameters is its own tangent.
  linear = lambda params, x: x @ params['body']['kernel']
  fine = mean(
    lambda p, x: softmax(linear(p, x)), found, X,
    method='grundmann_moeller', degree=11,
  ).value  # fmt: skip
  for anchor in ('centroid', 'base'):
    value = mean(
      linear, found, X, method='tangent', head=softmax, degree=11, anchor=anchor
    ).value
    assert_close(value, fine, 1e-10)
  at_base = mean(network, found, X, method='tangent', anchor='base').value
  slope = jax.jvp(
    lambda k: network({**found.base, 'head': k}, X),
    (found.base['head'],),
    (-0.7 * found.taus['head'].mean(0),),
  )
  rest = {'body': jax.tree.map(lambda x: -0.7 * x.mean(0), found.taus['body'])}
  other = jax.jvp(
    lambda b: network({**found.base, 'body': b}, X),
    (found.base['body'],),
    (rest['body'],),
  )
  assert_close(at_base, slope[0] + slope[1] + other[1], 1e-12)
