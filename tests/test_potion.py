"""Potion: where its search stops, beside a search by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ssd_case import AUGMENTED, assert_close, linear, look, pair
from ssd_case import given as some_given

from cmu_jax.core.types import Network
from cmu_jax.methods.dampening import importance, potion, ssd

KEY = jax.random.key(0)
RHOS = (0.95, 0.9, 0.85, 0.8, 0.7, 0.0)


def _fitted(seen):
  """The linear network with the samples' own labels as predictions."""
  model, state = linear()
  image = look(seen.batch.image, seen.batch.has_trigger)
  label = np.eye(3)[np.asarray(seen.batch.label)]
  kernel = np.linalg.lstsq(np.asarray(image).reshape(len(image), -1), label)[0]
  params = {'head': {'kernel': jnp.asarray(kernel, jnp.float32)}}
  return model, state._replace(params=params)


def _pixels(seen):
  image = look(seen.batch.image, seen.batch.has_trigger)
  return np.asarray(image).reshape(len(image), -1)


def _pair(state, seed):
  """Importances of which most are larger on S_f."""
  both = pair(state.params, seed, zeros=False)
  return both._replace(forget=jax.tree.map(lambda x: 100 * x, both.forget))


def _brute_force(state, seen, both, rho, tries):
  """s -> 1.1 s until the accuracy on S_f is at most rho times the first."""
  kept, bad = (np.asarray(x['head']['kernel']) for x in both[:2])
  theta = np.asarray(state.params['head']['kernel'])
  pixels, label = _pixels(seen.forget), np.asarray(seen.forget.batch.label)
  r, s = bad / kept, 24 / 44 / 25
  for count in range(1, tries + 1):
    a = np.percentile(r, max(100 - np.log(1 + 100 * s), 0))
    params = np.where(bad > a * kept, np.minimum(kept / bad, 1) * theta, theta)
    if ((pixels @ params).argmax(-1) == label).mean() <= rho:
      return params, count, True
    if a <= 1:
      return params, count, False
    s *= 1.1
  return params, tries, False


@pytest.mark.parametrize('seed', [0, 3])
def test_the_search_stops_where_brute_force_does(seed):
  seen = some_given(forget=24)
  model, state = _fitted(seen.forget)
  both = _pair(state, seed)
  found = potion.search(Network(model, AUGMENTED), state, seen, both, 0.0, 400)
  assert float(found.original_accuracy) == 1
  method, counts = potion.potion(Network(model, AUGMENTED), rhos=RHOS), []
  solve = jax.jit(lambda hyper: method.solve(KEY, state, None, found, hyper))
  for point in method.grid:
    one, info = solve({name: jnp.float32(x) for name, x in point.items()})
    rho = point['potion_rho']
    params, tried, met = _brute_force(state, seen, both, rho, 400)
    counts.append(tried)
    assert bool(info['satisfied']) == met
    if met:
      assert int(info['tries']) == tried
    np.testing.assert_allclose(one.params['head']['kernel'], params, rtol=1e-4)
  assert len(set(counts)) >= 3


def test_a_rule_that_nothing_meets_ends_where_thresholds_stop_to_matter():
  seen = some_given()
  model, state = _fitted(seen.forget)
  both = importance.Importances(
    jax.tree.map(jnp.ones_like, state.params),
    jax.tree.map(lambda x: jnp.full_like(x, 0.5), state.params),
    jnp.int32(0),
  )
  found = potion.search(Network(model, AUGMENTED), state, seen, both, 0.0, 200)
  method = potion.potion(Network(model, AUGMENTED))
  one, info = method.solve(KEY, state, None, found, {'potion_rho': 0.0})
  assert not info['satisfied']
  assert int(found.networks) == 8
  assert_close(one, state)


def test_no_more_networks_are_tried_than_asked_for():
  seen = some_given()
  model, state = _fitted(seen.forget)
  both = pair(state.params, zeros=False)
  found = potion.search(Network(model, AUGMENTED), state, seen, both, -1.0, 11)
  assert int(found.networks) == 11
  assert np.isfinite(np.asarray(found.accuracy)).all()


def test_rows_of_s_f_that_are_not_valid_do_not_count():
  seen = some_given(forget=12)
  model, state = _fitted(seen.forget)
  valid = jnp.arange(12) % 2 == 0
  wrong = jnp.where(valid, seen.forget.batch.label, 9)
  part = seen.forget._replace(
    batch=seen.forget.batch._replace(label=wrong), valid=valid
  )
  both = pair(state.params, zeros=False)
  found = potion.search(
    Network(model, AUGMENTED), state, seen._replace(forget=part), both, 0.5, 3
  )
  assert float(found.original_accuracy) == 1


def test_the_method_takes_label_free_importances_once():
  seen = some_given()
  model, state = _fitted(seen.forget)
  method = potion.potion(Network(model, AUGMENTED), augment=False)
  assert method.elementwise
  assert {p['potion_rho'] for p in method.grid} == {
    0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 0.75
  }  # fmt: skip
  prepared = method.prepare(KEY, state, seen)
  measure = importance.ImportanceConfig(
    Network(model, AUGMENTED), 'xlf', augment=False
  )
  assert_close(
    prepared.importances.forget,
    importance.compute(KEY, measure, state, seen.forget),
  )
  rhos = {'potion_rho': jnp.asarray([0.75, 0.0])}
  found, info = jax.jit(
    lambda rhos: jax.lax.map(
      lambda h: method.solve(KEY, state, None, prepared, h), rhos
    )
  )(rhos)
  assert np.asarray(info['gradient_evaluations']).tolist() == [27, 27]
  assert info['tries'][0] <= info['tries'][1]
  last = jax.tree.map(lambda x: x[1], found)
  wanted = ssd.dampen(
    state.params, prepared.importances, info['threshold'][1], 1.0
  )
  assert_close(last.params, wanted)
