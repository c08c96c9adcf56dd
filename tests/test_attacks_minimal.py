"""The search for near adversarial images: distances, saturation, its end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_case import PIXELS, SHAPE, drawn, images, linear, norm, run
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import jit
from cmu_jax.robustness import attacks
from cmu_jax.robustness.attacks import minimal_distance

pytestmark = pytest.mark.usefixtures('quick_compilation')

START, COUNT = 0.04, 64
# Of unit length; each pixel can go along it for 2.8 before it leaves [0, 1].
UNIT = np.where(np.arange(PIXELS) % 3 == 0, -1.0, 1.0) / PIXELS**0.5


def _at(distances, scale=1.0):
  """A linear network and COUNT images at these distances, in turn.

  Of its three classes the last is never near.
  """
  away = np.resize(distances, COUNT)[:, None] * UNIT[None, :]
  label = np.arange(COUNT) % 2
  image = 0.5 + np.where(label[:, None] == 0, -away, away)
  nothing = np.zeros(PIXELS)
  weight = scale * np.stack([nothing, UNIT, nothing], 1)
  bias = scale * np.array([0.0, -0.5 * UNIT.sum(), -1e3])
  return (
    jnp.asarray(weight, jnp.float32),
    jnp.asarray(image.reshape(-1, *SHAPE), jnp.float32),
    jnp.asarray(label, jnp.int32),
    jnp.asarray(bias, jnp.float32),
  )


def _distances(count=COUNT):
  """Log-uniform, away from powers of two of the first radius."""
  rng = np.random.default_rng(0)
  exponent = rng.uniform(-2, 4.9, count)
  near = np.abs(exponent - np.round(exponent)) < 0.01
  return START * 2.0 ** np.where(near, exponent + 0.03, exponent)


@pytest.mark.parametrize('warm', [True, False])
def test_distances_to_a_plane(warm):
  d = _distances()
  weight, image, label, bias = _at(d)
  found = run(
    attacks.minimal_pgd(START, warm_start=warm), weight, image, label, bias
  )
  assert found.success.all()
  np.testing.assert_array_equal(found.label, 1 - label)
  wanted = START * 2 ** np.maximum(0, np.ceil(np.log2(d / START)))
  np.testing.assert_allclose(found.radius, wanted, rtol=1e-6)
  moved = norm(np.asarray(found.image) - np.asarray(image), 'l2')
  assert (moved > d * (1 - 1e-5)).all()
  assert (moved <= d + 0.1 * wanted + 1e-5).all()
  assert (moved / d)[d > START].max() <= 1.2 + 1e-4
  np.testing.assert_array_equal(found.fallback, d > START)


def test_distances_in_linf():
  weight, image, label, bias = _at([0.1, 0.3, 1.0])
  found = run(attacks.minimal_pgd(0.01, 'linf'), weight, image, label, bias)
  d = np.resize([0.1, 0.3, 1.0], COUNT) / PIXELS**0.5
  moved = norm(np.asarray(found.image) - np.asarray(image), 'linf')
  assert found.success.all()
  assert (moved > d - 1e-6).all() and (moved <= d * 1.2 + 1e-6).all()


def test_saturated_logits_need_the_margin():
  d = _distances()
  weight, image, label, bias = _at(d, scale=1000.0)
  share = lambda **options: np.asarray(
    run(
      attacks.minimal_pgd(START, **options), weight, image, label, bias
    ).success
  ).mean()
  assert share(loss='margin') == 1
  assert share(fallback=False) < 0.9
  assert share() == 1


def test_a_vanished_gradient_falls_back_at_the_first_radius():
  weight, image, label, bias = _at([0.03, 0.03], scale=1e5)
  plain = attacks.minimal_pgd(START)
  found = run(plain, weight, image, label, bias)
  assert found.success.all() and found.fallback.all()
  np.testing.assert_allclose(found.radius, START)


def test_what_is_misclassified_already_stays_where_it_is():
  weight, image, label, bias = _at([0.1, 0.2, 0.3])
  found = run(attacks.minimal_pgd(START), weight, image, 1 - label, bias)
  np.testing.assert_array_equal(found.image, image)
  np.testing.assert_array_equal(found.label, label)
  np.testing.assert_allclose(found.radius, START)
  assert found.success.all() and not found.fallback.any()


def test_a_constant_network_ends_after_every_radius():
  seen, steps = [], 5
  most = minimal_distance.count_doublings(START, 'l2', SHAPE)
  assert most == 8  # sqrt(32) / 0.04 = 141

  def constant(image):
    jax.debug.callback(lambda: seen.append(1))
    return jnp.ones((len(image), 1)) * jnp.array([[1.0, 0.0]])

  image = images(0, 3)
  go = lambda x: attacks.minimal_pgd(START, steps=steps)(
    jax.random.key(0), constant, x, jnp.zeros(3, jnp.int32)
  )
  found = jit.compile_cheaply(go)(image)
  jax.effects_barrier()
  np.testing.assert_array_equal(found.image, image)
  assert not found.success.any() and found.fallback.all()
  np.testing.assert_allclose(found.radius, START * 2**most, rtol=1e-6)
  # Each radius ends with a look; the outcome is one more.
  assert len(seen) == (most + 1) * (steps + 1) + 1


@pytest.mark.parametrize(
  ('radius', 'norm', 'shape', 'wanted'),
  [
    (0.04, 'l2', (32, 32, 3), 11),
    (0.04, 'linf', (32, 32, 3), 5),
    (0.5, 'linf', (8, 8, 1), 1),
    (1.0, 'linf', (8, 8, 1), 0),
    (8.0, 'l2', (8, 8, 1), 0),
    (100.0, 'l2', (8, 8, 1), 0),
  ],
)
def test_how_often_a_radius_doubles(radius, norm, shape, wanted):
  assert minimal_distance.count_doublings(radius, norm, shape) == wanted


def test_a_first_radius_that_holds_all_images_still_tries_the_margin():
  weight, image, label, bias = _at([0.9, 0.9], scale=1e4)
  found = run(attacks.minimal_pgd(6.0, step=0.02), weight, image, label, bias)
  assert found.success.all() and found.fallback.all()
  np.testing.assert_allclose(found.radius, 6.0)


@settings(max_examples=20, deadline=None)
@given(
  seed=st.integers(0, 2**31),
  scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
  corners=st.booleans(),
)
def test_the_search_ends_inside_the_ball_and_the_pixels(seed, scale, corners):
  image = images(seed, COUNT)
  image = jnp.round(image) if corners else image
  weight, label = drawn(seed, 3, scale), jnp.arange(COUNT) % 3
  found = run(attacks.minimal_pgd(START), weight, image, label)
  pixels = np.asarray(found.image)
  assert np.isfinite(pixels).all()
  assert pixels.min() >= 0 and pixels.max() <= 1
  moved = norm(pixels.astype(np.float64) - np.asarray(image), 'l2')
  assert (moved <= np.asarray(found.radius)).all()
  predicted = np.asarray(linear(weight)(found.image).argmax(-1))
  np.testing.assert_array_equal(found.success, predicted != label)
  np.testing.assert_array_equal(found.label, predicted)


def test_what_an_image_gets_does_not_depend_on_its_batch():
  d = _distances()
  weight, image, label, bias = _at(d)
  attack = attacks.minimal_pgd(START)
  found = run(attack, weight, image, label, bias)
  turned = [x[::-1].at[: COUNT // 2].set(x[:1]) for x in (image, label)]
  other = run(attack, weight, *turned, bias)
  half = COUNT // 2
  np.testing.assert_allclose(
    other.image[half:], found.image[::-1][half:], atol=1e-6
  )


@pytest.mark.slow
def test_the_search_can_be_mapped_over_networks():
  weights = jnp.stack([drawn(i, 3) for i in range(3)])
  image, label = images(1, COUNT), jnp.arange(COUNT) % 3
  attack = attacks.minimal_pgd(START)
  one = lambda w: attack(jax.random.key(0), linear(w), image, label)
  mapped = jit.compile_cheaply(jax.vmap(one))(weights)
  for i, weight in enumerate(weights):
    alone = run(attack, weight, image, label)
    np.testing.assert_array_equal(mapped.radius[i], alone.radius)
    np.testing.assert_allclose(mapped.image[i], alone.image, atol=1e-5)
