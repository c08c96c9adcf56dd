"""Retraining twice: who comes back, and what is trained."""

import jax.numpy as jnp
import numpy as np
import optax
from test_detected import MODEL, STEP, give, images, run, same, start

from cmu_jax.core import rng
from cmu_jax.core.types import Batch, Network, Training
from cmu_jax.methods import retraining, wrappers
from cmu_jax.training import metrics

TRAINING = Training(optax.sgd(0.1), steps=6, batch_size=16)


def once():
  return retraining.retrain(Network(MODEL, STEP), training=TRAINING)


def twice():
  return wrappers.retrain_twice(once(), Network(MODEL, STEP))


def relabelled(given, label):
  """S_f with these labels."""
  batch = given.forget.batch._replace(label=jnp.asarray(label, jnp.int32))
  return given._replace(forget=given.forget._replace(batch=batch))


def first(given, key=3):
  """What the first network says of S_f."""
  named = rng.fold_in(rng.fold_in(key, 'solve'), 'first')
  theta, _ = once().solve(named, start(), given, None, {})
  return metrics.predict(Network(MODEL, STEP), theta, given.forget.batch)


def test_who_is_seen_as_labelled_comes_back_and_nobody_else():
  seen = first(give())
  label = (seen + 1) % 3
  valid = np.flatnonzero(np.asarray(give().forget.valid))
  label[valid[0]] = seen[valid[0]]
  given = relabelled(give(), label)
  found, info = run(twice(), given)
  assert info['readmitted'] == 1
  back = np.zeros(label.size, bool)
  back[valid[0]] = True
  larger = wrappers.readmit(given, back)
  wanted, alone = run(once(), larger)
  same(found, wanted)
  assert info['gradient_evaluations'] == 2 * alone['gradient_evaluations']


def test_where_nobody_comes_back_it_is_retraining():
  given = relabelled(give(), (first(give()) + 1) % 3)
  found, info = run(twice(), given)
  assert info['readmitted'] == 0
  same(found, run(once(), given)[0])


def test_rows_move_as_they_are_and_padding_does_not():
  given = give()
  everyone = np.ones(given.forget.valid.shape, bool)
  larger = wrappers.readmit(given, everyone)
  assert images(larger.retain) == sorted(
    images(given.retain) + images(given.forget)
  )
  assert isinstance(larger.retain.batch, Batch)
  none = wrappers.readmit(given, ~everyone)
  assert images(none.retain) == images(given.retain)
  assert none.retain.valid.shape == given.retain.valid.shape
