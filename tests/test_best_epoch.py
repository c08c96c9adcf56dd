"""The best epoch of a training instead of its last iterate."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ssd_case import CLASSES, PLAIN, SIDE, batch, given, linear

from cmu_jax.core import rng
from cmu_jax.core import store as store_lib
from cmu_jax.core.types import Batch, MethodInputs, Network, Training
from cmu_jax.methods import objectives, retraining
from cmu_jax.training import descent, early_stopping, segment, train

STEPS, EPOCH = 7, 3


def _images():
  held = batch(30, seed=4)
  return Batch(held.image, held.label)


def _keep():
  model, _ = linear()
  return early_stopping.BestEpoch(Network(model, PLAIN), EPOCH, 16)


def _accuracy(variables, images):
  x = np.asarray(PLAIN.eval(images.image, None)).reshape(len(images.image), -1)
  scores = x @ np.asarray(variables.params['head']['kernel'])
  return (scores.argmax(-1) == np.asarray(images.label)).mean()


def _walk(state, start, stop):
  """A training without gradients: a fixed wandering of the kernel."""
  params = state.variables.params
  for step in range(start, stop):
    noise = np.random.default_rng(step).normal(size=(SIDE * SIDE, CLASSES))
    kernel = params['head']['kernel'] + jnp.asarray(noise, jnp.float32)
    params = {'head': {'kernel': kernel}}
  return state._replace(variables=state.variables._replace(params=params))


def _begin():
  _, start = linear()
  history = jnp.zeros((STEPS, 2))
  return early_stopping.begin_tracking(segment.TrainState(start, (), history))


@pytest.mark.parametrize('cuts', [(0, 7), (0, 1, 2, 7), (0, 3, 4, 6, 7)])
def test_it_is_the_first_best_of_the_ends_of_epochs_however_cut(cuts):
  images, begun = _images(), _begin()
  run = early_stopping.keep_best(_walk, _keep(), images, STEPS)
  for start, stop in itertools.pairwise(cuts):
    begun = run(begun, start, stop)
  ends = [_walk(_begin().state, 0, stop).variables for stop in (3, 6, STEPS)]
  scores = [_accuracy(v, images) for v in ends]
  best = int(np.argmax(scores))
  np.testing.assert_allclose(begun.accuracy, scores[best], atol=1e-6)
  assert int(begun.step) == (3, 6, STEPS)[best]
  np.testing.assert_allclose(
    begun.variables.params['head']['kernel'],
    ends[best].params['head']['kernel'],
    rtol=1e-5,
  )


def test_nothing_is_looked_at_before_the_first_epoch_ends():
  run = early_stopping.keep_best(_walk, _keep(), _images(), STEPS)
  begun = run(_begin(), 0, EPOCH - 1)
  assert float(begun.accuracy) == -1 and int(begun.step) == 0


def test_cf_that_keeps_its_best_epoch_is_the_best_of_its_own_cuts():
  model, start = linear()
  optimizer = optax.sgd(0.5)
  training = Training(optimizer, STEPS, 8)
  method = retraining.finetune(Network(model, PLAIN), training, keep=_keep())
  assert method.needs == ('retain', 'validation')
  images = _images()
  retain = given().retain
  # The input step here has no trigger to stamp with.
  plain = Batch(retain.batch.image, retain.batch.label)
  kept = retain._replace(batch=plain)
  seen = MethodInputs(retain=kept, validation=images)
  found, info = method.solve(rng.fold_in(1), start, seen, None, {})
  assert info['gradient_evaluations'] == STEPS * 8
  # The same stream of batches, stopped after each epoch.
  phase = descent.Phase(objectives.cross_entropy(model), (('retain', 8),))
  recipe = descent.Recipe((phase,), optimizer, PLAIN)
  ends = []
  for stop in (3, 6, STEPS):
    end, _ = descent.descend(
      rng.fold_in(1),
      recipe,
      descent.Start(start, {'retain': seen.retain}, stop),
      hyper={},
    )
    ends.append(end)
  scores = [_accuracy(v, images) for v in ends]
  np.testing.assert_allclose(
    found.params['head']['kernel'],
    ends[int(np.argmax(scores))].params['head']['kernel'],
    atol=1e-5,
  )


def test_a_training_continues_with_the_best_of_before():
  saved = {}
  store = store_lib.Checkpoint(
    lambda template: saved.get('it'),
    lambda state, step: saved.update(it=(jax.tree.map(jnp.copy, state), step)),
    0.0,
  )
  watch = _keep(), _images()
  session = train.Session('walk', store, watch=watch)
  drive = lambda: train.run_segments(_walk, _begin().state, STEPS, 1, session)
  whole = drive()
  half = early_stopping.keep_best(_walk, *watch, STEPS)(_begin(), 0, 4)
  saved['it'] = (half, 4)
  again = drive()
  np.testing.assert_array_equal(
    whole.variables.params['head']['kernel'],
    again.variables.params['head']['kernel'],
  )
