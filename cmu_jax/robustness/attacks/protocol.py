"""What an attack is and returns, and what it refuses.

  Attack = (key, logits of images, image, label) -> Adversarial

Images are float32 in [0, 1]; whatever normalises them is part of the logits,
so that radii mean the same for every network. Attacks can be traced by `jit`
and `vmap`. Called with arrays outside of a trace they check them first.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cmu_jax.core import errors
from cmu_jax.robustness.attacks import objectives

Logits = objectives.Logits


class AttackResult(NamedTuple):
  """Where an attack got to.

  Attributes:
    image: n images in [0, 1].
    label: the class that is predicted there.
    success: whether that is another one than the label under attack.
    radius: of the ball that was searched last; `minimal` only.
    fallback: which ones needed the margin; `minimal` only.
    spent: gradients that each one took; `minimal` and `march` only.
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
  """Looks at what an attack found; predictions of NaN are no success."""
  found = logits(image)
  predicted = jnp.argmax(found, -1).astype(jnp.int32)
  success = (predicted != label) & jnp.isfinite(found).all(-1)
  return AttackResult(image, predicted, success)


def prefer_success(first: AttackResult, second: AttackResult) -> AttackResult:
  """The first where it succeeded, the second elsewhere."""

  def pick(a, b):
    where = first.success.reshape(-1, *(1,) * (a.ndim - 1))
    return jnp.where(where, a, b)

  return jax.tree.map(pick, first, second)


def check_positive(value: Any, name: str) -> float:
  """A number above 0, or UserError."""
  good = isinstance(value, int | float | np.number) and not isinstance(
    value, bool
  )
  errors.check(
    good and math.isfinite(value) and value > 0,
    f'{name} {value!r} of the attack is not a number above 0; pixels lie in '
    '[0, 1], for example 8 / 255',
  )
  return float(value)


def check_count(value: Any, name: str) -> int:
  """A whole number from 1, or UserError."""
  errors.check(
    isinstance(value, int | np.integer)
    and not isinstance(value, bool)
    and value >= 1,
    f'{name} {value!r} of the attack is not a whole number from 1 on',
  )
  return int(value)


def _first_bad_row(wrong: np.ndarray) -> int | None:
  """The first row that has a True."""
  rows = wrong.reshape(wrong.shape[0], -1).any(1)
  return int(rows.argmax()) if rows.any() else None


def check_shapes(image: Any, label: Any) -> None:
  """Refuses what are not n images and as many labels, or none at all."""
  found = np.shape(image), np.shape(label)
  errors.check(
    len(found[0]) == 4 and found[1] == found[0][:1],
    f'an attack takes images [n, h, w, c] and labels [n], not {found[0]} and '
    f'{found[1]}',
  )
  errors.check(found[1][0], 'there are no images to attack; give one or more')


def check_images(
  image: Any, label: Any, classes: int, top: float = 1.0
) -> None:
  """Refuses what no attack can mean, on the host.

  Args:
    image: n images of pixels from 0 to `top`, whole numbers or floats.
    label: n classes.
    classes: k.
    top: the value of a white pixel.

  Raises:
    UserError: no images, NaN or out of range pixels, a label that is no class;
      names the first image.
  """
  pixels, host = np.asarray(image), np.asarray(label)
  check_shapes(pixels, host)
  row = _first_bad_row((host < 0) | (host >= classes))
  errors.check(
    row is None,
    f'label {host[row or 0]} of image {row} is outside 0..{classes - 1}; mend '
    'the labels',
  )
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
  """An attack that checks arrays it is given outside of a trace.

  Its products are of float32: with the 10 bits that accelerators take by
  default, gradients of confident networks drown in rounding.
  """

  def run(key, logits, image, label):
    given = jax.tree.leaves((key, image, label))
    if not any(isinstance(x, jax.core.Tracer) for x in given):
      check_shapes(image, label)
      one = jax.ShapeDtypeStruct(np.shape(image), jnp.float32)
      check_images(image, label, jax.eval_shape(logits, one).shape[-1])
    pixels, classes = jnp.asarray(image, jnp.float32), jnp.asarray(label)
    with jax.default_matmul_precision('float32'):
      return attack(key, logits, pixels, classes.astype(jnp.int32))

  return run
