"""Signals against their definitions in float64, and where those fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from cmu_jax import audits
from cmu_jax.audits import signals

LOGITS = np.random.default_rng(2).normal(0, 2, (7, 5)).astype(np.float32)
LABEL = np.array([0, 4, 2, 2, 1, 3, 0], np.int32)
ROWS = np.arange(7)


def by(name, logits=LOGITS, **options):
  run = lambda x, y: signals.SIGNALS[name](x, y, **options)
  return np.asarray(jax.jit(run)(jnp.asarray(logits), jnp.asarray(LABEL)))


def exact(logits=LOGITS):
  return special.softmax(logits.astype(np.float64), axis=-1)


def test_against_the_definitions():
  p = exact()[ROWS, LABEL]
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
  near(by('softmax'), p)
  near(by('log_likelihood'), np.log(p))
  near(by('logit_confidence'), np.log(p / (1 - p)))
  near(by('negative_entropy'), -special.entr(exact()).sum(-1))


@pytest.mark.parametrize('name', signals.SIGNALS)
def test_a_leading_axis_of_models(name):
  stack = np.stack([LOGITS, 2 * LOGITS])
  found = by(name, stack)
  assert found.shape == (2, 7)
  np.testing.assert_allclose(found[1], by(name, 2 * LOGITS), rtol=1e-5)


def test_the_logit_confidence_does_not_saturate():
  """Where p_y rounds to 1 its logit is still the exact one."""
  logits = np.array([[200.0, 0.0, 0.0], [-300.0, 5.0, 1.0]], np.float32)
  found = audits.logit_confidence(jnp.asarray(logits), jnp.array([0, 0]))
  wanted = [200 - np.log(2), -300 - special.logsumexp([5.0, 1.0])]
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  assert float(audits.softmax(jnp.asarray(logits), jnp.array([0, 0]))[0]) == 1


def test_the_logit_confidence_is_shift_invariant():
  moved = by('logit_confidence', LOGITS + 3)
  np.testing.assert_allclose(moved, by('logit_confidence'), atol=1e-5)
  assert np.abs(by('taylor_softmax', LOGITS + 3) - by('taylor_softmax')).max()


def taylor(logits, order, temperature=2.0, margin=0.6):
  """SM-Taylor-softmax by its definition."""
  u = logits.astype(np.float64) / temperature
  t = lambda x: sum(x**i / special.factorial(i) for i in range(order + 1))
  own = t(u[ROWS, LABEL] - margin)
  rest = t(u).sum(-1) - t(u[ROWS, LABEL])
  return own / (own + rest)


@pytest.mark.parametrize('order', [2, 3, 4])
@pytest.mark.parametrize(('temperature', 'margin'), [(2.0, 0.6), (0.7, 0.0)])
def test_the_taylor_softmax(order, temperature, margin):
  options = {'order': order, 'temperature': temperature, 'margin': margin}
  found = by('taylor_softmax', **options)
  wanted = np.maximum(taylor(LOGITS, **options), 1e-30)
  np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_a_high_order_without_margin_is_the_softmax():
  found = by('taylor_softmax', order=30, temperature=1.0, margin=0.0)
  np.testing.assert_allclose(found, by('softmax'), rtol=1e-4)


def test_even_orders_are_probabilities_and_the_cubic_is_not():
  rng = np.random.default_rng(8)
  logits = rng.normal(0, 4, (4000, 10)).astype(np.float32)
  label = rng.integers(0, 10, 4000)
  logits[np.arange(4000), label] += 6
  see = lambda order: np.asarray(
    audits.taylor_softmax(jnp.asarray(logits), jnp.asarray(label), order=order)
  )
  quartic, cubic = see(4), see(3)
  assert (quartic > 0).all()
  assert (quartic < 1).all()
  outside = np.mean((cubic <= 1e-29) | (cubic > 1))
  assert 0.03 < outside < 0.12
  assert cubic.min() == np.float32(1e-30)


def test_the_sign_of_the_polynomials():
  """Order 3 crosses zero at -1.5961; order 4 nowhere."""
  cubic = [1 / 6, 1 / 2, 1, 1]
  roots = np.roots(cubic)
  real = roots[np.abs(roots.imag) < 1e-9].real
  assert real == pytest.approx([-1.5961], abs=1e-4)
  assert (np.abs(np.roots([1 / 24, *cubic]).imag) > 0.1).all()
  # One logit at the root: the label's share vanishes there, and changes sign.
  at = lambda u, order: audits.taylor_softmax(
    jnp.array([[u, 0.0]]),
    jnp.array([0]),
    order=order,
    temperature=1.0,
    margin=0.0,
  )[0]
  assert float(at(-1.59, 3)) > 1e-4
  assert float(at(-1.60, 3)) == pytest.approx(1e-30)
  assert float(at(-1.60, 4)) > 0.1


def test_half_precision_is_computed_in_single():
  half = jnp.asarray(LOGITS, jnp.bfloat16)
  found = audits.logit_confidence(half, jnp.asarray(LABEL))
  assert found.dtype == jnp.float32
