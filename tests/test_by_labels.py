"""Two methods for two manipulations: S_f's own labels say which."""

import jax
import numpy as np
import optax
from test_detected import MODEL, STEP, give, images, retraining, run, same
from test_detected import problem as poisoned

from cmu_jax.core.types import Network, Training
from cmu_jax.methods import relabelling, wrappers
from cmu_jax.studies.corrective import problem


def exchanging():
  return relabelling.relabel_second(
    Network(MODEL, STEP),
    training=Training(optimizer=optax.sgd(0.1), steps=6, batch_size=16),
    weights=(1.0,),
  )


def confused():
  """The poisoned problem, with two labels among the bad samples."""
  whole = poisoned()
  label = np.asarray(whole.train.label).copy()
  label[whole.rank == 0] = 1
  rows = whole.train._replace(label=jax.numpy.asarray(label))
  return whole._replace(train=rows)


def both():
  return wrappers.by_labels(retraining(), exchanging())


def test_one_label_is_left_out_and_several_are_put_right():
  one = give()
  several = problem.give(confused(), 0.25, ('retain', 'forget'))
  assert wrappers.has_single_label(one)
  assert not wrappers.has_single_label(several)
  for given, plain in ((one, retraining()), (several, exchanging())):
    (found, info), (wanted, alone) = run(both(), given), run(plain, given)
    same(found, wanted)
    assert info == alone


def test_rows_that_are_padding_do_not_count():
  given = give()
  assert given.forget is not None
  valid = np.asarray(given.forget.valid)
  assert not valid.all()
  label = np.where(valid, np.asarray(given.forget.batch.label), 2)
  batch = given.forget.batch._replace(label=jax.numpy.asarray(label))
  padded = given._replace(forget=given.forget._replace(batch=batch))
  assert images(padded.forget) == images(given.forget)
  assert wrappers.has_single_label(padded)


def test_it_declares_what_either_needs():
  assert set(both().needs) == {'forget', 'retain'}
  assert both().grid == ({},)
