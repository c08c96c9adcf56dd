"""Backdoors forgotten from ordinary pictures: limits, and NumPy's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cmu_jax import networks
from cmu_jax.core import rng
from cmu_jax.core.types import (
  Batch,
  MethodInputs,
  Network,
  Training,
  Variables,
)
from cmu_jax.data import input_step
from cmu_jax.methods.backdoor import pruning, self_tuning
from cmu_jax.methods.unlabelled import information_maximization
from cmu_jax.networks import layers
from cmu_jax.training import metrics

SHAPE = (8, 8, 1)
STEP = input_step.make((0.4,), (0.3,))
FC = networks.make('fc', 3, SHAPE, width=6)
NETWORK = Network(FC, STEP)
IMAGE = jnp.asarray(
  np.random.default_rng(0).integers(0, 255, (20, *SHAPE)), jnp.uint8
)
SAMPLES = information_maximization.wrap_pictures(IMAGE)


@pytest.fixture(scope='module')
def start():
  return jax.jit(FC.init)(rng.fold_in(3), jnp.zeros((1, *SHAPE)))


@pytest.fixture(scope='module')
def context(start):
  return self_tuning.Context(
    self_tuning.mark_head(NETWORK, start, SAMPLES), start
  )


def head(variables):
  return np.asarray(variables.params['head']['kernel'], np.float64)


def tune(start, form, steps=3, rate=0.1, **options):
  method = self_tuning.self_tuning(
    NETWORK, Training(optax.sgd(rate), steps, 8), form=form, **options
  )
  data = MethodInputs(
    ordinary=SAMPLES, clean_proxy=Batch(IMAGE, jnp.arange(20) % 3)
  )
  return method(rng.fold_in(1), start, data)


def test_the_matrix_of_the_head_is_marked_and_nothing_else(context):
  marks = {
    jax.tree_util.keystr(path): bool(np.asarray(leaf).any())
    for path, leaf in jax.tree_util.tree_flatten_with_path(context.head)[0]
  }
  marked = [name for name, value in marks.items() if value]
  assert marked == ["['head']['kernel']"] and len(marks) > 2


def test_d3_is_a_hinge_minus_the_distance(start, context):
  moved = Variables(jax.tree.map(lambda x: x + 0.3, start.params), {})
  distance = 0.3 * np.sqrt(head(start).size)
  for loss, hinge in ((0.05, 0.0), (0.6, 5.0)):
    value = jax.jit(self_tuning.d3_penalty)(jnp.float32(loss), moved, context)
    assert value == pytest.approx(hinge - distance, rel=1e-5)


def test_d3_has_a_gradient_at_the_weights_before(start, context):
  slope = jax.grad(
    lambda p: self_tuning.d3_penalty(jnp.float32(0), Variables(p, {}), context)
  )(start.params)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


def test_fst_adds_the_product_with_the_head_before(start, context):
  params = jax.tree.map(lambda x: x * 2 - 0.1, start.params)
  value = self_tuning.fst_penalty(
    jnp.float32(0.7), Variables(params, {}), context, strength=0.5
  )
  product = np.sum((head(start) * 2 - 0.1) * head(start))
  square = np.sum(head(start) ** 2)
  assert value == pytest.approx(0.7 + 0.5 * product / square, rel=1e-4)


@pytest.mark.parametrize('factor', [0.5, 3.0])
def test_projections_of_the_head(start, context, factor):
  scaled = jax.tree.map(lambda x: factor * x, start.params)
  capped = self_tuning.cap_norm(scaled, context)['head']['kernel']
  equal = self_tuning.keep_norm(scaled, context)['head']['kernel']
  np.testing.assert_allclose(capped, min(1, factor) * head(start), rtol=1e-5)
  np.testing.assert_allclose(equal, head(start), rtol=1e-5)


def test_a_redrawn_head_keeps_its_norm_and_a_nudged_one_its_place(
  start, context
):
  draw = lambda function: function(rng.fold_in(5), context)
  redrawn, nudged = map(draw, (self_tuning.redraw_head, self_tuning.nudge_head))
  norm = np.linalg.norm(head(start))
  assert np.linalg.norm(head(redrawn)) == pytest.approx(norm, rel=1e-5)
  cosine = np.sum(head(redrawn) * head(start)) / norm**2
  assert abs(cosine) < 0.9
  change = np.linalg.norm(head(nudged) - head(start))
  assert 0 < change <= 2.1e-3 * norm
  np.testing.assert_array_equal(
    redrawn.params['head']['bias'], start.params['head']['bias']
  )


@pytest.mark.parametrize(
  ('form', 'bound'), [('d3', 1.0), ('fst', 1.0), ('own_labels', None)]
)
def test_the_norm_of_the_head_is_bounded_in_every_step(start, form, bound):
  result, info = tune(start, form, steps=5, rate=0.5)
  norms = [np.linalg.norm(head(v)) for v in (result, start)]
  assert info['gradient_evaluations'] == 5 * 8
  if form == 'fst':
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
  elif bound is not None:
    assert norms[0] <= norms[1] * (1 + 1e-5)
  assert np.abs(head(result) - head(start)).max() > 1e-4


def test_one_step_on_own_labels_is_numpys(start):
  """Full batch: the gradient of the head is that of a softmax regression."""
  method = self_tuning.self_tuning(NETWORK, Training(optax.sgd(0.5), 1, 20))
  result, _ = method(rng.fold_in(2), start, MethodInputs(ordinary=SAMPLES))
  pixels = STEP.eval(IMAGE, None)
  features = np.asarray(FC.features(start, pixels), np.float64)
  logits = np.asarray(FC.apply(start, pixels), np.float64)
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  p[np.arange(20), logits.argmax(1)] -= 1
  wanted = head(start) - 0.5 * features.T @ p / 20
  np.testing.assert_allclose(head(result), wanted, rtol=1e-4, atol=1e-6)


def test_true_labels_are_read_where_they_are_given(start):
  own, true = (
    tune(start, 'own_labels', labelled=labelled)[0]
    for labelled in (False, True)
  )
  assert np.abs(head(own) - head(true)).max() > 1e-4


class _Normalised(nn.Module):
  """A convolution of six channels with its BatchNorm, and a mean."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Conv(20, (3, 3), use_bias=False, name='conv')(x)
    x = layers.BatchNorm(name='norm')(x, train)
    return nn.relu(x).mean((1, 2))


def test_a_channel_with_an_outlying_bound_is_pruned():
  module = _Normalised()
  made = module.init(jax.random.key(0), jnp.zeros((1, 6, 6, 2)))
  params = jax.tree.map(np.array, made['params'])
  # Twenty equal bounds, and one channel that is ten times as steep.
  params['conv']['kernel'][..., 4] *= 50
  variables = Variables(jax.tree.map(jnp.asarray, params), made['batch_stats'])
  apply = lambda v, image: module.apply(v._asdict(), image)
  model = networks.from_functions(apply, lambda v, features: features)
  pruned, count = pruning.prune_outliers(model, variables, (6, 6, 2))
  assert count == 1
  kernel = params['conv']['kernel']
  sigma = [np.linalg.norm(kernel[..., c].reshape(9, 2), 2) for c in range(20)]
  bounds = np.array(sigma) / np.sqrt(1 + 1e-5)
  assert np.flatnonzero(
    bounds > bounds.mean() + 3 * bounds.std(ddof=1)
  ).tolist() == [4]
  image = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6, 6, 2)))
  found, old = (np.asarray(apply(v, image)) for v in (pruned, variables))
  assert not found[:, 4].any() and old[:, 4].any()
  np.testing.assert_allclose(
    np.delete(found, 4, 1), np.delete(old, 4, 1), rtol=1e-6
  )


def test_own_labels_are_the_predictions(start):
  """Labels of the pictures are never read: they are all 0 here."""
  result, _ = tune(start, 'own_labels', steps=40, rate=0.5)
  plain = Batch(IMAGE, SAMPLES.batch.label)
  np.testing.assert_array_equal(
    metrics.predict(NETWORK, result, plain),
    metrics.predict(NETWORK, start, plain),
  )
