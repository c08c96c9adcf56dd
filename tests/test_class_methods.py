"""Baselines that edit weights to forget a class: projection and masking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import unlearning_case as case

from cmu_jax.core import errors
from cmu_jax.core.types import MethodInputs, Network
from cmu_jax.methods import trw
from cmu_jax.methods.projection import activations, svd_projection


def forget_given(label=1):
  problem = case.given()
  forget = problem.forget
  only = forget.batch._replace(label=jnp.full_like(forget.batch.label, label))
  return problem._replace(forget=forget._replace(batch=only))


def solved(method, given):
  start = case.network()[1]
  prepared = method.prepare(case.KEY, start, given)
  return method.solve(case.KEY, start, given, prepared, method.grid[0])


def test_a_masked_class_is_never_answered_and_the_rest_is_renormalised():
  model, start = case.network()
  method = trw.logit_mask(Network(model, case.PIXELS))
  assert method.needs == ('forget',)
  found, info = solved(method, MethodInputs(forget=forget_given().forget))
  image, _ = case.seen(case.given().retain)
  before, after = (
    np.asarray(jax.nn.softmax(model.apply(v, image))) for v in (start, found)
  )
  assert (after[:, 1] == 0).all()
  wanted = before / (1 - before[:, 1:2])
  np.testing.assert_allclose(after[:, [0, 2]], wanted[:, [0, 2]], rtol=1e-5)
  np.testing.assert_array_equal(
    model.features(start, image), model.features(found, image)
  )
  assert info['gradient_evaluations'] == 0


@pytest.mark.parametrize(
  'params', [{'w': jnp.ones(2)}, {'head': {'kernel': jnp.ones((2, 2))}}]
)
def test_a_network_whose_head_cannot_be_masked(params):
  with pytest.raises(errors.UserError, match="no layer 'head'"):
    trw.mask_head(params, 0)


def basis(seed, size, rank):
  """Singular vectors of some rows, with shares on the first `rank`."""
  draws = np.random.default_rng(seed)
  vectors = np.linalg.qr(draws.normal(size=(size, size)))[0]
  shares = np.zeros(size)
  shares[:rank] = draws.dirichlet(np.ones(rank))
  return activations.Basis(
    jnp.asarray(vectors, jnp.float32), jnp.asarray(shares, jnp.float32)
  )


def projected(retain, forget, kernel, a, b):
  params = {'head': {'kernel': kernel, 'bias': jnp.ones(kernel.shape[-1])}}
  found = jax.jit(svd_projection.project)(
    params, {('head',): retain}, {('head',): forget}, a, b
  )
  np.testing.assert_array_equal(found['head']['bias'], params['head']['bias'])
  return np.asarray(found['head']['kernel'])


def test_the_projection_by_hand():
  retain, forget = basis(0, 6, 4), basis(1, 6, 3)
  kernel = jnp.asarray(
    np.random.default_rng(2).normal(size=(6, 5)), jnp.float32
  )

  def matrix(one, scale):
    u, s = np.asarray(one.vectors, float), np.asarray(one.shares, float)
    return u @ np.diag(scale * s / ((scale - 1) * s + 1)) @ u.T

  r, f = matrix(retain, 100.0), matrix(forget, 3.0)
  wanted = (np.eye(6) - (f - f @ r)) @ np.asarray(kernel, float)
  found = projected(retain, forget, kernel, 100.0, 3.0)
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_limits_of_the_projection():
  kernel = jnp.asarray(
    np.random.default_rng(3).normal(size=(6, 2)), jnp.float32
  )
  own, other = basis(0, 6, 6), basis(1, 6, 6)
  # All of the input space is kept: nothing is suppressed.
  same = projected(own, other, kernel, 1e8, 1e8)
  np.testing.assert_allclose(same, kernel, atol=1e-3)
  # Nothing is kept and all is suppressed.
  gone = projected(
    basis(0, 6, 1)._replace(shares=jnp.zeros(6)), other, kernel, 1.0, 1e8
  )
  np.testing.assert_allclose(gone, 0, atol=1e-3)
  # Disjoint spaces: the forgotten directions vanish, the others stay.
  vectors = jnp.eye(6)
  first = jnp.asarray([0.5, 0.5, 0, 0, 0, 0])
  apart = projected(
    activations.Basis(vectors, first),
    activations.Basis(vectors, first[::-1]),
    kernel,
    1e8,
    1e8,
  )
  np.testing.assert_allclose(apart[:4], kernel[:4], atol=1e-5)
  np.testing.assert_allclose(apart[4:], 0, atol=1e-5)


def test_the_projection_forgets_a_direction_that_only_the_class_uses():
  """Images of f light a corner that no other image does."""
  model, _ = case.network()
  given = forget_given()
  corner = jnp.zeros(case.SHAPE, bool).at[0, 0].set(True)

  def lit(part, value):
    image = jnp.where(corner[None], value, part.batch.image)
    dark = jnp.where(corner[None], image, 0) if value else image
    batch = part.batch._replace(image=dark.astype(jnp.uint8))
    return part._replace(batch=batch)

  given = MethodInputs(lit(given.retain, 0), lit(given.forget, 255))
  method = svd_projection.svd_projection(
    Network(model, case.PIXELS),
    samples=6,
    retain_scales=(1e6,),
    forget_scales=(1e6,),
  )
  found, info = solved(method, given)
  first = found.params['body']['hidden_0']['kernel'].reshape(*case.SHAPE, -1)
  np.testing.assert_allclose(first[0, 0], 0, atol=1e-3)
  assert info['gradient_evaluations'] == 0
  assert method.elementwise and method.grid[0] == {
    'alpha_r': 1e6,
    'alpha_f': 1e6,
  }
