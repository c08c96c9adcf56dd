"""SSD and ASSD: closed forms, the grid, what I_r is over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ssd_case import AUGMENTED, assert_close, linear, pair
from ssd_case import given as some_given

from cmu_jax.core import errors
from cmu_jax.core.types import Network
from cmu_jax.methods.dampening import importance, ssd

KEY = jax.random.key(0)
PARAMS = {
  'a': jnp.asarray(np.random.default_rng(1).normal(size=(40, 3)), jnp.float32),
  'b': jnp.linspace(-2, 2, 50),
}
dampen = jax.jit(ssd.dampen)


def _equal(one, two):
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_an_infinite_selection_weight_is_the_identity():
  _equal(dampen(PARAMS, pair(PARAMS), jnp.inf, 1.0), PARAMS)


@settings(max_examples=20, deadline=None)
@given(
  st.floats(0.01, 1e6),
  st.floats(1e-3, 1),
  st.floats(1e-3, 1),
  st.integers(0, 9),
)
def test_from_gamma_on_the_selection_weight_does_not_matter(
  gamma, first, second, seed
):
  both = pair(PARAMS, seed)
  one = dampen(PARAMS, both, first * gamma, gamma)
  _equal(one, dampen(PARAMS, both, second * gamma, gamma))
  _equal(one, dampen(PARAMS, both, gamma, gamma))


@pytest.mark.parametrize(
  ('weight', 'gamma'), [(1.0, 0.5), (10.0, 1.0), (0.1, 1.0)]
)
def test_the_update_in_numpy(weight, gamma):
  both = pair(PARAMS)
  found = dampen(PARAMS, both, weight, gamma)
  for name, theta in PARAMS.items():
    kept = np.asarray(both.retain[name], np.float64)
    bad = np.asarray(both.forget[name], np.float64)
    wanted = np.array(theta, np.float64)
    chosen = bad > weight * kept
    assert 0.05 < chosen.mean() < 0.95
    beta = np.minimum(gamma * kept[chosen] / bad[chosen], 1)
    wanted[chosen] *= beta
    np.testing.assert_allclose(found[name], wanted, rtol=1e-5)


def test_importances_of_zero():
  zero, one = jnp.zeros(1), jnp.ones(1)
  found = [
    float(
      dampen(one, importance.Importances(kept, bad, jnp.int32(0)), 1.0, 0.5)[0]
    )
    for kept, bad in [(zero, zero), (zero, one), (one, zero), (one, 4 * one)]
  ]
  assert found == [1, 0, 1, 0.125]


def test_39_of_the_50_published_points_differ():
  points = ssd.published_grid()
  found, positions = ssd.distinct_points(points)
  assert (len(points), len(found), len(set(positions))) == (50, 39, 39)
  assert len({tuple(p.values()) for p in points}) == 50
  whole = [p['ssd_dampening'] >= p['ssd_selection_weight'] for p in found]
  assert sum(whole) == 19
  both = pair(PARAMS)
  results = [dampen(PARAMS, both, *p.values()) for p in points]
  for result, position in zip(results, positions, strict=True):
    _equal(result, dampen(PARAMS, both, *found[position].values()))


def test_no_two_distinct_points_agree():
  both = pair({'a': jnp.ones(4000)}, zeros=False)
  ones = {'a': jnp.ones(4000)}
  wide = importance.Importances(
    jax.tree.map(lambda x: x / 1e3, both.retain), both.forget, both.cost
  )
  seen = {
    np.asarray(dampen(ones, wide, *p.values())['a']).tobytes()
    for p in ssd.default_grid()
  }
  assert len(seen) == 39


def test_the_default_is_that_of_the_ssd_paper():
  grid = ssd.default_grid()
  assert grid[0] == {'ssd_selection_weight': 10.0, 'ssd_dampening': 1.0}
  assert len(grid) == 39
  model, _ = linear()
  assert ssd.ssd(Network(model, AUGMENTED)).grid == grid


def _method(factory, **options):
  model, state = linear()
  options = {'kind': 'per_sample', 'augment': False, **options}
  return factory(Network(model, AUGMENTED), **options), state


def test_a_whole_grid_is_one_program():
  method, state = _method(ssd.ssd)
  seen = some_given()
  assert method.elementwise
  prepared = method.prepare(KEY, state, seen)
  hyper = {
    name: jnp.asarray([point[name] for point in method.grid])
    for name in method.grid[0]
  }
  found, info = jax.jit(
    lambda hyper: jax.lax.map(
      lambda h: method.solve(KEY, state, None, prepared, h), hyper
    )
  )(hyper)
  assert np.asarray(info['gradient_evaluations']).tolist() == [27] * 39
  for i in (0, 7, 38):
    one, _ = method.solve(KEY, state, None, prepared, method.grid[i])
    assert_close(jax.tree.map(lambda x, i=i: x[i], found), one)
    assert_close(one.params, dampen(state.params, prepared, *_point(method, i)))
    _equal(one.batch_stats, state.batch_stats)


def _point(method, i):
  return method.grid[i].values()


def test_the_denominator_is_the_retained_or_the_full_set():
  seen = some_given()
  retain, state = _method(ssd.ssd)
  full, _ = _method(ssd.ssd, denominator='full')
  one = retain.prepare(KEY, state, seen)
  two = full.prepare(KEY, state, seen)
  assert (int(one.cost), int(two.cost)) == (27, 34)
  _equal(one.forget, two.forget)
  joined = jax.tree.map(
    lambda a, b: (20 * a + 7 * b) / 27, one.retain, one.forget
  )
  assert_close(two.retain, joined)


def test_an_unknown_denominator_is_named():
  method, state = _method(ssd.ssd, denominator='ful')
  with pytest.raises(errors.UserError, match="'ful': did you mean 'full'"):
    method.prepare(KEY, state, some_given())


@pytest.mark.parametrize('share', [0.0, 0.001, 0.01, 0.3, 1.0])
def test_the_percentile_is_that_of_numpy(share):
  falling = ssd.sorted_ratios(pair(PARAMS))
  assert falling.shape == (170,)
  kept, bad = (
    np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(t)])
    for t in pair(PARAMS)[:2]
  )
  plain = np.zeros(170)
  np.divide(bad, kept, out=plain, where=kept > 0)
  plain[(kept == 0) & (bad > 0)] = np.finfo(np.float32).max
  found = jax.jit(ssd.percentile)(falling, jnp.float32(share))
  wanted = np.percentile(plain, 100 - np.log(1 + 100 * share))
  np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_the_percentile_of_millions_is_exact():
  falling = jnp.arange(3_000_001, 0, -1, dtype=jnp.float32)
  found = float(ssd.percentile(falling, jnp.float32(0.01)))
  wanted = 1 + 3e6 * (1 - np.log(2) / 100)
  assert abs(found - wanted) < 0.5


def test_assd_dampens_from_its_threshold_on():
  method, state = _method(ssd.assd)
  seen = some_given()
  prepared = method.prepare(KEY, state, seen)
  found, info = method.solve(KEY, state, seen, prepared, {})
  ratio = np.asarray(
    prepared[0].forget['head']['kernel'] / prepared[0].retain['head']['kernel']
  )
  wanted = np.percentile(ratio, 100 - np.log(1 + 100 * 7 / 27))
  np.testing.assert_allclose(info['threshold'], wanted, rtol=1e-5)
  assert info['gradient_evaluations'] == 27
  before = np.asarray(state.params['head']['kernel'])
  beta = np.where(ratio > wanted, np.minimum(1 / ratio, 1), 1)
  np.testing.assert_allclose(
    found.params['head']['kernel'], beta * before, rtol=1e-5
  )
  assert (beta < 1).any()
