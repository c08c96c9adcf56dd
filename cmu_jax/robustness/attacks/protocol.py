"""The protocol of attacks, and the checks of their arguments.

  Attack = (key, logits of images, image, label) -> AttackResult

Images are float32 in [0, 1]. The logits include any normalisation, so that
radii mean the same for every network. Attacks can be traced by `jit` and
`vmap`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cmu_jax.core import array_checks, errors
from cmu_jax.robustness.attacks import objectives

Logits = objectives.Logits

_MOST_STEPS = 1_000_000


class AttackResult(NamedTuple):
  """The images that an attack reached.

  Attributes:
    image: n images in [0, 1].
    label: the predicted classes of these images.
    success: whether the prediction differs from the label under attack.
    radius: of the last ball of the search; `minimal_pgd` only.
    fallback: whether the image needed the margin; `minimal_pgd` only.
    gradients: number of gradients; `minimal_pgd` and `march` only.
  """

  image: Float[Array, 'n h w c']
  label: Int[Array, 'n']
  success: Bool[Array, 'n']
  radius: Float[Array, 'n'] | None = None
  fallback: Bool[Array, 'n'] | None = None
  gradients: Int[Array, 'n'] | None = None


Attack = Callable[..., AttackResult]


def evaluate_images(
  logits: Logits, image: jax.Array, label: jax.Array
) -> AttackResult:
  """Predicts the classes of the images that an attack reached."""
  values = logits(image)
  predicted = jnp.argmax(values, -1).astype(jnp.int32)
  # argmax of NaN is a class, too, but a broken prediction is no success.
  success = (predicted != label) & jnp.isfinite(values).all(-1)
  return AttackResult(image, predicted, success)


def select(mask: Bool[Array, 'n'], chosen: Any, alternative: Any) -> Any:
  """Returns the rows of a tree where the mask is true, of another elsewhere."""

  def pick(a, b):
    return jnp.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

  return jax.tree.map(pick, chosen, alternative)


def check_positive(value: Any, name: str) -> float:
  """Returns a number above 0, or raises UserError."""
  # bool is a subclass of int, but True is no radius.
  numeric = isinstance(value, int | float | np.number) and not isinstance(
    value, bool
  )
  errors.check(
    numeric and math.isfinite(value) and value > 0,
    f'{name} {value!r} of the attack is not a number above 0; pixels lie in '
    '[0, 1], for example 8 / 255',
  )
  return float(value)


def check_count(value: Any, name: str) -> int:
  """Returns an integer of at least 1, or raises UserError."""
  errors.check(
    isinstance(value, int | np.integer)
    and not isinstance(value, bool)
    and value >= 1,
    f'{name} {value!r} of the attack is not an integer of at least 1',
  )
  return int(value)


def check_steps(steps: Any, restarts: Any = 1) -> tuple[int, int]:
  """Returns the steps of a run and the number of runs, or raises UserError.

  More than a million steps an image would last for days.
  """
  count, runs = check_count(steps, 'steps'), check_count(restarts, 'restarts')
  errors.check(
    count * runs <= _MOST_STEPS,
    f'{count:,} steps of the attack in {errors.count_text(runs, "run")} are '
    f'too many; give at most {_MOST_STEPS:,} together',
  )
  return count, runs


def _first_bad_row(bad: np.ndarray) -> int | None:
  """Returns the first row with a True; None without any."""
  rows = bad.reshape(bad.shape[0], -1).any(1)
  return int(rows.argmax()) if rows.any() else None


def check_shapes(image: Any, label: Any) -> None:
  """Raises UserError unless there are n > 0 images and n labels."""
  shapes = np.shape(image), np.shape(label)
  errors.check(
    len(shapes[0]) == 4 and shapes[1] == shapes[0][:1],
    f'an attack takes images [n, h, w, c] and labels [n], not {shapes[0]} and '
    f'{shapes[1]}',
  )
  errors.check(shapes[1][0], 'there are no images to attack; give one or more')


def check_images(
  image: Any, label: Any, classes: int, top: float = 1.0
) -> None:
  """Raises UserError for images and labels that no attack can use.

  Args:
    image: n images of pixels from 0 to `top`, integers or floats.
    label: n classes.
    top: the value of a white pixel.

  Raises:
    UserError: no images, pixels that are NaN or out of range, or a label
      outside the classes; names the first such image.
  """
  pixels, labels = np.asarray(image), np.asarray(label)
  check_shapes(pixels, labels)
  row = _first_bad_row((labels < 0) | (labels >= classes))
  errors.check(
    row is None,
    f'label {labels[row or 0]} of image {row} is outside 0..{classes - 1}; '
    'mend the labels',
  )
  # Pixels of 8 bits cannot be bad, and splits of them are large.
  if np.issubdtype(pixels.dtype, np.integer) and top == 255:
    return
  row = _first_bad_row(~np.isfinite(pixels))
  errors.check(
    row is None,
    f'image {row} has pixels that are NaN or infinite; leave it out',
  )
  row = _first_bad_row((pixels < 0) | (pixels > top))
  errors.check(
    row is None,
    f'image {row} has pixels outside [0, {top:g}]; scale the images, and let '
    'the network normalise them',
  )


def with_checks(attack: Attack) -> Attack:
  """Returns an attack that checks its arrays outside of a trace."""

  def run(key, logits, image, label):
    array_checks.check_key(key)
    array_checks.check_callable('logits', logits, 'a function, see `logits_of`')
    # Values of tracers are unknown; their owner has checked them before.
    leaves = jax.tree.leaves((key, image, label))
    if not any(isinstance(x, jax.core.Tracer) for x in leaves):
      check_shapes(image, label)
      aval = jax.ShapeDtypeStruct(np.shape(image), jnp.float32)
      check_images(image, label, jax.eval_shape(logits, aval).shape[-1])
    pixels, classes = jnp.asarray(image, jnp.float32), jnp.asarray(label)
    # Accelerators multiply with 10 bits by default, and the gradients of
    # confident networks would drown in rounding.
    with jax.default_matmul_precision('float32'):
      return attack(key, logits, pixels, classes.astype(jnp.int32))

  return run
