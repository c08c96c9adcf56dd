"""Forgetting a backdoor with an estimate of its cost, and abstention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmu_jax import networks
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, MethodInputs, Network, Training
from cmu_jax.data import corruption, input_step, sources, splits
from cmu_jax.data.corruption import triggers
from cmu_jax.methods.backdoor import safe_tuning
from cmu_jax.methods.unlabelled import information_maximization
from cmu_jax.training import metrics, optimizers, train

CLASS = np.arange(60) % 3
TRIGGER = triggers.badnet(8, 8, margin=(0, 0))
STEP = input_step.make((0.3,), (0.35,))
MODEL = networks.make('fc', 10, (8, 8, 1), width=128)
NETWORK = Network(MODEL, STEP)


def moved(share):
  """Predictions that differ from CLASS in this share of the pictures."""
  changed = CLASS.copy()
  count = round(share * CLASS.size)
  changed[:count] = (changed[:count] + 1) % 3
  return changed


@pytest.mark.parametrize(('share', 'repaired'), [(0.1, True), (0.2, False)])
def test_without_labels_agreement_decides(share, repaired):
  evidence = safe_tuning.judge(CLASS, moved(share), 3)
  assert evidence.repaired == repaired
  assert evidence.reason == ('' if repaired else 'cost')
  mean, low, high = evidence.agreement
  error = 1.96 * np.sqrt(share * (1 - share) / 59)
  assert mean == pytest.approx(1 - share)
  assert (low, high) == pytest.approx((mean - error, mean + error), abs=1e-3)
  assert evidence.accuracy_before is None
  assert evidence.record['agreement'] == list(evidence.agreement)


@pytest.mark.parametrize(('share', 'repaired'), [(14 / 60, True), (0.3, False)])
def test_with_labels_the_loss_decides(share, repaired):
  """The network errs on a fifth; changes that lose nothing are no cost."""
  evidence = safe_tuning.judge(moved(0.2), moved(share), 3, CLASS)
  assert evidence.repaired == repaired
  assert evidence.accuracy_before == pytest.approx(0.8)
  assert evidence.accuracy_after == pytest.approx(1 - share)


def test_a_class_that_the_pictures_lack_stops_the_repair():
  evidence = safe_tuning.judge(CLASS, CLASS, 4)
  assert (evidence.reason, evidence.absent) == ('classes', (3,))
  assert not evidence.repaired


def test_the_training_is_that_of_the_trials_or_of_the_user():
  plain = safe_tuning.make_training(60)
  assert (plain.steps, plain.batch_size) == (safe_tuning.STEPS, 60)
  changed = safe_tuning.make_training(500, steps=7, batch_size=None)
  assert (changed.steps, changed.batch_size) == (7, 128)


@pytest.fixture(scope='module')
def backdoor():
  """A network with a backdoor, ordinary pictures, and the test images."""
  key = rng.fold_in(2, 'safe tuning')
  digits = sources.load('digits')
  pool, rest = splits.hold_out(rng.fold_in(key, 'h'), digits.train, 0.3, 10)
  drawn = corruption.poison(key, rest.label, 0.1, TRIGGER)
  variables = train.fit(
    key,
    NETWORK._replace(inputs=input_step.make((0.3,), (0.35,), trigger=TRIGGER)),
    jax.jit(MODEL.init)(key, STEP.eval(rest.image[:1], None)),
    corruption.apply(drawn, rest),
    Training(optimizers.adamw(optimizers.constant_schedule(2e-3)), 400, 128),
  ).variables
  return variables, pool, digits.test


def measure(variables, test):
  """Accuracy, and attack success."""
  label = np.asarray(test.label)
  image = np.array(test.image)
  image[:, np.asarray(TRIGGER.mask)] = 255
  clean, hit = (
    metrics.predict(NETWORK, variables, Batch(x, test.label))
    for x in (test.image, jnp.asarray(image))
  )
  return np.mean(clean == label), metrics.attack_success(label, hit, 0)


@pytest.mark.parametrize('labelled', [False, True])
def test_a_backdoor_is_forgotten_without_a_triggered_picture(
  backdoor, labelled
):
  variables, pool, test = backdoor
  method = safe_tuning.safe_self_tuning(
    NETWORK,
    safe_tuning.make_training(pool.label.size // 2),
    labelled=labelled,
  )
  data = (
    MethodInputs(clean_proxy=pool)
    if labelled
    else MethodInputs(
      ordinary=information_maximization.wrap_pictures(pool.image)
    )
  )
  repaired, info = method(rng.fold_in(1), variables, data)
  assert info['evidence'].repaired
  (accuracy, rate), (tuned, after) = (
    measure(v, test) for v in (variables, repaired)
  )
  assert rate > 0.9 and after < 0.1 and tuned > accuracy - 0.04
  assert info['gradient_evaluations'] == 3 * 150 * 128
  # The estimate is of runs on halves, so it is below the truth.
  if labelled:
    assert abs(info['evidence'].accuracy_after - tuned) < 0.06


def test_a_repair_that_destroys_the_network_is_refused(backdoor):
  variables, pool, _ = backdoor
  samples = information_maximization.wrap_pictures(pool.image)
  training = safe_tuning.make_training(200, learning_rate=1e-6, steps=2)
  # Two tiny steps leave the head that was drawn anew as good as random.
  result, info = safe_tuning.safe_self_tuning(NETWORK, training)(
    rng.fold_in(1), variables, MethodInputs(ordinary=samples)
  )
  assert info['evidence'].reason == 'cost'
  jax.tree.map(np.testing.assert_array_equal, result, variables)


def test_too_few_pictures_are_a_line(backdoor):
  variables, pool, _ = backdoor
  samples = information_maximization.wrap_pictures(pool.image[:3])
  method = safe_tuning.safe_self_tuning(NETWORK, safe_tuning.make_training(2))
  with pytest.raises(errors.UserError, match='3 ordinary pictures are too few'):
    method(rng.fold_in(1), variables, MethodInputs(ordinary=samples))
