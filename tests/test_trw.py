"""TRW against its closed forms, and one step against the same by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st

from cmu_jax import networks
from cmu_jax.core.types import Batch, MethodInputs, Network, Training, Variables
from cmu_jax.data import input_step
from cmu_jax.methods import trw
from cmu_jax.training import descent

STEP = input_step.make((0.5,), (0.5,))
MODEL = networks.make('fc', 5, (4, 4, 1), width=6)


def random(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kl(p, q):
  where = p > 0
  return np.sum(p[where] * np.log(p[where] / q[where]))


def test_no_tilt_is_the_renormalised_answer():
  logits = random(0, 7, 5)
  found = np.asarray(
    jax.jit(trw.tilt_answers)(jnp.asarray(logits), 2, jnp.arange(5.0), 0.0)
  )
  p = np.asarray(jax.nn.softmax(logits))
  expected = p / (1 - p[:, 2:3])
  expected[:, 2] = 0
  np.testing.assert_allclose(found, expected, rtol=2e-5)
  assert (found[:, 2] == 0).all()


@pytest.mark.parametrize(
  ('beta', 'expected'),
  [(1.0, (0.81655, 0.18345)), (10.0, (0.99983, 1.677e-4))],
)
def test_two_retained_classes(beta, expected):
  logits = jnp.log(jnp.array([[2 / 3, 1 / 3, 1e3]]))
  similar = jnp.array([0.9, 0.1, 0.0])
  found = np.asarray(trw.tilt_answers(logits, 2, similar, beta))[0]
  np.testing.assert_allclose(found[:2], expected, rtol=1e-4)
  odds = np.log(found[0] / found[1]) - np.log(2)
  assert odds == pytest.approx(beta * 0.8, rel=1e-5)


@settings(deadline=None, max_examples=20)
@cases(seed=st.integers(0, 999), beta=st.floats(0, 4), shift=st.floats(-5, 5))
def test_the_tilt_is_the_nearest_with_its_mean_similarity(seed, beta, shift):
  logits, similar = random(seed, 1, 6), np.abs(random(seed + 1, 6))
  found, moved, plain = (
    np.asarray(trw.tilt_answers(jnp.asarray(logits), 3, jnp.asarray(s), b))[0]
    for s, b in ((similar, beta), (similar + shift, beta), (similar, 0.0))
  )
  np.testing.assert_allclose(found, moved, atol=2e-5)
  # Another distribution without class 3 that has the same mean similarity.
  basis = np.stack([np.ones(6), similar, np.eye(6)[3]])
  step = np.random.default_rng(seed).normal(size=6)
  step -= np.linalg.pinv(basis) @ (basis @ step)
  where = np.abs(step) > 1e-6
  room = 0.9 * np.min(found[where] / np.abs(step[where]))
  other = np.where(where, found + room * step, found)
  assert other @ similar == pytest.approx(found @ similar, abs=1e-5)
  # Pythagoras: KL(r | plain) = KL(r | q*) + KL(q* | plain).
  whole = kl(other, found) + kl(found, plain)
  assert kl(other, plain) == pytest.approx(whole, abs=1e-4)


def test_a_uniform_answer_becomes_a_softmax_of_similarities():
  similar = jnp.array([0.1, 0.0, 0.5, 0.4])
  found = trw.tilt_answers(jnp.zeros((1, 4)), 1, similar, 3.0)[0]
  expected = jax.nn.softmax(3.0 * similar[jnp.array([0, 2, 3])])
  np.testing.assert_allclose(found[jnp.array([0, 2, 3])], expected, rtol=1e-6)
  steep = trw.tilt_answers(jnp.zeros((1, 4)), 1, similar, 1e4)[0]
  np.testing.assert_allclose(steep, [0, 0, 1, 0], atol=1e-6)


def test_a_sure_answer_does_no_harm():
  logits = random(1, 3, 4)
  sure = jnp.asarray(logits).at[:, 0].set(60)
  found = trw.tilt_answers(sure, 0, jnp.zeros(4), 10.0)
  assert np.isfinite(found).all()
  np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
  np.testing.assert_array_equal(
    found, trw.tilt_answers(jnp.asarray(logits), 0, jnp.zeros(4), 10.0)
  )


def similarity(places, forget, *options, **rest):
  """Of the class to be forgotten to the others, as in the paper."""
  point = places[jnp.asarray(forget)[None]]
  return trw.similarities(places, point, forget, *options, **rest)[0]


def test_similarities_are_cosines_of_centred_rows():
  rows = random(2, 5, 9)
  places = trw.principal_axes(jnp.asarray(rows)).coordinates
  centred = rows - rows.mean(0)
  unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
  cosine = unit @ unit[1]
  expected = np.exp(cosine / 0.1)
  expected[1] = 0
  expected /= expected.sum()
  every = jax.jit(similarity)(places, 1, 9)
  np.testing.assert_allclose(every, expected, rtol=1e-3)
  assert every[1] == 0 and every.sum() == pytest.approx(1, abs=1e-6)
  # One axis: all rows lie on a line, like f or opposite to it.
  one = similarity(places, 1, 1)
  same = np.sign(np.asarray(places)[:, 0]) == np.sign(places[1, 0])
  alike = np.asarray(one)[same & (np.arange(5) != 1)]
  if alike.size:
    np.testing.assert_allclose(alike, 1 / alike.size, rtol=1e-4)


def test_the_rows_of_a_linear_head():
  variables = MODEL.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
  found = trw.head_rows(MODEL, variables, jnp.ones((2, 6)))
  np.testing.assert_array_equal(
    found, np.asarray(variables.params['head']['kernel']).T
  )


def test_a_point_on_the_row_of_the_class_is_the_class():
  rows = random(4, 6, 9)
  found = trw.principal_axes(jnp.asarray(rows))
  points = (3 * (rows - rows.mean(0))) @ np.asarray(found.axes)
  each = trw.similarities(found.coordinates, jnp.asarray(points), 2, 4)
  np.testing.assert_allclose(
    each[2], similarity(found.coordinates, 2, 4), atol=1e-5
  )
  np.testing.assert_allclose(np.asarray(each).sum(1), 1, rtol=1e-5)
  assert (np.asarray(each)[:, 2] == 0).all()
  # Another class's own row is like that class.
  nearest = np.asarray(each).argmax(1)[[0, 1, 3, 4, 5]]
  np.testing.assert_array_equal(nearest, [0, 1, 3, 4, 5])
  # The places are the rows in these axes.
  np.testing.assert_allclose(
    np.asarray(found.coordinates), points / 3, atol=1e-4
  )


def test_noise_moves_the_cosines():
  places = trw.principal_axes(jnp.asarray(random(5, 4, 7))).coordinates
  noise = jnp.array([0.3, -0.2, 0.1, 5.0])
  plain, moved = (
    np.log(np.asarray(similarity(places, 3, 4, 0.5, n))[:3])
    for n in (None, noise)
  )
  change = moved - plain
  np.testing.assert_allclose(
    change - change[0], (np.asarray(noise)[:3] - 0.3) / 0.5, atol=1e-4
  )


def test_what_a_tilt_costs_and_gains():
  """KL(q | p) = beta E_q s - log Z; E_q s grows by the variance of s."""
  with jax.enable_x64(True):
    draws = np.random.default_rng(6)
    logits, similar = draws.normal(size=(1, 6)), draws.dirichlet(np.ones(6))
    similar[4] = 0

    def tilt(beta):
      return trw.tilt_answers(
        jnp.asarray(logits), 4, jnp.asarray(similar), beta
      )[0]

    beta, keep = 2.3, np.arange(6) != 4
    q, plain = np.asarray(tilt(beta)), np.asarray(tilt(0.0))
    total = np.log(np.sum(plain * np.exp(beta * similar)))
    assert abs(kl(q, plain) - (beta * (q @ similar) - total)) < 1e-12
    variance = q @ similar**2 - (q @ similar) ** 2
    slope = jax.grad(lambda b: tilt(b) @ similar)(beta)
    assert abs(float(slope) - variance) < 1e-12
    # Nobody else without class 4 and with that mean similarity is nearer.
    basis = np.stack([np.ones(5), similar[keep]])
    step = draws.normal(size=5)
    step -= np.linalg.pinv(basis) @ (basis @ step)
    other = q.copy()
    other[keep] += 0.5 * np.min(q[keep] / np.abs(step)) * step
    both = kl(other, q) + kl(q, plain)
    assert abs(kl(other, plain) - both) < 1e-12


def samples(seed, count, label):
  image = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1))
  return descent.whole_batch(
    Batch(jnp.asarray(image, jnp.uint8), jnp.asarray(label, jnp.int32))
  )


@pytest.mark.parametrize(
  ('retain', 'by_sample'), [(False, False), (True, True)]
)
def test_one_step_by_hand(retain, by_sample):
  start = MODEL.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
  keep = samples(0, 8, np.arange(8) % 4)
  forget = samples(1, 8, np.full(8, 4))
  method = trw.trw(
    Network(MODEL, STEP), Training(optax.sgd(0.5), 1, 8),
    betas=(2.0,), dimensions=(3,), retain=retain, by_sample=by_sample,
    noises=(0.5,),
  )  # fmt: skip
  given = MethodInputs(keep if retain else None, forget)
  prepared = method.prepare(jax.random.key(1), start, given)
  found, info = method.solve(
    jax.random.key(2), start, given, prepared, method.grid[0]
  )
  assert info['gradient_evaluations'] == (16 if retain else 8)
  rows = jnp.asarray(start.params['head']['kernel']).T
  image, found_axes = STEP.eval(forget.batch.image), trw.principal_axes(rows)
  noise = 0.5 * prepared.noise
  similar = similarity(found_axes.coordinates, 4, 3, noise=noise)
  if by_sample:
    points = MODEL.features(start, image) @ found_axes.axes
    similar = trw.similarities(
      found_axes.coordinates, points, 4, 3, noise=noise
    )
  wanted = trw.tilt_answers(MODEL.apply(start, image), 4, similar, 2.0)

  def loss(params):
    there = Variables(params, start.batch_stats)
    log = jax.nn.log_softmax(MODEL.apply(there, image))
    total = -jnp.sum(wanted * log, -1).mean()
    if retain:
      log = jax.nn.log_softmax(MODEL.apply(there, STEP.eval(keep.batch.image)))
      total -= jnp.take_along_axis(log, keep.batch.label[:, None], 1).mean()
    return total

  expected = jax.tree.map(
    lambda p, g: p - 0.5 * g, start.params, jax.grad(loss)(start.params)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    found.params,
    expected,
  )


def test_at_the_target_nothing_moves():
  logits = jnp.asarray(random(3, 4, 5))
  wanted = trw.tilt_answers(logits, 0, jnp.zeros(5), 1.0)

  def loss(z):
    return -jnp.sum(wanted * jax.nn.log_softmax(z), -1).sum()

  gradient = jax.grad(loss)(logits)
  expected = jax.nn.softmax(logits) - wanted
  np.testing.assert_allclose(gradient, expected, atol=1e-6)
  there = jnp.where(jnp.arange(5)[None] == 0, -jnp.inf, logits)
  np.testing.assert_allclose(jax.nn.softmax(there), wanted, atol=1e-6)
