r"""Sets of adversarial images of samples that are to be unlearned.

  D_A = {(x + delta, argmax f(x + delta)) : (x, y) in D_F},  ||delta|| small

`find_pairs` finds an adversarial image of each sample, with the class that the
network gives it; `build_set` makes D_A of the pairs, or a set of the paper's
ablation instead. `choose_radius` picks the radius at which the search begins.

References:
  AMUN, arXiv 2503.00917: algorithm 1 and section 4.2 (ablation).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Batch,
  Network,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.data import splits
from cmu_jax.robustness import attacks
from cmu_jax.robustness.attacks import balls
from cmu_jax.training import metrics

SET_NAMES = ('adv', 'orig', 'advl', 'rl', 'arl', 'ars')


class AdversarialPairs(NamedTuple):
  """Samples and their adversarial images, in arrays as long as the samples'.

  Attributes:
    clean: the m samples that are valid, then copies of them.
    image: their adversarial images, 0 to 255, in float32.
    label: the predicted classes of the adversarial images.
    row: the row of the samples that each came from.
    usable: whether a row has an adversarial image; false for copies.
    distance: the l2 norm of each perturbation, of pixels in [0, 1].
    flags: 'valid', 'misclassified' (before any perturbation, which is then 0)
      and 'fallback' (to the margin), of each row.
    gradients: number of gradients of single images in the search.
  """

  clean: Batch
  image: Float[Array, 'n h w c']
  label: Int[Array, 'n']
  row: Int[Array, 'n']
  usable: Bool[Array, 'n']
  distance: Float[Array, 'n']
  flags: dict[str, Bool[Array, 'n']]
  gradients: Int[Array, '']


def find_pairs(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  samples: Samples,
  *,
  attack: attacks.Attack | None = None,
  size: int = 256,
) -> AdversarialPairs:
  """Finds and verifies an adversarial image of every valid sample.

  Samples without success are not usable.

  The network need not be the unlearned one: adversarial images of another
  network are the transferred sets of the paper's appendix.

  Args:
    key: of the attack.
    network: under attack; its input step paints triggers after a perturbation.
    samples: D_F; invalid rows are ignored.
    attack: None for `attacks.minimal_pgd(0.04)`.
    size: images in memory at once.

  Raises:
    UserError: no valid samples, bad pixels or labels (see
      `attacks.attack_split`).
  """
  rows = np.flatnonzero(np.asarray(samples.valid))
  errors.check(
    rows.size, 'the set to be forgotten is empty; give one image or more'
  )
  # Copies of valid rows fill the arrays, whose length decides the compilation.
  total = samples.valid.shape[0]
  index = rows[np.arange(total) % rows.size]
  batch = splits.take(samples.batch, index)
  result = attacks.attack_split(
    rng.fold_in(key, 'attack'),
    attack or attacks.minimal_pgd(0.04),
    network,
    variables,
    batch,
    size,
    title='adversarial images',
    count=rows.size,
  )
  return _verify_pairs(network, variables, batch, result, index, size)


def _verify_pairs(
  network: Network,
  variables: Variables,
  batch: Batch,
  result: attacks.AttackResult,
  index: Int[np.ndarray, 'n'],
  size: int,
) -> AdversarialPairs:
  """Predicts the images again, in the form that a training will get."""
  # On the host, because the number of samples decides the shapes.
  count, total = result.success.shape[0], index.size
  cycle = lambda x: np.asarray(x)[np.arange(total) % count]
  valid = np.arange(total) < count
  # Images stay floats: a perturbation of 0.04 changes a pixel of a 32 x 32
  # image by 7e-4, less than half of 1/255, and rounding would erase it.
  image = np.float32(255) * cycle(result.image)
  stored = batch._replace(image=jnp.asarray(image))
  label, first_label = (
    metrics.predict(network, variables, split, size)
    for split in (stored, batch)
  )
  # float32 rounding may undo a flip, so the stored image decides.
  true_label, success = np.asarray(batch.label), cycle(result.success)
  no_fallback = np.zeros(count, bool)
  fallback = no_fallback if result.fallback is None else result.fallback
  flags = {
    'valid': valid,
    'misclassified': valid & (first_label != true_label),
    'fallback': valid & cycle(fallback),
  }
  delta = (image - np.asarray(batch.image, np.float32)) / 255
  gradients = 0
  if result.gradients is not None:
    gradients = np.asarray(result.gradients).sum()
  return AdversarialPairs(
    clean=batch,
    image=stored.image,
    label=jnp.asarray(label),
    row=jnp.asarray(index, jnp.int32),
    usable=jnp.asarray(valid & success & (label != true_label)),
    distance=jnp.asarray(np.linalg.norm(delta.reshape(total, -1), axis=1)),
    flags=jax.tree.map(jnp.asarray, flags),
    gradients=jnp.asarray(gradients, jnp.int32),
  )


def summarize_pairs(pairs: AdversarialPairs) -> dict[str, float]:
  """Summarizes success and distance of adversarial images.

  Returns:
    'adversarial_share' (usable samples), 'fallback_share' (to the margin),
    'misclassified_share' (before any perturbation), and 'distance', the median
    l2 norm of the perturbations of usable samples (0 for none).
  """
  count = int(pairs.flags['valid'].sum())
  usable = np.asarray(pairs.usable)
  # Without the failures, whose last iterates are arbitrarily far.
  distance = np.asarray(pairs.distance)[usable]
  share = lambda flag: float(np.asarray(flag).sum() / count)
  return {
    'adversarial_share': share(usable),
    'fallback_share': share(pairs.flags['fallback']),
    'misclassified_share': share(pairs.flags['misclassified']),
    'distance': float(np.median(distance)) if distance.size else 0.0,
  }


def draw_third_class(
  key: PRNGKey, label: Int[Array, 'n'], other: Int[Array, 'n'], classes: int
) -> Int[Array, 'n']:
  """Draws a class other than two different classes, uniformly.

  Raises:
    UserError: fewer than three classes.
  """
  errors.check(
    classes >= 3,
    f'a label other than two needs 3 classes, there are {classes}; use "adv", '
    '"orig", "advl" or "ars"',
  )
  low, high = jnp.minimum(label, other), jnp.maximum(label, other)
  # Skips the lower class first, then the higher one.
  third = jax.random.randint(key, label.shape, 0, classes - 2, label.dtype)
  third = third + (third >= low)
  return third + (third >= high)


def _draw_on_sphere(
  key: PRNGKey, pairs: AdversarialPairs
) -> Float[Array, 'n h w c']:
  """Draws points at the distances of the adversarial images."""
  clean = pairs.clean.image.astype(jnp.float32) / 255
  noise = jax.random.normal(key, clean.shape, jnp.float32)
  unit = balls.steepest_direction(noise, 'l2')
  moved = clean + balls.expand_to_pixels(pairs.distance) * unit
  return 255 * jnp.clip(moved, 0.0, 1.0)


def build_set(
  key: PRNGKey,
  pairs: AdversarialPairs,
  name: str = 'adv',
  classes: int = 0,
  augment: bool = False,
) -> Samples:
  """Builds D_A or a set of the ablation, to train on besides D_R and D_F.

  With (x, y) of D_F, its adversarial image x_a of class y_a, and delta the norm
  of x_a - x:

    adv   (x_a, y_a)   D_A itself
    orig  (x, y)
    advl  (x, y_a)     its label without its image
    rl    (x, y')      y' uniform on the classes other than y and y_a
    arl   (x_a, y')    its image without its label
    ars   (x', y_a)    x' uniform on the sphere of radius delta about x

  Args:
    key: of random labels and points.
    pairs: samples and their adversarial images.
    name: one of SET_NAMES.
    classes: k, for random labels.
    augment: whether training may augment adversarial images, too (the variant
      'amun_rand' of the released code).

  Returns:
    Rows as in `pairs`, identified; valid rows have an adversarial image.

  Raises:
    UserError: an unknown name, or too few classes for it.

  References:
    AMUN, arXiv 2503.00917, section 4.2 and figure 1.
  """
  if name not in SET_NAMES:
    raise errors.unknown_name('set', name, SET_NAMES)
  clean, label = pairs.clean, pairs.label.astype(pairs.clean.label.dtype)
  image = clean.image
  if name in ('adv', 'arl'):
    image = pairs.image
  if name == 'ars':
    image = _draw_on_sphere(rng.fold_in(key, 'sphere'), pairs)
  if name == 'orig':
    label = clean.label
  # The paper excludes y_a, too, so that the label alone is tested.
  if name in ('rl', 'arl'):
    label_key = rng.fold_in(key, 'labels')
    label = draw_third_class(label_key, clean.label, label, classes)
  # Crops and flips would move an image off the point that the attack found.
  moved = name in ('adv', 'arl', 'ars') and not augment
  return Samples(
    clean._replace(image=image, label=label),
    jnp.ones_like(pairs.usable),
    # All sets have the rows of D_A, so that the ablation compares like sizes.
    pairs.usable,
    jnp.ones_like(pairs.usable) if moved else None,
  )


def choose_radius(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  batch: Batch,
  *,
  share: float = 0.95,
  count: int = 100,
  smallest: float = 1e-3,
  size: int = 256,
) -> float:
  """Finds a radius within which most samples have an adversarial image.

  Args:
    key: of the choice of samples.
    batch: samples of D_F.
    share: of the tried samples that must have an adversarial image.
    count: samples to try.
    smallest: the radius at which the search begins.
    size: images in memory at once.

  Returns:
    `smallest` times a power of two.

  Raises:
    UserError: fewer samples than `share` have an adversarial image at all, or
      bad input, see `attacks.attack_split`.

  References:
    AMUN, arXiv 2503.00917, section 4.1: 95 % of about 100 samples.
  """
  total = batch.label.shape[0]
  order = jax.random.permutation(rng.fold_in(key, 'tried'), max(total, 1))
  tried = splits.take(batch, order[:count]) if total else batch
  result = attacks.attack_split(
    rng.fold_in(key, 'attack'),
    attacks.minimal_pgd(smallest),
    network,
    variables,
    tried,
    size,
    title='radius of the attack',
  )
  # A failure counts as infinitely far, so that it lowers the share.
  radii = np.where(result.success, np.asarray(result.radius), np.inf)
  radius = float(np.quantile(radii, share, method='inverted_cdf'))
  errors.check(
    np.isfinite(radius),
    f'only {np.isfinite(radii).mean():.0%} of {radii.size} images have an '
    f'adversarial image, not {share:.0%}; set the radius by hand',
  )
  # Undoes the rounding of radii in float32.
  return smallest * 2.0 ** round(math.log2(radius / smallest))
