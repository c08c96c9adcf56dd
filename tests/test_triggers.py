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
from cmu_jax.data import corruption, input_step
from cmu_jax.data.corruption import record as record_lib
from cmu_jax.data.corruption import triggers
from cmu_jax.studies.cuts import scene

KEY = rng.fold_in(5)
KINDS = {
  'badnet': {'margin': (0, 0), 'percent': 0.2},
  'corner': {'size': 2, 'value': 1.5},
  'blended': {'alpha': 0.3, 'seed': 4},
  'sinusoidal': {'amplitude': 30.0, 'frequency': 2.5},
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
  assert (again.stage, again.keep) == (trigger.stage, trigger.keep)


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
