"""The input step: raw pixels to network input, inside the compiled step.

Order: raw trigger, resize, zero-padded random crop and flip (training only),
scaling and normalisation, normalised trigger. A raw trigger is augmented with
its image; a normalised one is painted last and never cropped or mirrored.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import InputStep, PRNGKey, Trigger
from cmu_jax.data import normalisation, painting
from cmu_jax.data.painting import Image, TriggerFlags


def _resize(
  image: Image, size: tuple[int, int] | None
) -> Num[Array, 'n height width c']:
  if size is None or image.shape[1:3] == size:
    return image
  shape = (image.shape[0], *size, image.shape[3])
  # In float32, because resized uint8 pixels would be rounded.
  return jax.image.resize(image.astype(jnp.float32), shape, 'bilinear')


def check_pad(name: str, pad: int, shape: Sequence[int]) -> None:
  """Refuses a margin as wide as the images: crops would show nothing else.

  Args:
    name: of the setting, in the error.
    pad: pixels.
    shape: of the images, (n, h, w, c).
  """
  side = min(shape[1:3])
  errors.check(
    pad < side or not pad,
    f'{name} is {pad}, but the images have a side of {side} pixels; give less',
  )


def _augment(key: PRNGKey, image: Image, pad: int, flip: bool) -> Image:
  """Crops the zero-padded image, and mirrors it with probability 1/2."""
  check_pad('pad of the input step', pad, image.shape)
  n, h, w, _ = image.shape
  shift_key, flip_key = jax.random.split(key)
  # A crop of the padded image is a shift by at most `pad` pixels.
  shift = jax.random.randint(shift_key, (2, n), -pad, pad + 1)
  mirrored = jax.random.bernoulli(flip_key, 0.5, (n,)) & flip
  # A gather with clipped coordinates and a mask costs half of padding and
  # slicing inside a compiled loop on a CPU.
  row = jnp.arange(h)[None] + shift[0][:, None]
  column = jnp.arange(w)[None]
  column = jnp.where(mirrored[:, None], w - 1 - column, column)
  column = column + shift[1][:, None]
  inside = ((row >= 0) & (row < h))[:, :, None]
  inside = inside & ((column >= 0) & (column < w))[:, None, :]
  cut = image[
    jnp.arange(n)[:, None, None],
    jnp.clip(row, 0, h - 1)[:, :, None],
    jnp.clip(column, 0, w - 1)[:, None, :],
  ]
  return jnp.where(inside[..., None], cut, jnp.zeros((), image.dtype))


def _normalise(
  image: Image, mean: Float[np.ndarray, 'k'], std: Float[np.ndarray, 'k']
) -> Float[Array, 'n h w c']:
  errors.check(
    mean.size in (1, image.shape[-1]),
    f'mean and std are of {mean.size} channels, the images have '
    f'{image.shape[-1]}; give one value a channel',
  )
  shape = (1, 1, 1, mean.size)
  scaled = image.astype(jnp.float32) / 255
  return (scaled - mean.reshape(shape)) / std.reshape(shape)


def _check_statistics(mean: Sequence[float], std: Sequence[float]):
  """Returns both as float32 vectors of the same length."""
  for name, values in (('mean', mean), ('std', std)):
    errors.check(
      np.asarray(values).dtype.kind in 'iuf',
      f'{name} is {errors.describe_value(values)}; give numbers',
    )
  # On the host: constants are folded into the compiled step.
  vectors = tuple(np.atleast_1d(np.asarray(x, np.float32)) for x in (mean, std))
  errors.check(
    vectors[0].shape == vectors[1].shape and vectors[0].ndim == 1,
    f'mean {mean} and std {std} differ in length; give one value a channel',
  )
  errors.check(
    np.isfinite(vectors).all() and (vectors[1] > 0).all(),
    f'mean {mean} and std {std} must be finite and std positive',
  )
  normalisation.check_range(*(np.atleast_1d(x).tolist() for x in (mean, std)))
  return vectors


def make(
  mean: Sequence[float],
  std: Sequence[float],
  *,
  trigger: Trigger | None = None,
  pad: int = 0,
  flip: bool = False,
  resize: int | tuple[int, int] | None = None,
  dtype: jax.typing.DTypeLike = jnp.float32,
  channels: str = 'rgb',
) -> InputStep:
  """Binds the settings of an input step.

  Args:
    mean: mean of each channel (or a single mean), of pixels in [0, 1].
    std: likewise, the standard deviation.
    trigger: painted on the images that `has_trigger` marks.
    pad: rows and columns of zeros around the raw image that the random crop
      may take in; 0 for no crop. They become -mean/std.
    flip: mirror half of the training images.
    resize: side or (height, width) to resize to bilinearly, None to keep.
    dtype: of the result.
    channels: 'bgr' for a network that takes blue first, as OpenCV reads it;
      mean and std stay those of red, green and blue.

  Returns:
    Pure functions that jit and vmap. Pixels may be uint8 or floats in
    [0, 255]; the result is the same.

  Raises:
    UserError: mean and std do not fit each other or are of pixels up to 255,
      pad is negative, or, when called, channels, the trigger's size or pad do
      not fit the images.
  """
  if trigger is not None:
    array_checks.check_type('trigger', trigger, Trigger)
  errors.check(
    isinstance(pad, int | np.integer),
    f'pad is {errors.describe_value(pad)}; give an integer',
  )
  centre, scale = _check_statistics(mean, std)
  errors.check(pad >= 0, f'crop padding {pad} is negative; use 0 for no crop')
  size = (resize, resize) if isinstance(resize, int) else resize

  def finish(image: Image, flags: TriggerFlags) -> Float[Array, 'n h w c']:
    normal = _normalise(image, centre, scale)
    if channels == 'bgr':
      normal = normal[..., ::-1]
    return painting.paint(trigger, 'normalized', normal, flags).astype(dtype)

  def evaluate(image: Image, flags: TriggerFlags = None) -> jax.Array:
    return finish(
      _resize(painting.paint(trigger, 'raw', image, flags), size), flags
    )

  def train(
    key: PRNGKey, image: Image, flags: TriggerFlags = None
  ) -> jax.Array:
    # The raw trigger is part of the image, so augmentation moves it too.
    image = _resize(painting.paint(trigger, 'raw', image, flags), size)
    if pad or flip:
      image = _augment(key, image, pad, flip)
    return finish(image, flags)

  return InputStep(train, evaluate)


def with_trigger(inputs: InputStep, trigger: Trigger) -> InputStep:
  """An input step of any kind that paints a raw trigger beforehand.

  Args:
    inputs: paints no trigger of its own.
    trigger: of the stage 'raw'.
  """

  def evaluate(image: Image, flags: TriggerFlags = None) -> jax.Array:
    return inputs.eval(painting.paint(trigger, 'raw', image, flags), None)

  def train(
    key: PRNGKey, image: Image, flags: TriggerFlags = None
  ) -> jax.Array:
    return inputs.train(key, painting.paint(trigger, 'raw', image, flags), None)

  return InputStep(train, evaluate)
