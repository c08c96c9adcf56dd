r"""What is trained on besides D_R and D_F: D_A, or a set in its place.

With (x, y) of D_F, its adversarial image x_a of class y_a, and delta the norm
of x_a - x:

  adv   (x_a, y_a)   D_A itself
  orig  (x, y)
  advl  (x, y_a)     its label without its image
  rl    (x, y')      y' uniform on the classes other than y and y_a
  arl   (x_a, y')    its image without its label
  ars   (x', y_a)    x' uniform on the sphere of radius delta about x

All have a row for each sample that has an adversarial image, so that they
compare. Images that are not of D_F are not augmented.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cmu_jax.core import errors, rng
from cmu_jax.core.types import PRNGKey, Samples
from cmu_jax.robustness.adversarial_sets.build import Pairs
from cmu_jax.robustness.attacks import norms

ELEMENTS = ('adv', 'orig', 'advl', 'rl', 'arl', 'ars')


def third(
  key: PRNGKey, first: Int[Array, 'n'], second: Int[Array, 'n'], classes: int
) -> Int[Array, 'n']:
  """A class other than two different ones, each as likely.

  Raises:
    UserError: fewer than three classes.
  """
  errors.check(
    classes >= 3,
    f'a label other than two needs 3 classes, there are {classes}; use "adv", '
    '"orig", "advl" or "ars"',
  )
  low, high = jnp.minimum(first, second), jnp.maximum(first, second)
  drawn = jax.random.randint(key, first.shape, 0, classes - 2, first.dtype)
  drawn = drawn + (drawn >= low)
  return drawn + (drawn >= high)


def _sphere(key: PRNGKey, found: Pairs) -> Float[Array, 'n h w c']:
  """Points as far from the clean images as the adversarial ones are."""
  clean = found.clean.image.astype(jnp.float32) / 255
  noise = jax.random.normal(key, clean.shape)
  unit = norms.direction(noise, 'l2')
  return 255 * jnp.clip(clean + norms.by_image(found.distance) * unit, 0.0, 1.0)


def element(
  key: PRNGKey,
  found: Pairs,
  name: str = 'adv',
  classes: int = 0,
  augment: bool = False,
) -> Samples:
  """D_A, or the set of the ablation of this name.

  Args:
    key: of random labels and points.
    found: samples and their adversarial images.
    name: one of ELEMENTS.
    classes: k, for random labels.
    augment: whether training may augment adversarial images as well (the
      variant 'amun_rand' of the released code).

  Returns:
    Rows as in `found`, identified; valid are those that have an adversarial
    image.

  Raises:
    UserError: an unknown name, or too few classes for it.

  References:
    AMUN, arXiv 2503.00917, section 4.2 and figure 1.
  """
  if name not in ELEMENTS:
    raise errors.unknown('set', name, ELEMENTS)
  clean, label = found.clean, found.label.astype(found.clean.label.dtype)
  image = clean.image
  if name in ('adv', 'arl'):
    image = found.image
  if name == 'ars':
    image = _sphere(rng.named(key, 'sphere'), found)
  if name == 'orig':
    label = clean.label
  if name in ('rl', 'arl'):
    label = third(rng.named(key, 'labels'), clean.label, label, classes)
  moved = name in ('adv', 'arl', 'ars') and not augment
  return Samples(
    clean._replace(image=image, label=label),
    jnp.ones_like(found.kept),
    found.kept,
    jnp.ones_like(found.kept) if moved else None,
  )
