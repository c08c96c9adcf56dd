"""Detect, then unlearn: what moves, what stays, what the method sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmu_jax import networks
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, Method, Network, Training, Trigger
from cmu_jax.data import input_step
from cmu_jax.methods import detection
from cmu_jax.methods import retraining as retraining_lib
from cmu_jax.methods.detection import wrapper
from cmu_jax.studies.corrective import problem as problems

SHAPE = (8, 8, 1)
MASK = jnp.zeros((8, 8), bool).at[6:, 6:].set(True)
STEP = input_step.make((0.4,), (0.3,), trigger=Trigger(MASK, jnp.float32(255)))
MODEL = networks.make('fc', 3, SHAPE, width=8)
TOTAL, BAD = 60, 12


@functools.cache
def problem():
  """Poison: the bad ones carry the trigger and are labelled 0."""
  generator = np.random.default_rng(0)
  image = generator.integers(0, 200, (TOTAL, *SHAPE)).astype(np.uint8)
  truth = np.arange(TOTAL) % 3
  rank = np.full(TOTAL, -1)
  chosen = generator.permutation(TOTAL)[:BAD]
  rank[chosen] = np.arange(BAD)
  label = np.where(rank >= 0, 0, truth)
  rows = Batch(jnp.asarray(image), jnp.asarray(label), jnp.asarray(rank >= 0))
  return problems.Problem(rows, truth, rank, None, None, rows)


def start():
  return jax.jit(MODEL.init)(rng.fold_in(0), jnp.zeros((1, *SHAPE)))


def give(fraction=0.25):
  return problems.give(problem(), fraction, ('retain', 'forget'))


def nothing(seen):
  return np.zeros_like(seen.identified)


def truth_of_retain():
  """Which rows of retain are of S_m: no detector can know."""
  index = np.flatnonzero(~problems.find_identified(problem(), 0.25))
  flags = np.zeros(TOTAL, bool)
  flags[: index.size] = problems.find_manipulated(problem())[index]
  return flags


def perfect(seen):
  assert not seen.identified[: TOTAL - 3].any()
  return truth_of_retain()


def images(samples):
  """What a set of samples holds, whatever the order."""
  batch, valid = samples.batch, np.asarray(samples.valid)
  rows = zip(
    np.asarray(batch.image)[valid],
    np.asarray(batch.label)[valid],
    np.asarray(batch.has_trigger)[valid],
    strict=True,
  )
  return sorted((x.tobytes(), int(y), bool(z)) for x, y, z in rows)


def retraining():
  return retraining_lib.retrain(
    Network(MODEL, STEP),
    training=Training(optimizer=optax.sgd(0.1), steps=6, batch_size=16),
  )


def run(method, given, key=3):
  """As the benchmark drives a method, for its first grid point."""
  keys = rng.fold_in(key, 'prepare'), rng.fold_in(key, 'solve')
  prepared = method.prepare(keys[0], start(), given)
  return method.solve(keys[1], start(), given, prepared, method.grid[0])


def same(one, other):
  for mine, theirs in zip(
    jax.tree.leaves(one), jax.tree.leaves(other), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def test_a_detector_that_flags_nothing_leaves_the_method_as_it_was():
  plain, given = retraining(), give()
  method = wrapper.with_detector(plain, nothing, Network(MODEL, STEP))
  (found, info), (wanted, alone) = run(method, given), run(plain, given)
  same(found, wanted)
  assert int(info.pop('flagged')) == 0
  assert info == alone


def test_a_perfect_detector_makes_it_the_method_at_fraction_one():
  whole = problems.give(problem(), 1.0, ('retain', 'forget'))
  method = wrapper.with_detector(retraining(), perfect, Network(MODEL, STEP))
  found, info = run(method, give())
  assert int(info['flagged']) == BAD - 3
  larger = wrapper.move_flagged(give(), truth_of_retain())
  assert images(larger.retain) == images(whole.retain)
  assert images(larger.forget) == images(whole.forget)
  # What is left keeps its order, so that even the sample orders are equal.
  same(found, run(retraining(), whole)[0])


@pytest.mark.parametrize('count', [1, 5, 40])
def test_samples_move_and_none_is_lost(count):
  given = give()
  flags = np.random.default_rng(count).permutation(TOTAL) < count
  flags &= np.asarray(given.retain.valid)
  larger = wrapper.move_flagged(given, flags)
  before = images(given.retain) + images(given.forget)
  after = images(larger.retain) + images(larger.forget)
  assert sorted(before) == sorted(after)
  assert int(larger.forget.valid.sum()) == 3 + flags.sum()
  # One shape for every count: a compilation serves them all.
  assert larger.retain.valid.shape == larger.forget.valid.shape == (TOTAL,)
  assert bool(larger.forget.identified.all())
  assert not bool(larger.retain.identified.any())
  for part in (larger.retain, larger.forget):
    rows = {x.tobytes() for x in np.asarray(part.batch.image)}
    assert rows == {x for x, _, _ in images(part)}


def test_flags_on_rows_that_are_not_valid_do_not_matter():
  given = give()
  flags = ~np.asarray(given.retain.valid)
  assert wrapper.move_flagged(given, flags) is given


def test_a_forget_set_without_room_grows():
  given = give(1.0)
  small = given._replace(
    retain=jax.tree.map(lambda x: x[:10], given.retain),
  )
  larger = wrapper.move_flagged(small, np.arange(10) < 9)
  assert larger.forget.valid.shape == (BAD + 9,)
  assert bool(larger.forget.valid.all())


def test_a_detector_that_flags_everything_is_refused():
  with pytest.raises(errors.UserError, match='flagged all of S_tr'):
    wrapper.move_flagged(give(), np.ones(TOTAL, bool))


def test_a_method_gets_what_it_declared_and_the_detector_its_evidence():
  seen = []

  def look(evidence):
    seen.append(evidence)
    return np.arange(evidence.identified.size) < 2

  def solve(key, variables, given, prepared, hyper):
    del key
    count = given.forget.valid.sum() + prepared
    scaled = jax.tree.map(lambda x: x * hyper['c'] * count, variables)
    return scaled, {'gradient_evaluations': 7}

  inner = Method(
    ('forget', 'validation'),
    lambda key, variables, given: given.forget.valid.sum(),
    solve,
    ({'c': 1.0}, {'c': 2.0}),
    True,
  )
  method = wrapper.with_detector(inner, look, Network(MODEL, STEP))
  assert method.needs == ('retain', 'forget', 'validation')
  assert (method.grid, method.elementwise) == (inner.grid, True)
  given = give()
  prepared = method.prepare(rng.fold_in(0), start(), given)
  over = jax.jit(
    lambda given, prepared, c: jax.lax.map(
      lambda x: method.solve(
        rng.fold_in(0), start(), given, prepared, {'c': x}
      ),
      c,
    )
  )
  found, info = over(given, prepared, jnp.array([1.0, 2.0]))
  np.testing.assert_array_equal(np.asarray(info['flagged']), [2, 2])
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x[1], y * 20, rtol=1e-6),
    found,
    start(),
  )
  assert seen[0].identified.sum() == 3
  assert seen[0].label.size == TOTAL


def test_every_detector_runs_on_a_network():
  for name, make in detection.DETECTORS.items():
    method = wrapper.with_detector(
      retraining(),
      make(),
      Network(MODEL, STEP),
      extract=detection.extractor_of(name),
    )
    larger, _, count = method.prepare(rng.fold_in(0), start(), give())
    assert int(larger.forget.valid.sum()) == 3 + int(count)
