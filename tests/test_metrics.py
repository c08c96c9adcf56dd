"""Predictions in blocks and the metrics made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmu_jax import networks
from cmu_jax.core.types import Batch, Network, Trigger
from cmu_jax.data import input_step
from cmu_jax.training import metrics

STEP = input_step.make(
  (0.4,),
  (0.3,),
  trigger=Trigger(jnp.ones((8, 8), bool), jnp.float32(255)),
)
MODEL = networks.make('fc', 5, (8, 8, 1), width=8)


def batch(size, stamp=None):
  generator = np.random.default_rng(0)
  image = jnp.asarray(generator.integers(0, 256, (size, 8, 8, 1)), jnp.uint8)
  return Batch(image, jnp.zeros(size, jnp.int32), stamp)


@pytest.mark.parametrize('size, block', [(10, 4), (8, 4), (3, 64), (1, 1)])
def test_predictions_do_not_depend_on_the_block(size, block):
  variables = MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  found = metrics.predict(Network(MODEL, STEP), variables, batch(size), block)
  image = STEP.eval(batch(size).image, None)
  expected = np.argmax(MODEL.apply(variables, image), axis=1)
  np.testing.assert_array_equal(found, expected)


def test_stamped_images_are_predicted_with_their_trigger():
  variables = MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  stamped = batch(6, jnp.ones(6, bool))
  found = metrics.predict(Network(MODEL, STEP), variables, stamped, 4)
  assert len(set(found.tolist())) == 1  # Every pixel is overwritten.


def test_confusion_and_accuracies():
  label = np.array([0, 0, 1, 2, 2, 2])
  predicted = np.array([0, 1, 1, 2, 2, 0])
  counts = metrics.confusion(label, predicted, 4)
  expected = [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
  np.testing.assert_array_equal(counts, expected)
  assert metrics.accuracy(counts) == pytest.approx(4 / 6)
  assert metrics.class_accuracy(counts) == [
    0.5,
    1.0,
    pytest.approx(2 / 3),
    None,
  ]


def test_attack_success_leaves_the_target_class_out():
  label = np.array([0, 0, 1, 2, 2])
  predicted = np.array([0, 0, 0, 0, 2])
  assert metrics.attack_success(label, predicted, 0) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
  'accuracy, before, oracle, expected',
  [
    (0.936, 0.797, 0.983, 74.73),
    (0.5, 0.6, 0.8, -50.0),
    (0.7, 0.7, 0.7, None),
    # The oracle is below doing nothing: neither gain nor loss is a recovery.
    (0.85, 0.82, 0.80, None),
    (0.7, 0.82, 0.80, None),
    # A gap of one test picture in 355 would make percents of thousands.
    (0.85, 0.82, 0.8228, None),
    (0.83, 0.82, 0.84, 50.0),
  ],
)
def test_recovery_is_in_percent_of_the_gap(accuracy, before, oracle, expected):
  found = metrics.recovery_rate(accuracy, before, oracle)
  assert found == (expected and pytest.approx(expected, abs=0.01))


def test_probabilities_are_the_softmax_of_the_logits():
  model = networks.make('fc', 3, (4, 4, 1), width=5)
  step = input_step.make((0.5,), (0.5,))
  image = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1), np.uint8)
  batch = Batch(jnp.asarray(image), jnp.zeros(7, jnp.int32))
  variables = model.init(jax.random.key(0), step.eval(batch.image[:1]))
  # Blocks that do not divide the split: the last one repeats a row.
  logits = metrics.logits(Network(model, step), variables, batch, 3)
  whole = model.apply(variables, step.eval(batch.image))
  np.testing.assert_allclose(logits, whole, rtol=1e-6, atol=1e-6)
  found = metrics.probabilities(Network(model, step), variables, batch, 3)
  np.testing.assert_allclose(
    found, np.asarray(jax.nn.softmax(whole)), rtol=1e-5
  )
