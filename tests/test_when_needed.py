"""More is suspected only where what was identified does not suffice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_detected import MODEL, STEP, give, retraining, run, same, start
from test_rewod_twice import relabelled

from cmu_jax.core import rng
from cmu_jax.core.types import Network, Training, Variables
from cmu_jax.methods import retraining as retraining_lib
from cmu_jax.methods import wrappers
from cmu_jax.training import metrics


def more():
  return retraining_lib.finetune(
    Network(MODEL, STEP),
    training=Training(optimizer=optax.sgd(0.1), steps=3, batch_size=16),
  )


def method(tolerance):
  return wrappers.when_needed(
    retraining(), more(), Network(MODEL, STEP), tolerance
  )


def first():
  """What the retrained network is, and what it says of S_f."""
  key = rng.fold_in(rng.fold_in(3, 'solve'), 'first')
  theta, info = retraining().solve(key, start(), give(), None, {})
  return (
    theta,
    info,
    metrics.predict(Network(MODEL, STEP), theta, give().forget.batch),
  )


def labelled(count):
  """S_f with the retrained network's answers on `count` rows, others beside."""
  seen = first()[2]
  label = (seen + 1) % 3
  valid = np.flatnonzero(np.asarray(give().forget.valid))
  label[valid[:count]] = seen[valid[:count]]
  return relabelled(give(), label), valid.size


def constant(answer):
  """A network that gives every image one class."""
  zero = jax.tree.map(jnp.zeros_like, start().params)
  bias = zero['head']['bias'].at[answer].set(1.0)
  return Variables({**zero, 'head': {**zero['head'], 'bias': bias}}, {})


@pytest.mark.parametrize('answer', (0, 1, 2))
def test_rows_that_do_not_count_agree_with_nothing(answer):
  given = relabelled(give(), np.arange(give().forget.valid.size) % 3)
  valid = np.asarray(given.forget.valid)
  assert not valid.all()
  wanted = valid & (np.asarray(given.forget.batch.label) == answer)
  found = wrappers.agreement_mask(
    Network(MODEL, STEP), constant(answer), given.forget
  )
  np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize('count', (0, 1, 2))
def test_at_the_tolerance_it_is_retraining_alone(count):
  given, size = labelled(count)
  theta, plain, _ = first()
  found, info = run(method(count / size), given)
  same(found, theta)
  assert info == {**plain, 'remaining': pytest.approx(count / size)}


def test_above_it_the_other_method_repairs_and_both_are_paid():
  given, size = labelled(2)
  found, info = run(method(1.5 / size), given)
  wanted, alone = run(more(), given)
  same(found, wanted)
  assert info['remaining'] == pytest.approx(2 / size)
  paid = first()[1]['gradient_evaluations'] + alone['gradient_evaluations']
  assert info['gradient_evaluations'] == paid


def test_it_declares_what_either_needs():
  assert set(method(0.1).needs) == {'retain', 'forget'}
  assert method(0.1).grid == ({},)
