"""Triggers beyond the patch: what they paint, and how they are recorded."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import replay
import small_run
from hypothesis import given, settings
from hypothesis import strategies as st

from cmu_jax.core import config, errors, rng
from cmu_jax.data import corruption, input_step, painting
from cmu_jax.data.corruption import record as record_lib
from cmu_jax.data.corruption import triggers
from cmu_jax.studies.cuts import scene

KEY = rng.fold_in(5)
KINDS = {
  'badnet': {'margin': (0, 0), 'percent': 0.2},
  'corner': {'size': 2, 'value': 1.5},
  'blended': {'alpha': 0.3, 'seed': 4},
  'sinusoidal': {'amplitude': 30.0, 'frequency': 2.5},
  'warping': {'strength': 3.0, 'seed': 1},
  'sample_specific': {'amplitude': 30.0, 'seed': 2},
}


def pixels(*shape):
  draw = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
  return jnp.asarray(draw)


def raw(trigger, image, stamp=None):
  """Pixels 0 to 255 as the input step's evaluation has them."""
  step = input_step.make((0.0,), (1.0,), trigger=trigger)
  stamp = jnp.ones(len(image), bool) if stamp is None else stamp
  return np.asarray(jax.jit(step.eval)(image, stamp)) * 255


def test_every_kind_has_a_case_here():
  assert set(KINDS) == set(triggers.KINDS)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.01, 1.0))
def test_a_blended_trigger_is_the_rounded_mixture(alpha):
  image, pattern = pixels(3, 6, 5, 3), np.asarray(pixels(6, 5, 3))[::-1]
  trigger = triggers.make('blended', 6, 5, alpha=alpha, pattern=pattern)
  mixed = (1 - alpha) * np.asarray(image, float) + alpha * pattern[None]
  # Float32 may round a half the other way.
  assert abs(raw(trigger, image) - mixed).max() < 0.501


def test_a_blended_trigger_of_weight_one_is_the_pattern():
  pattern = np.asarray(pixels(6, 5))
  trigger = triggers.blended_pattern(6, 5, 1.0, pattern)
  painted = raw(trigger, pixels(2, 6, 5, 3))
  assert np.allclose(painted, pattern[None, :, :, None], atol=1e-3)


def test_a_sinusoidal_trigger_adds_stripes_and_clips():
  image = jnp.full((1, 4, 12, 1), 100, jnp.uint8)
  trigger = triggers.sinusoidal(4, 12, 20.0, 3.0)
  found = raw(trigger, image)[0, :, :, 0]
  # Three periods in 12 columns: sin at a quarter, half, ... of a period.
  assert np.allclose(found, [[120, 100, 80, 100] * 3] * 4, atol=1e-3)
  bright = raw(trigger, image * 0 + 250)[0, 0, :, 0]
  assert np.allclose(bright, [255, 250, 230, 250] * 3, atol=1e-3)


def test_a_warp_of_no_strength_is_the_identity():
  image = pixels(3, 7, 9, 3)
  painted = raw(triggers.smooth_warp(7, 9, 0.0), image)
  assert np.allclose(painted, np.asarray(image), atol=1e-3)


def test_a_warp_has_the_published_mean_displacement():
  field = np.asarray(triggers.smooth_warp(32, 32, 2.0, points=32).value)
  # At 32 x 32 points nothing is resized: the mean magnitude is exact.
  assert abs(field).mean() == pytest.approx(2.0 * 31 / 64, rel=1e-5)


@pytest.mark.parametrize('shift', [(1.0, 0.0), (0.0, -2.0), (0.5, 0.0)])
def test_a_warp_by_a_constant_is_a_shift_with_a_mean_between(shift):
  image = pixels(2, 8, 8, 3)
  field = jnp.broadcast_to(jnp.asarray(shift), (8, 8, 2))
  found = np.asarray(jax.jit(painting.warp_images)(image, field))
  wide = np.pad(np.asarray(image, float), ((0, 0), (3, 3), (3, 3), (0, 0)))
  wide[:, :3], wide[:, -3:] = wide[:, 3:4], wide[:, -4:-3]
  wide[:, :, :3], wide[:, :, -3:] = wide[:, :, 3:4], wide[:, :, -4:-3]
  moved = lambda y, x: wide[:, 3 + y : 11 + y, 3 + x : 11 + x]
  y, x = int(np.floor(shift[0])), int(shift[1])
  rest = shift[0] - y
  wanted = (1 - rest) * moved(y, x) + rest * moved(y + 1, x)
  assert np.allclose(found, wanted, atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.floats(0, 5))
def test_a_warp_stays_between_the_pixels_of_the_image(seed, strength):
  image = pixels(2, 8, 8, 3)
  field = triggers.smooth_warp(8, 8, strength, seed=seed).value
  found = np.asarray(painting.warp_images(image, field))
  assert found.min() >= np.min(image) - 1e-3
  assert found.max() <= np.max(image) + 1e-3


def test_a_sample_specific_trigger_differs_by_image_and_not_by_contrast():
  image = pixels(3, 8, 8, 1).astype(jnp.float32)
  patterns = triggers.sample_specific(8, 8, 30.0).value
  encode = jax.jit(painting.encode_images)
  noise = np.asarray(encode(image, patterns))
  assert abs(noise[0] - noise[1]).max() > 10
  assert np.allclose(encode(0.5 * image + 20, patterns), noise, atol=1e-2)
  # The code has length 1: the same noise in NumPy.
  code = np.einsum(
    'nhw,mhw->nm', np.asarray(image)[..., 0], painting.cosine_modes(8, 8)
  )
  code /= np.linalg.norm(code, axis=1, keepdims=True)
  wanted = np.einsum('nm,mhw->nhw', code, np.asarray(patterns))
  assert np.allclose(noise[..., 0], wanted, atol=1e-2)
  assert not np.asarray(encode(image * 0 + 77, patterns)).any()


def test_low_frequencies_are_orthogonal_and_have_no_mean():
  modes = painting.cosine_modes(6, 9).reshape(8, -1)
  products = modes @ modes.T
  assert np.allclose(products, np.diag(np.diag(products)), atol=1e-9)
  assert np.allclose(modes.sum(1), 0, atol=1e-9)


@pytest.mark.parametrize('kind', KINDS)
def test_unstamped_images_stay_and_pixel_types_agree(kind):
  image = pixels(4, 8, 8, 3)
  trigger = triggers.make(kind, 8, 8, **KINDS[kind])
  stamp = jnp.array([True, False, True, False])
  found = raw(trigger, image, stamp)
  plain = np.asarray(image, float)
  assert np.allclose(found[1::2], plain[1::2], atol=1e-3)
  assert abs(found[::2] - plain[::2]).max() > 5
  assert np.array_equal(raw(trigger, image.astype(jnp.float32), stamp), found)


@pytest.mark.parametrize('kind', KINDS)
def test_a_trigger_comes_back_from_its_record(kind):
  label = np.arange(40) % 4
  trigger = triggers.make(kind, 8, 8, **KINDS[kind])
  done = corruption.poison(KEY, label, 0.2, trigger)
  record = record_lib.make_record(done, 'poison', KEY, rate=0.2)
  read = json.loads(json.dumps(record))
  again = replay.draw_again(read, label).trigger
  assert np.array_equal(again.mask, trigger.mask)
  assert np.array_equal(again.value, trigger.value)
  for name in ('stage', 'keep', 'form'):
    assert getattr(again, name) == getattr(trigger, name)


def test_a_damaged_pattern_is_refused():
  label = np.arange(40) % 4
  done = corruption.poison(KEY, label, 0.2, triggers.sinusoidal(8, 8, 9.0, 2.0))
  record = record_lib.make_record(done, 'poison', KEY, rate=0.2)
  record['trigger']['pattern']['float32'] = 'AAA'
  with pytest.raises(errors.UserError, match='record is damaged'):
    replay.draw_again(record, label)


MISTAKES = {
  "did you mean 'blended'": lambda: triggers.make('blend', 8, 8),
  "did you mean 'alpha'": lambda: triggers.make('blended', 8, 8, alfa=0.1),
  'alpha 0.0 is outside': lambda: triggers.blended_pattern(8, 8, 0.0),
  'pattern of shape': lambda: triggers.blended_pattern(
    8, 8, pattern=np.zeros((8, 9), np.uint8)
  ),
  'amplitude 256': lambda: triggers.sinusoidal(8, 8, 256.0),
  'frequency 4.0': lambda: triggers.sinusoidal(8, 8, 20.0, 4.0),
  'strength -1.0 is outside': lambda: triggers.smooth_warp(8, 8, -1.0),
  'trigger points is 0': lambda: triggers.smooth_warp(8, 8, points=0),
  'trigger amplitude 0.0': lambda: triggers.sample_specific(8, 8, 0.0),
  'meets images of 1 channels': lambda: raw(
    triggers.blended_pattern(8, 8, pattern=np.zeros((8, 8, 3), np.uint8)),
    pixels(1, 8, 8, 1),
  ),
}


@pytest.mark.parametrize('message', MISTAKES)
def test_mistakes_are_one_clear_line(message):
  with pytest.raises(errors.UserError, match=message) as caught:
    MISTAKES[message]()
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'fields',
  [
    {'corruption.trigger': 'corner'},
    {'corruption.trigger': 'blended'},
    {'corruption.trigger': 'warping', 'corruption.trigger_strength': '3'},
    {'corruption.trigger': 'sample_specific'},
    {
      'corruption.trigger': 'sinusoidal',
      'corruption.trigger_frequency': '2',
      'corruption.kind': 'clean_label',
      'noise_rate': '0.5',
    },
  ],
)
def test_every_trigger_makes_a_scene(fields):
  cfg = config.load(small_run.POISON, fields).config
  world = scene.load_world(cfg)
  place = scene.draw_scene(cfg, world, 0)
  assert place.train.has_trigger.sum() == place.record['corrupted'] > 0
  image = place.train.image[:3]
  painted = world.inputs.eval(image, jnp.ones(3, bool))
  assert not np.allclose(painted, world.inputs.eval(image, None), atol=0.01)
  if fields['corruption.trigger'] == 'corner':
    white = world.inputs.eval(image * 0 + 255, None)
    assert np.allclose(white, world.trigger.value)
