"""One-step and projected attacks: closed forms, bounds, bad input."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_case import SHAPE, drawn, images, linear, norm, run
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax import networks
from cmu_jax.core import errors, jit
from cmu_jax.core.types import Batch, Network
from cmu_jax.data import input_step
from cmu_jax.robustness import attacks
from cmu_jax.robustness.attacks import (
  auto_projected_gradient,
  balls,
  objectives,
)

pytestmark = pytest.mark.usefixtures('quick_compilation')

RADIUS, FAR = 0.05, 0.3
ATTACKS = {
  'fgsm': (attacks.fgsm(FAR, 'l2'), 'l2'),
  'ffgsm': (attacks.ffgsm(FAR, 1.25 * FAR), 'linf'),
  'pgd': (attacks.pgd(FAR, 'l2', 5, restarts=2), 'l2'),
  'margin': (attacks.pgd(FAR, 'linf', 5, loss='margin'), 'linf'),
  'autopgd': (attacks.autopgd(FAR, 'l2', 9, 2), 'l2'),
  'dlr': (attacks.autopgd(FAR, 'linf', 9, loss='dlr'), 'linf'),
  'march': (attacks.march(FAR, marches=3, restarts=2), None),
}


def _slow(name):
  return pytest.param(name, marks=pytest.mark.slow)


def _furthest(weight, image, label, kind):
  """Where a linear network of two classes is furthest up its loss."""
  rise = np.asarray(weight[:, 1] - weight[:, 0])
  rise = np.where(np.asarray(label)[:, None] == 0, rise, -rise)
  unit = np.sign(rise)
  if kind == 'l2':
    unit = rise / np.linalg.norm(rise, axis=1, keepdims=True)
  return np.asarray(image) + RADIUS * unit.reshape(image.shape)


@pytest.mark.parametrize(
  ('kind', 'loss'), [('linf', 'margin'), ('l2', 'cross_entropy')]
)
def test_a_linear_network_is_attacked_along_its_weights(kind, loss):
  weight, image = drawn(0), images(1, 6, 0.3, 0.7)
  label = np.arange(6, dtype=np.int32) % 2
  wanted = _furthest(weight, image, label, kind)
  score = lambda x: np.asarray(x).reshape(6, -1) @ np.asarray(weight)
  for attack in (
    attacks.fgsm(RADIUS, kind, loss),
    attacks.pgd(RADIUS, kind, 60, RADIUS / 2, loss=loss),
  ):
    found = run(attack, weight, image, label)
    predicted = score(found.image).argmax(-1)
    np.testing.assert_array_equal(found.label, predicted)
    np.testing.assert_array_equal(found.success, predicted != label)
    np.testing.assert_allclose(found.image, wanted, atol=1e-3)
  assert 0 < np.asarray(found.success).sum() < 6


def test_ffgsm_reaches_the_corner_where_its_step_does():
  weight, image, label = drawn(0), images(1, 6, 0.3, 0.7), jnp.zeros(6, int)
  wanted = _furthest(weight, image, label, 'linf')
  far = run(attacks.ffgsm(RADIUS, 2 * RADIUS), weight, image, label)
  np.testing.assert_allclose(far.image, wanted, atol=1e-6)
  near = run(attacks.ffgsm(RADIUS, RADIUS / 8), weight, image, label)
  moved = np.asarray(near.image - image)
  assert norm(moved, 'linf').max() <= RADIUS + 1e-6
  assert np.abs(np.asarray(near.image) - wanted).max() > RADIUS
  other = run(attacks.ffgsm(RADIUS, RADIUS / 8), weight, image, label, seed=1)
  assert (np.asarray(other.image) != np.asarray(near.image)).any()


@pytest.mark.parametrize(
  'name', [_slow(name) if name == 'autopgd' else name for name in ATTACKS]
)
@settings(max_examples=12, deadline=None)
@given(
  seed=st.integers(0, 2**31),
  scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
  corners=st.booleans(),
)
def test_no_attack_leaves_the_ball_or_the_pixels(name, seed, scale, corners):
  attack, kind = ATTACKS[name]
  image = images(seed, 4)
  image = jnp.round(image) if corners else image
  label = jnp.arange(4, dtype=jnp.int32) % 3
  found = run(attack, drawn(seed, 3, scale), image, label, seed=seed)
  pixels = np.asarray(found.image)
  assert np.isfinite(pixels).all()
  assert pixels.min() >= 0 and pixels.max() <= 1
  if kind is not None:
    moved = norm(pixels.astype(np.float64) - np.asarray(image), kind)
    assert moved.max() <= FAR


@pytest.mark.parametrize('kind', ['linf', 'l2'])
def test_a_random_start_fills_the_ball(kind):
  image = jnp.full((400, 4, 4, 2), 0.5)
  start = jax.jit(balls.draw_start, static_argnums=3)(
    jax.random.key(0), image, 0.2, kind
  )
  delta = np.asarray(start - image).reshape(400, -1)
  size = norm(delta, kind)
  assert size.max() <= 0.2 * (1 + 1e-6)
  # The volume inside a share s of the radius is s^32 of the whole.
  assert np.median(size) == pytest.approx(0.2 * 0.5 ** (1 / 32), rel=0.01)
  assert abs(delta.mean()) < 0.002
  with pytest.raises(AssertionError):
    np.testing.assert_array_equal(delta[0], delta[1])


def test_sizes_and_directions_survive_tiny_gradients():
  tiny = 1e-30 * np.asarray(images(0, 2))
  size, unit, still = jax.jit(
    lambda x: (
      balls.image_norms(x, 'l2'),
      balls.steepest_direction(x, 'l2'),
      balls.steepest_direction(0 * x, 'l2'),
    )
  )(tiny)
  np.testing.assert_allclose(size, norm(tiny, 'l2'), rtol=1e-5)
  np.testing.assert_allclose(norm(unit, 'l2'), 1, rtol=1e-5)
  assert not still.any()


def test_losses_by_hand():
  logits = jnp.array([[1.0, 4.0, 2.0], [0.0, -1.0, 5.0]])
  label = jnp.array([1, 1])
  margin, ratio, scaled = jax.jit(
    lambda z: (
      objectives.margin(z, label),
      objectives.dlr(z, label),
      objectives.dlr(7 * z + 3, label),
    )
  )(logits)
  np.testing.assert_allclose(margin, [-2, 6])
  np.testing.assert_allclose(ratio, [-2 / 3, 6 / 6], rtol=1e-6)
  np.testing.assert_allclose(scaled, ratio, rtol=1e-6)


def test_gradients_are_not_divided_by_the_size_of_the_batch():
  weight, label = drawn(0, 3), jnp.array([1, 1, 0, 2])
  at = jax.jit(
    lambda x: objectives.evaluate(objectives.margin, linear(weight), x, label)
  )(images(0, 4))
  columns = np.asarray(weight).T
  slope = np.asarray(at.gradient).reshape(4, -1)
  logits = np.asarray(at.logits).copy()
  logits[np.arange(4), label] = -np.inf
  wanted = columns[logits.argmax(1)] - columns[np.asarray(label)]
  np.testing.assert_allclose(slope, wanted, rtol=1e-5)


def test_checkpoints_are_those_of_the_paper():
  assert auto_projected_gradient.checkpoints(100) == [
    22, 41, 57, 70, 80, 87, 93, 99,
  ]  # fmt: skip
  assert auto_projected_gradient.checkpoints(3) == [1, 2, 3]


def test_autopgd_halves_its_steps_and_finds_the_top():
  top = images(3, 2, 0.45, 0.55)

  def logits(image):
    away = ((image - top) ** 2).sum((1, 2, 3))
    return jnp.stack([jnp.ones_like(away), -away], 1)

  image, label = jnp.full(top.shape, 0.5), jnp.zeros(2, jnp.int32)
  go = lambda attack: jit.compile_cheaply(
    lambda k: attack(k, logits, image, label)
  )(jax.random.key(0))
  auto = go(attacks.autopgd(0.5, 'l2', 100, loss='margin'))
  plain = go(attacks.pgd(0.5, 'l2', 100, 0.25, loss='margin'))
  assert norm(auto.image - top, 'l2').max() < 1e-3
  assert norm(plain.image - top, 'l2').min() > 1e-2
  assert not auto.success.any()


def _saddle(image):
  """Two valleys: a start on the wrong side of 1/2 never gets out."""
  x = image[:, 0, 0, 0]
  rise = jnp.where(x < 0.5, -x, x) + 0.4 * (x >= 0.5)
  return jnp.stack([jnp.full_like(x, 0.75), rise], 1)


def test_restarts_keep_the_first_success():
  image = jnp.full((64, 1, 1, 1), 0.5)
  label = jnp.zeros(64, jnp.int32)

  def share(restarts):
    attack = attacks.pgd(0.4, 'linf', 20, 0.01, True, restarts, 'margin')
    go = jit.compile_cheaply(lambda k: attack(k, _saddle, image, label).success)
    return np.asarray(go(jax.random.key(1))).mean()

  assert 0.2 < share(1) < 0.8
  assert share(8) > 0.95


@pytest.mark.slow
def test_an_attack_can_be_mapped_over_networks():
  weights = jnp.stack([drawn(i, 3) for i in range(2)])
  image, label = images(1, 4), jnp.zeros(4, jnp.int32)
  attack, _ = ATTACKS['dlr']
  one = lambda w: attack(jax.random.key(0), linear(w), image, label)
  mapped = jax.jit(jax.vmap(one))(weights)
  for i, weight in enumerate(weights):
    alone = run(attack, weight, image, label)
    np.testing.assert_allclose(mapped.image[i], alone.image, atol=1e-5)


def test_products_are_of_float32_on_every_device():
  weight, image = drawn(0), images(0, 2)
  label = jnp.zeros(2, jnp.int32)
  program = str(
    jax.make_jaxpr(lambda k, x: attacks.fgsm(0.1)(k, linear(weight), x, label))(
      jax.random.key(0), image
    )
  )
  assert program.count('dot_general') == program.count('Precision.HIGHEST') / 2


NORMAL = input_step.make((0.4,), (0.3,), pad=2, flip=True)


@functools.cache
def _network():
  model = networks.make('fc', 3, SHAPE, width=8)
  start = jnp.zeros((1, *SHAPE))
  return model, jit.compile_cheaply(model.init)(jax.random.key(0), start)


def test_over_a_split_is_the_attack_of_every_block():
  model, variables = _network()
  raw = np.round(255 * np.asarray(images(0, 10))).astype(np.uint8)
  batch = Batch(jnp.asarray(raw), jnp.arange(10) % 3)
  attack = attacks.fgsm(0.1)
  found = attacks.attack_split(
    jax.random.key(0), attack, Network(model, NORMAL), variables, batch, 4
  )
  see = lambda v: attacks.logits_of(Network(model, NORMAL), v)
  alone, stored = jit.compile_cheaply(
    lambda k, v, x: (
      attack(k, see(v), raw / np.float32(255), batch.label),
      model.apply(v, NORMAL.eval(255 * x, None)).argmax(-1),
    )
  )(jax.random.key(0), variables, found.image)
  np.testing.assert_allclose(found.image, alone.image, atol=1e-6)
  np.testing.assert_array_equal(found.label, alone.label)
  np.testing.assert_array_equal(stored, found.label)
  assert attacks.fgsm(0.1) is attack


def test_over_a_split_compiles_once_and_starts_blocks_apart():
  model, variables = _network()
  image = jnp.full((6, 4, 4, 2), 100, jnp.uint8)
  batch = Batch(image, jnp.zeros(6, jnp.int32))
  traced = []

  def attack(key, logits, image, label):
    traced.append(image.shape)
    return attacks.pgd(0.1, steps=1, step=1e-4)(key, logits, image, label)

  go = lambda v: attacks.attack_split(
    jax.random.key(0), attack, Network(model, NORMAL), v, batch, 3
  )
  first = go(variables)
  assert (np.asarray(first.image[:3]) != np.asarray(first.image[3:])).any()
  go(jax.tree.map(lambda x: 2 * x, variables))
  assert traced == [(3, 4, 4, 2)]


def _bad(image=None, label=None, attack=None):
  model = networks.make('fc', 3, SHAPE, width=8)
  start = jnp.zeros((1, *SHAPE))
  variables = jit.compile_cheaply(model.init)(jax.random.key(0), start)
  good = images(0, 4)
  image = good if image is None else image(good)
  label = jnp.zeros(4, jnp.int32) if label is None else label
  attack = attack or attacks.fgsm(0.1)
  network = Network(model, NORMAL)
  see = attacks.logits_of(network, variables)
  ways = (
    lambda: attack(jax.random.key(0), see, image, label),
    lambda: attacks.attack_split(
      jax.random.key(0),
      attack,
      network,
      variables,
      Batch(255 * image, label),
    ),
  )
  for way in ways:
    with pytest.raises(errors.UserError) as caught:
      way()
    assert '\n' not in str(caught.value)
    yield str(caught.value)


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    (dict(image=lambda x: x.at[2, 0, 0, 0].set(jnp.nan)), 'image 2 .* NaN'),
    (dict(image=lambda x: x.at[1, 0, 0, 0].set(-0.1)), 'image 1 .* outside'),
    (dict(image=lambda x: x.at[3, 0, 0, 0].set(1.1)), 'image 3 .* outside'),
    (dict(label=jnp.array([0, 1, 3, 2])), 'label 3 of image 2'),
    (dict(label=jnp.array([0, -1, 1, 2])), 'label -1 of image 1'),
    (dict(image=lambda x: x[:0], label=jnp.zeros(0, int)), 'no images'),
  ],
)
def test_bad_images_and_labels_are_one_line(change, says):
  for message in _bad(**change):
    assert re.search(says, message), message


@pytest.mark.parametrize(
  'make',
  [
    lambda: attacks.fgsm(0.0),
    lambda: attacks.fgsm(-0.1),
    lambda: attacks.fgsm(float('nan')),
    lambda: attacks.fgsm(0.1, 'l3'),
    lambda: attacks.fgsm(0.1, loss='crossentropy'),
    lambda: attacks.ffgsm(0.1, 0.0),
    lambda: attacks.pgd(0.1, steps=0),
    lambda: attacks.pgd(0.1, step=-1.0),
    lambda: attacks.pgd(0.1, restarts=0),
    lambda: attacks.pgd(0.1, random_start=False, restarts=2),
    lambda: attacks.autopgd(0.1, steps=0),
    lambda: attacks.autopgd(0.0),
    lambda: attacks.minimal_pgd(0.0),
    lambda: attacks.minimal_pgd(0.1, step=2.0),
    lambda: attacks.minimal_pgd(0.1, norm='l1'),
  ],
)
def test_bad_settings_are_one_line(make):
  with pytest.raises(errors.UserError) as caught:
    make()
  assert '\n' not in str(caught.value)


def test_dlr_of_two_classes_is_one_line():
  attack = attacks.autopgd(0.1, loss='dlr')
  with pytest.raises(errors.UserError, match='3 classes'):
    attack(jax.random.key(0), linear(drawn(0)), images(0, 2), jnp.zeros(2, int))
