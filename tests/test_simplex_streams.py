"""Vertices read one at a time, transformations, warnings, wrong arguments."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_close
from simplex_case import X, case, chances, network

from cmu_jax.core import errors, tree
from cmu_jax.methods import simplex

SIZE = 300_000


def on_the_host(found):
  """The same simplex, its vectors read from NumPy arrays."""
  taus = jax.tree.map(np.asarray, found.taus)
  read = lambda i: jax.tree.map(lambda x: x[i], taus)
  return found.replace(taus=read, count=found.q)


@pytest.mark.parametrize(
  'method, options',
  [
    ('cubature2', {}),
    ('cubature3', {}),
    ('taylor2', {}),
    ('taylor2', {'directions': 2}),
    ('tangent', {'head': jnp.sin}),
    ('mc_cv', {'n': 3}),
  ],
)
def test_streamed_vertices_give_what_stacked_ones_give(method, options):
  found = case(3, 'float32')
  key = jax.random.key(3)
  pair = [
    simplex.simplex_ensemble(network, one, X, method=method, key=key, **options)
    for one in (found, on_the_host(found))
  ]
  assert_close(pair[1].value, pair[0].value, 1e-5)
  assert pair[0].visits == pair[1].visits
  if pair[0].variance is not None:
    assert_close(pair[1].variance, pair[0].variance, 1e-4)


def test_a_device_holds_three_times_the_parameters():
  q, bytes_of = 6, 4 * SIZE
  held, order = [], []
  taus = np.random.default_rng(0).normal(size=(q, SIZE)).astype(np.float32)

  def read(i):
    alive = sum(x.nbytes for x in jax.live_arrays() if x.nbytes >= bytes_of)
    held.append((alive - before) / bytes_of)
    order.append(i)
    return {'w': taus[i]}

  before = 0
  base = {'w': np.zeros(SIZE, np.float32)}
  found = simplex.TaskSimplex(base, read, 1.0, count=q)
  fn = lambda params: jnp.sum(jnp.tanh(params['w']))
  before = sum(x.nbytes for x in jax.live_arrays() if x.nbytes >= bytes_of)
  for method in ('cubature2', 'taylor2'):
    held.clear()
    order.clear()
    value = simplex.simplex_ensemble(fn, found, method=method).value
    # The centroid, the deviation before; the network adds its own point.
    assert max(held) <= 2
    assert order == [*range(q), *range(q)]  # Two passes.
  nodes, weights = simplex.simplex_weights(q, 'cubature2')
  expected = weights @ np.tanh(-nodes @ taus).sum(1)
  first = simplex.simplex_ensemble(fn, found).value
  assert abs(float(first) - expected) < 1e-3 * np.sqrt(SIZE)
  assert np.isfinite(value)


def test_the_program_of_a_vertex_needs_little_more():
  from cmu_jax.methods.simplex import geometry, visits

  found = simplex.TaskSimplex(
    {'w': jnp.zeros(SIZE)}, lambda i: {'w': np.ones(SIZE, np.float32)}, count=2
  )
  one = geometry.frame(found)
  fn = lambda params: jnp.sum(params['w'] * params['w'])
  visit = visits.value(fn, one.skeleton)
  given = (one.centre, one.deviation(0), 0, None, one.fixed, ())
  used = jax.jit(visit).lower(*given).compile().memory_analysis()
  total = used.argument_size_in_bytes + used.temp_size_in_bytes
  assert total <= 3.1 * 4 * SIZE


def test_it_can_be_jitted_mapped_and_differentiated():
  found = case(3, 'float32')
  plain = lambda scale, x: (
    simplex.simplex_ensemble(
      chances, found.replace(scale=scale), x, space='probabilities'
    ).value
  )
  scales = jnp.array([0.0, 0.4, 0.7])
  many = jax.jit(jax.vmap(plain, (0, None)))(scales, X)
  assert_close(many[2], plain(0.7, X), 1e-5)
  slope = jax.jit(jax.jacfwd(plain))(0.4, X)
  step = (plain(0.41, X) - plain(0.39, X)) / 0.02
  assert np.abs(slope - step).max() < 5e-3
  back = jax.grad(lambda s: plain(s, X)[0, 0])(0.4)
  assert_close(back, slope[0, 0], 1e-4)
  inside = jax.jit(
    lambda x: simplex.simplex_ensemble(
      chances, found, x, method='taylor2', space='probabilities'
    )
  )(X)
  assert inside.space == 'probabilities' and inside.method == 'taylor2'
  assert float(inside.spread) > 0 and float(inside.outside) >= 0


@pytest.mark.slow
def test_half_precision_is_summed_in_single():
  found = case(3, 'float32')
  half = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16) if tree.is_float(x) else x, found.base
  )
  one = found.replace(base=half)
  assert one.centroid()['head'].dtype == jnp.bfloat16
  for method in ('cubature2', 'taylor2'):
    got = simplex.simplex_ensemble(
      network, one, X.astype(jnp.bfloat16), method=method
    )
    assert got.value.dtype == jnp.float32
    exact = simplex.simplex_ensemble(network, found, X, method=method).value
    assert np.abs(got.value - exact).max() < 0.1


def test_wide_expansions_of_probabilities_are_warned_of():
  wide = case(3, 'float32', size=3.0)
  with pytest.warns(simplex.SimplexWarning, match='worse than the centroid'):
    got = simplex.simplex_ensemble(chances, wide, X, method='taylor2')
  assert float(got.spread) > 0.5
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    narrow = wide.replace(scale=0.02)
    got = simplex.simplex_ensemble(chances, narrow, X, method='taylor2')
    assert float(got.outside) == 0
    simplex.simplex_ensemble(network, wide, X, method='taylor2')
    simplex.simplex_ensemble(chances, wide, X, space='probabilities')
  # One at the centroid, one at a node of three: negative weights leave [0, 1].
  step = lambda params: jnp.stack(
    [f := jax.nn.sigmoid(40 * params['w']), 1 - f]
  )
  steep = simplex.TaskSimplex(
    {'w': jnp.float32(0)}, {'w': jnp.array([-2.6, 1.0, 1.0])}
  )
  with pytest.warns(simplex.SimplexWarning, match='outside of'):
    got = simplex.simplex_ensemble(
      step, steep, method='cubature3', space='probabilities'
    )
  assert float(got.outside) == 1
  assert abs(float(got.value.sum()) - 1) < 1e-5


def test_unusable_arguments_are_named():
  found = case(3, 'float32')
  run = simplex.simplex_ensemble
  short = jax.tree.map(lambda x: x[:, :1] if x.ndim > 1 else x, found.taus)
  uneven = {**found.taus, 'head': found.taus['head'][:2]}
  for one, options, message in (
    (found, {'method': 'cubature'}, "did you mean 'cubature"),
    (found, {'space': 'logit'}, "did you mean 'logits'"),
    (found, {'degre': 3}, "did you mean 'degree'"),
    (found, {'method': 'mc'}, 'give it a key'),
    (found, {'method': 'tangent', 'anchor': 'here'}, 'unknown anchor'),
    (found.replace(taus=short), {}, 'has shape'),
    (found.replace(taus=uneven), {}, 'are mixed'),
    (found.replace(taus={'head': 0}), {}, 'no floating-point'),
    (found.replace(alpha=jnp.ones(2)), {}, 'alpha has shape'),
    (found.replace(alpha=jnp.zeros(3)), {}, 'above 0'),
    (found.replace(taus=lambda i: 0), {}, 'their count'),
    (found.replace(taus=lambda i: found.base['body'], count=2), {}, 'differ'),
  ):
    with pytest.raises(errors.UserError, match=message):
      run(network, one, X, **options)
  stream = on_the_host(found)
  with pytest.raises(errors.UserError, match='outside of jit'):
    jax.jit(lambda s: run(network, stream.replace(scale=s), X).value)(0.5)
