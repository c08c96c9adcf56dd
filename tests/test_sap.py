"""SAP: what layers see, limits of the projector, who is trusted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ssd_case import (
  AUGMENTED,
  MODELS,
  assert_close,
  linear,
  look,
  samples,
  variables,
)
from ssd_case import given as some_given

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Network
from cmu_jax.methods.projection import activations, sap
from cmu_jax.networks import conv

KEY = jax.random.key(0)


@pytest.mark.parametrize(
  ('size', 'stride', 'pad'), [(3, 1, 1), (3, 2, 1), (5, 2, 2), (3, 1, 0)]
)
def test_patches_times_kernels_are_convolutions(size, stride, pad):
  state = np.random.default_rng(0)
  image = jnp.asarray(state.normal(size=(2, 7, 6, 3)), jnp.float32)
  kernel = jnp.asarray(state.normal(size=(size, size, 3, 4)), jnp.float32)
  wanted = conv.convolve_stock(image, kernel, (stride,) * 2, ((pad, pad),) * 2)
  rows = activations.extract_patches(
    image, size, stride, ((pad, pad), (pad, pad))
  )
  found = (rows @ kernel.reshape(-1, 4)).reshape(wanted.shape)
  np.testing.assert_allclose(found, wanted, atol=1e-4)


def _image(count=4, seed=0):
  some = samples(count, seed=seed).batch
  return look(some.image, some.has_trigger)


def test_every_layer_of_a_network_shows_its_inputs():
  model, state = MODELS['convnet'], variables('convnet')

  def seen(state, x):
    found = activations.layer_inputs(model, state, x)
    return found, model.stem(state, x), model.apply(state, x)

  found, stem, logits = jax.jit(seen)(state, _image())
  assert set(found) == {('body', f'convs_{i}') for i in range(3)} | {('head',)}
  found = {path: np.asarray(rows) for path, rows in found.items()}
  body = np.asarray(state.params['body']['convs_0']['kernel'])
  product = found['body', 'convs_0'] @ body.reshape(-1, 16)
  np.testing.assert_allclose(product.reshape(stem.shape), stem, atol=1e-5)
  head = jax.tree.map(np.asarray, state.params['head'])
  product = found['head',][:, 0] @ head['kernel'] + head['bias']
  np.testing.assert_allclose(product, logits, atol=1e-5)


def test_all_kernels_of_resnet9_are_seen():
  model = networks.make('resnet9', 3, (12, 12, 3), width=1)
  image = jnp.zeros((1, 12, 12, 3))
  state = jax.eval_shape(model.init, KEY, image)
  found = jax.eval_shape(
    lambda v: activations.layer_inputs(model, v, image), state
  )
  assert len(found) == 9
  for path, rows in found.items():
    leaf = state.params
    for name in (*path, 'kernel'):
      leaf = leaf[name]
    assert rows.shape[-1] == np.prod(leaf.shape[:-1])


def _basis(rows):
  return activations.decompose(activations.gram(rows, jnp.ones(len(rows))))


def _projector(basis, scale):
  """P, as what becomes of a kernel that is the identity."""
  size = basis.shares.shape[0]
  params = {'head': {'kernel': jnp.eye(size)}}
  return np.asarray(
    jax.jit(sap.project)(params, {('head',): basis}, scale)['head']['kernel']
  )


def test_the_projector_in_numpy():
  rows = jnp.asarray(np.random.default_rng(1).normal(size=(9, 1, 5)))
  found = _basis(rows)
  u, sigma, _ = np.linalg.svd(np.asarray(rows[:, 0]).T)
  shares = sigma**2 / (sigma**2).sum()
  np.testing.assert_allclose(np.sort(found.shares)[::-1], shares, rtol=1e-4)
  for scale in (1.0, 7.0):
    kept = scale * shares / ((scale - 1) * shares + 1)
    np.testing.assert_allclose(
      _projector(found, scale), (u * kept) @ u.T, atol=1e-5
    )


def test_the_projector_tends_to_the_identity_on_the_span():
  rows = jnp.asarray(np.random.default_rng(1).normal(size=(3, 1, 6)))
  found = _basis(rows)
  span = np.asarray(rows[:, 0])
  away = [
    np.abs(span @ _projector(found, scale) - span).max()
    for scale in (1.0, 10.0, 1e3, 1e5)
  ]
  assert away == sorted(away, reverse=True)
  assert away[0] > 0.3
  assert away[-1] < 1e-3
  outside = np.linalg.svd(span)[2][3:]
  assert np.abs(outside @ _projector(found, 10.0)).max() < 1e-3


def test_a_huge_scale_leaves_the_network_on_trusted_samples():
  state, seen = variables(), samples(5)
  model = MODELS['fc']
  found = activations.bases(Network(model, AUGMENTED), state, seen)
  assert set(found) == {('body', 'hidden_0'), ('head',)}
  image = _image(5)

  @jax.jit
  def after(scale):
    params = sap.project(state.params, found, scale)
    return model.apply(state._replace(params=params), image)

  before = np.asarray(jax.jit(model.apply)(state, image))
  np.testing.assert_allclose(after(1e8), before, atol=1e-3)
  assert np.abs(after(10.0) - before).max() > 0.03


def test_the_lowest_losses_of_valid_rows_are_trusted():
  model, state = linear()
  valid = np.arange(20) % 4 != 0
  seen = samples(20, valid)
  image = look(seen.batch.image, seen.batch.has_trigger)
  logs = np.asarray(jax.nn.log_softmax(model.apply(state, image)))
  loss = -logs[np.arange(20), np.asarray(seen.batch.label)]
  wanted = np.flatnonzero(valid)[np.argsort(loss[valid])][:6]
  found = sap.select_trusted(Network(model, AUGMENTED), state, seen, 6)
  np.testing.assert_array_equal(
    found.batch.image, np.asarray(seen.batch.image)[wanted]
  )
  assert np.asarray(found.valid).all()
  more = sap.select_trusted(Network(model, AUGMENTED), state, seen, 30)
  assert np.asarray(more.valid).tolist() == [True] * 15 + [False] * 5


def test_trusted_rows_that_are_not_valid_do_not_matter():
  state, model = variables(), MODELS['fc']
  few = samples(5)
  more = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), few, samples(4))
  more = more._replace(valid=jnp.arange(9) < 5)
  one = activations.bases(Network(model, AUGMENTED), state, few)
  two = activations.bases(Network(model, AUGMENTED), state, more)
  for path, basis in one.items():
    np.testing.assert_allclose(
      _projector(basis, 30.0), _projector(two[path], 30.0), atol=1e-4
    )


def test_the_method_is_one_program_and_needs_no_s_f():
  state, model = variables(), MODELS['fc']
  method = sap.sap(Network(model, AUGMENTED), samples=5)
  assert method.needs == ('retain',)
  assert method.elementwise
  prepared = method.prepare(KEY, state, some_given()._replace(forget=None))
  scales = {'sap_scale': jnp.asarray([p['sap_scale'] for p in method.grid])}
  found, info = jax.jit(
    lambda scales: jax.lax.map(
      lambda h: method.solve(KEY, state, None, prepared, h), scales
    )
  )(scales)
  assert np.asarray(info['gradient_evaluations']).tolist() == [0] * 5
  one, _ = method.solve(KEY, state, None, prepared, method.grid[1])
  assert_close(jax.tree.map(lambda x: x[1], found), one)
  np.testing.assert_array_equal(
    one.params['head']['bias'], state.params['head']['bias']
  )


def test_a_network_without_layers_of_its_own_is_refused():
  model, state = linear()
  with pytest.raises(errors.UserError, match='shows no dense layer'):
    activations.bases(Network(model, AUGMENTED), state, samples(3))
