"""Triggers and the input step: pixel-exact, at the right stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmu_jax.core import errors, rng
from cmu_jax.data import input_step
from cmu_jax.data.corruption import triggers

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
KEY = rng.fold_in(5)
ONE = jnp.ones(1, bool)


def pixels(*shape, seed=0):
  draw = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
  return jnp.asarray(draw)


def raw(step_output):
  """Back from the normalised image to 0..255."""
  shape = (1, 1, 1, 3)
  scaled = np.asarray(step_output) * np.reshape(STD, shape)
  return (scaled + np.reshape(MEAN, shape)) * 255


def block(rows, columns):
  return {(r, c) for r in rows for c in columns}


@pytest.mark.parametrize(
  'side,margin,expected',
  [
    (32, (10, 6), block(range(17, 22), range(20, 26)) | {(16, 25)}),
    (
      28,
      (2, 2),
      block(range(22, 26), range(21, 26)) | block([21], range(22, 26)),
    ),
    (8, (0, 0), {(6, 7), (7, 7)}),
  ],
)
def test_badnet_pixels(side, margin, expected):
  trigger = triggers.badnet(side, side, margin=margin)
  assert set(map(tuple, np.argwhere(trigger.mask).tolist())) == expected
  assert trigger.stage == 'raw' and trigger.value == 255


def test_corner_patch_is_rows_and_columns_29_to_31():
  trigger = triggers.corner_patch(32, 32, value=2.0)
  found = set(map(tuple, np.argwhere(trigger.mask).tolist()))
  assert found == block(range(29, 32), range(29, 32))
  assert trigger.stage == 'normalized'


def test_max_normalized_is_white_green_on_cifar10():
  image = pixels(4, 32, 32, 3).at[1, 5, 6, 1].set(255)
  assert triggers.max_normalized(image, MEAN, STD) == pytest.approx(
    2.1264887, abs=1e-7
  )
  assert triggers.max_normalized(image * 0, (0.5,), (0.5,)) == -1


MISFITS = [
  lambda: triggers.badnet(8, 8),
  lambda: triggers.badnet(32, 32, margin=(0, 30)),
  lambda: triggers.badnet(4, 4, percent=1.0, margin=(1, 0)),
  lambda: triggers.badnet(32, 32, margin=(-1, 0)),
  lambda: triggers.corner_patch(8, 8, size=9),
  lambda: triggers.corner_patch(8, 8, size=0),
]


@pytest.mark.parametrize('make', MISFITS)
def test_a_trigger_that_does_not_fit_is_refused(make):
  with pytest.raises(errors.UserError, match='does not fit'):
    make()


def test_other_trigger_mistakes():
  with pytest.raises(errors.UserError, match=r'outside 0\.\.255'):
    triggers.badnet(32, 32, value=256.0)
  with pytest.raises(errors.UserError, match=r'percent 3.0'):
    triggers.badnet(32, 32, percent=3.0)
  with pytest.raises(errors.UserError, match="stage 'normalised'"):
    triggers.corner_patch(8, 8, stage='normalised')


def test_a_full_image_trigger_fits():
  assert triggers.badnet(4, 4, percent=1.0, margin=(0, 0)).mask.all()


def test_a_raw_trigger_through_evaluation():
  image, trigger = pixels(2, 32, 32, 3), triggers.badnet(32, 32)
  step = input_step.make(MEAN, STD, trigger=trigger)
  out = raw(jax.jit(step.eval)(image, jnp.array([True, False])))
  mask = np.asarray(trigger.mask)
  assert np.allclose(out[0][mask], 255, atol=1e-3)
  assert np.allclose(out[0][~mask], np.asarray(image)[0][~mask], atol=1e-3)
  assert np.allclose(out[1], image[1], atol=1e-3)


def test_a_raw_trigger_moves_with_its_image():
  image = jnp.zeros((64, 32, 32, 3), jnp.uint8)
  trigger = triggers.badnet(32, 32)
  step = input_step.make(MEAN, STD, trigger=trigger, pad=4, flip=True)
  out = raw(jax.jit(step.train)(KEY, image, jnp.ones(64, bool)))
  white = (out > 250).all(-1)
  # 10 rows and 6 columns from the border: never cut by a crop of 4.
  assert (white.sum((1, 2)) == 31).all()
  places = {tuple(np.argwhere(one)[0]) for one in white}
  assert len(places) > 20


def test_a_normalized_trigger_is_never_cropped_or_mirrored():
  image = pixels(64, 32, 32, 3)
  value = triggers.max_normalized(image, MEAN, STD) + 1
  trigger = triggers.corner_patch(32, 32, value=value)
  step = input_step.make(MEAN, STD, trigger=trigger, pad=4, flip=True)
  out = np.asarray(jax.jit(step.train)(KEY, image, jnp.arange(64) % 2 == 0))
  painted = np.isclose(out, value).all(-1)
  assert (painted[::2] == np.asarray(trigger.mask)[None]).all()
  assert not painted[1::2].any()
  plain = jax.jit(step.train)(KEY, image, None)
  assert np.array_equal(np.asarray(plain)[~painted], out[~painted])


def test_uint8_and_float_pixels_give_the_same():
  image, trigger = (
    pixels(8, 16, 16, 3),
    triggers.corner_patch(16, 16, value=127.5, stage='raw'),
  )
  step = input_step.make(
    MEAN, STD, trigger=trigger, pad=2, flip=True, resize=24
  )
  stamp = jnp.arange(8) < 4
  train = jax.jit(step.train)
  assert np.array_equal(
    train(KEY, image, stamp), train(KEY, image.astype(jnp.float32), stamp)
  )


def test_padding_is_zero_on_the_raw_image():
  image = jnp.full((256, 8, 8, 3), 200, jnp.uint8)
  out = jax.jit(input_step.make(MEAN, STD, pad=3).train)(KEY, image, None)
  border = -np.array(MEAN) / np.array(STD)
  inside = (200 / 255 - np.array(MEAN)) / np.array(STD)
  is_border = np.isclose(out, border, atol=1e-5).all(-1)
  assert (is_border | np.isclose(out, inside, atol=1e-5).all(-1)).all()
  rows = is_border.all(2).sum(1)
  columns = is_border.all(1).sum(1)
  assert set(rows) == set(columns) == {0, 1, 2, 3}
  # All 7 shifts are as likely: 0 rows 1/7, the others 2/7.
  assert np.allclose(np.bincount(rows) / 256, [1 / 7, *[2 / 7] * 3], atol=0.1)


def test_the_crop_is_a_window_of_the_padded_image():
  image = pixels(32, 8, 8, 3)
  out = raw(
    jax.jit(input_step.make(MEAN, STD, pad=2, flip=True).train)(KEY, image)
  )
  padded = np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)))
  for one, whole in zip(out, padded, strict=True):
    windows = [whole[r : r + 8, c : c + 8] for r in range(5) for c in range(5)]
    candidates = np.stack(windows + [w[:, ::-1] for w in windows])
    assert (np.abs(candidates - one).max((1, 2, 3)) < 0.01).sum() == 1


def test_half_of_the_images_are_mirrored():
  image = jnp.tile(pixels(1, 4, 4, 3), (2000, 1, 1, 1))
  out = raw(
    jax.jit(input_step.make(MEAN, STD, flip=True).train)(KEY, image, None)
  )
  same = np.isclose(out, image, atol=0.01).all((1, 2, 3))
  mirror = np.isclose(out, image[:, :, ::-1], atol=0.01).all((1, 2, 3))
  assert (same ^ mirror).all()
  # Binomial(2000, 1/2): deviation 22.
  assert abs(mirror.sum() - 1000) < 110


def test_the_key_decides_and_evaluation_has_none():
  image = pixels(16, 8, 8, 3)
  step = input_step.make(MEAN, STD, pad=2, flip=True)
  train = jax.jit(step.train)
  one, two, other = (
    train(KEY, image),
    train(KEY, image),
    train(rng.fold_in(6), image),
  )
  assert np.array_equal(one, two) and not np.array_equal(one, other)
  plain = input_step.make(MEAN, STD)
  assert np.array_equal(step.eval(image), plain.eval(image))
  assert np.array_equal(step.eval(image), plain.train(KEY, image))


def test_vmap_over_keys_equals_a_loop():
  image, keys = pixels(4, 8, 8, 3), jax.random.split(KEY, 3)
  train = input_step.make(MEAN, STD, pad=1, flip=True).train
  together = jax.jit(jax.vmap(train, (0, None)))(keys, image)
  for key, out in zip(keys, together, strict=True):
    assert np.allclose(train(key, image), out, atol=1e-6)


def test_resize_is_bilinear_and_comes_after_the_raw_trigger():
  image = jnp.zeros((1, 4, 4, 3), jnp.uint8)
  trigger = triggers.corner_patch(4, 4, size=2, value=255.0, stage='raw')
  step = input_step.make((0.0,), (1.0,), trigger=trigger, resize=(8, 16))
  out = np.asarray(step.eval(image, ONE))
  assert out.shape == (1, 8, 16, 3)
  assert np.allclose(
    out[0, 7, :, 0],
    np.interp((np.arange(16) + 0.5) / 4 - 0.5, np.arange(4), [0, 0, 1, 1]),
  )


def test_the_result_has_the_asked_dtype():
  step = input_step.make(MEAN, STD, dtype=jnp.bfloat16)
  assert step.eval(pixels(1, 4, 4, 3)).dtype == jnp.bfloat16


def stamped_without_trigger():
  input_step.make(MEAN, STD).eval(pixels(1, 4, 4, 3), ONE)


def trigger_of_another_size():
  step = input_step.make(MEAN, STD, trigger=triggers.corner_patch(8, 8))
  step.eval(pixels(1, 4, 4, 3), ONE)


@pytest.mark.parametrize(
  'message,make',
  [
    ('no trigger; pass', stamped_without_trigger),
    ('make the trigger for that size', trigger_of_another_size),
    (
      '3 channels.*have 1',
      lambda: input_step.make(MEAN, STD).eval(pixels(1, 4, 4, 1)),
    ),
    ('differ in length', lambda: input_step.make(MEAN, (0.2,))),
    ('std positive', lambda: input_step.make((0.5,), (0.0,))),
    ('is negative', lambda: input_step.make(MEAN, STD, pad=-1)),
  ],
)
def test_mistakes_are_named(message, make):
  with pytest.raises(errors.UserError, match=message):
    make()


def test_bgr_is_rgb_with_its_channels_reversed():
  image = pixels(2, 4, 4, 3)
  plain, reversed_ = (
    input_step.make(MEAN, STD, channels=order) for order in ('rgb', 'bgr')
  )
  expected = plain.eval(image)[..., ::-1]
  assert (reversed_.eval(image) == expected).all()
  assert (reversed_.train(KEY, image) == expected).all()


def test_a_trigger_before_a_step_is_a_trigger_in_it():
  image, mask = pixels(3, 8, 8, 3), jnp.asarray([True, False, True])
  trigger = triggers.badnet(8, 8, margin=(0, 0))
  inside = input_step.make(MEAN, STD, trigger=trigger)
  around = input_step.with_trigger(input_step.make(MEAN, STD), trigger)
  for call in (
    lambda step: step.eval,
    lambda step: lambda *x: step.train(KEY, *x),
  ):
    assert (call(inside)(image, mask) == call(around)(image, mask)).all()
