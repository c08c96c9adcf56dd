"""SCRUB: its plan against published counts, its steps against the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import unlearning_case as case
from close import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import jit
from cmu_jax.methods import finetuning, objectives, teachers
from cmu_jax.training import optimizers

GIVEN = case.given()
TRAIN, BATCH = 50_000, 512
# Samples identified -> steps of ascent of 1000, and their rates' sum over the
# peak, for ascent that may start in the first 100, 200 and 400 steps.
ASCENT = {
  500: [(2, 1.0), (3, 1.9), (5, 3.3)],
  1000: [(4, 2.1), (6, 3.8), (10, 6.8)],
  2500: [(10, 6.0), (15, 10), (25, 18)],
  5000: [(20, 14), (30, 23), (50, 37)],
}


@pytest.fixture(autouse=True)
def _quickly():
  with jit.skip_optimizations(True):
    yield


def _kd(params, start, part, temperature=4.0):
  image, _ = case.seen(part)
  wanted = jax.nn.softmax(case.logits(start, image) / temperature)
  found = jax.nn.softmax(case.logits(params, image) / temperature)
  each = (wanted * (jnp.log(wanted) - jnp.log(found))).sum(-1)
  return temperature**2 * each.mean()


@pytest.mark.parametrize('count', ASCENT)
@pytest.mark.parametrize('column', range(3))
def test_the_plan_has_the_published_ascent(count, column):
  msteps = (100, 200, 400)[column]
  plan = teachers.alternating_phases(
    1000,
    -(-count // BATCH),
    -(-(TRAIN - count) // BATCH),
    lambda epoch, step: step < msteps,
  )
  rate = np.asarray(optimizers.procedure_a_schedule(1.0, 1000)(np.arange(1000)))
  steps, weight = ASCENT[count][column]
  assert plan.shape == (1000,)
  assert (plan == 0).sum() == steps
  assert rate[plan == 0].sum() == pytest.approx(weight, rel=0.05)


@given(
  st.integers(1, 60), st.integers(1, 9), st.integers(1, 9), st.integers(0, 4)
)
@settings(max_examples=50, deadline=None)
def test_epochs_alternate_until_ascent_ends(steps, forget, retain, epochs):
  plan = teachers.alternating_phases(
    steps, forget, retain, lambda epoch, _: epoch < epochs
  )
  written = ('f' * forget + 'r' * retain) * epochs + 'r' * steps
  assert ''.join('fr'[phase] for phase in plan) == written[:steps]


def test_epochs_count_the_rows_that_are_valid():
  assert finetuning.epoch_lengths(GIVEN, case.COUNT, case.COUNT) == (1, 1)
  assert finetuning.epoch_lengths(GIVEN, case.COUNT - 1, 2) == (2, 3)
  assert finetuning.epoch_lengths(GIVEN, 100, 100) == (1, 1)


def test_steps_alternate_as_released():
  """Up, down, up, down: a step sees all of its set."""
  method, prepared, found, info = case.solved(
    teachers.scrub, None, GIVEN, steps=4, msteps=3
  )
  start = case.start()

  def expected(alpha):
    def value(params, part):
      return case.ce(params, part) + alpha * _kd(params, start, part)

    up = lambda params: -value(params, GIVEN.forget)
    down = lambda params: value(params, GIVEN.retain)
    return case.descended([up, down, up, down], start)

  assert method.grid[0] == {'scrub_alpha': 0.1} and len(method.grid) == 8
  assert_close(found.params, expected(0.1), rtol=1e-5)
  assert info == {'gradient_evaluations': 4 * case.COUNT}
  fewer = GIVEN._replace(
    forget=GIVEN.forget._replace(valid=GIVEN.forget.valid.at[:5].set(False))
  )
  _, variables = case.network()
  with jax.no_tracing():  # Neither for another alpha nor for another |S_f|.
    one = {'scrub_alpha': 5.0}
    again, _ = method.solve(case.KEY, variables, GIVEN, prepared, one)
    method.solve(case.KEY, variables, fewer, prepared, one)
  assert_close(again.params, expected(5.0), rtol=1e-5)


def test_published_steps_go_up_on_the_teacher_alone():
  hyper = {'gamma': 0.99, 'scrub_alpha': 0.5}
  method, _, found, _ = case.solved(
    teachers.scrub_original, hyper, GIVEN, steps=4, temperature=2.0
  )
  start = case.start()

  def up(params):
    return -_kd(params, start, GIVEN.forget, 2.0)

  def down(params):
    kept = _kd(params, start, GIVEN.retain, 2.0)
    return 0.99 * case.ce(params, GIVEN.retain) + 0.5 * kept

  expected = case.descended([up, down, up, down], start)
  assert_close(found.params, expected, rtol=1e-5)
  assert {tuple(point) for point in method.grid} == {('gamma', 'scrub_alpha')}


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_the_divergence_is_zero_at_the_teacher_alone(temperature):
  wanted = jnp.asarray(
    np.random.default_rng(0).normal(size=(5, 3)), jnp.float32
  )
  off = jax.jit(lambda x: objectives.divergence(wanted, x, temperature))
  np.testing.assert_allclose(off(wanted + 2), np.zeros(5), atol=1e-5)
  slope = jax.jit(jax.grad(lambda x: off(x).sum()))(wanted)
  np.testing.assert_allclose(slope, np.zeros((5, 3)), atol=1e-5)
  assert float(off(-wanted).min()) > 0


def test_temperature_leaves_the_size_of_gradients():
  """T^2 KL has the gradient T (p - q), which a large T makes linear."""
  rng = np.random.default_rng(1)
  wanted, logits = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
  off = lambda x: objectives.divergence(wanted, x, 100.0).sum()
  slope = jax.jit(jax.grad(off))
  gap = logits - wanted
  linear = (gap - gap.mean(-1, keepdims=True)) / 3
  np.testing.assert_allclose(slope(logits), linear, atol=0.02)
