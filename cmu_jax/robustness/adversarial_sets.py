"""D_A: near adversarial images of samples, under the classes they are given.

  D_A = {(x + delta, argmax f(x + delta)) : (x, y) in D_F},  ||delta|| small

Images stay floats: a perturbation of length 0.04 changes a pixel of a 32 x 32
image by 7e-4, less than half of 1/255, so that rounding would erase it.

Where the search for adversarial images is to begin.

What is trained on besides D_R and D_F: D_A, or a set in its place.

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

Sets of adversarial images of samples that are to be unlearned.

`pairs` finds an adversarial image of each sample, with the class that the
network gives it; `element` makes D_A of them, or one of the sets that the
paper's ablation puts in its place. `initial_radius` says where to begin.

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
  InputStep,
  Model,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.data import splits
from cmu_jax.robustness import attacks
from cmu_jax.robustness.attacks import balls
from cmu_jax.training import metrics

POLICIES = ('drop', 'margin_retry', 'keep_last', 'error')


class AdversarialPairs(NamedTuple):
  """Samples and what was found for them, in arrays as long as the samples'.

  Attributes:
    clean: the m samples that are valid, then copies of them.
    image: their adversarial images, 0 to 255, in float32.
    label: the classes that these are given.
    row: the row of the samples that each came from.
    kept: which ones have an adversarial image; no copy does.
    distance: the l2 norm of each perturbation, of pixels in [0, 1].
    flags: 'valid', 'success', 'misclassified' (before any perturbation, which
      is then 0) and 'fallback' (to the margin), of each row.
    spent: gradients of single images that the search took.
  """

  clean: Batch
  image: Float[Array, 'n h w c']
  label: Int[Array, 'n']
  row: Int[Array, 'n']
  usable: Bool[Array, 'n']
  distance: Float[Array, 'n']
  flags: dict[str, Bool[Array, 'n']]
  gradients: Int[Array, '']


class _Target(NamedTuple):
  """What is attacked."""

  model: Model
  inputs: InputStep
  variables: Variables


def _retry_failures(
  key: PRNGKey,
  found: attacks.AttackResult,
  retry: attacks.Attack,
  network: _Target,
  batch: Batch,
  size: int,
) -> attacks.AttackResult:
  """Another attack on the images on which the first one failed."""
  lost = np.flatnonzero(~np.asarray(found.success))
  if not lost.size:
    return found
  # As long as the first batch, so that no count of failures compiles anew.
  rows = lost[np.arange(batch.label.shape[0]) % lost.size]
  more = attacks.attack_split(
    key,
    retry,
    *network,
    splits.take(batch, rows),
    size,
    title='adversarial images, once more',
    count=lost.size,
  )

  def put(old, new):
    merged = np.array(old)
    merged[lost] = np.asarray(new)
    return jnp.asarray(merged)

  spent = fallback = None
  if found.gradients is not None and more.gradients is not None:
    spent = put(found.gradients, found.gradients[lost] + more.gradients)
  if found.fallback is not None:
    fallback = put(found.fallback, True)
  return found._replace(
    image=put(found.image, more.image),
    label=put(found.label, more.label),
    success=put(found.success, more.success),
    gradients=spent,
    fallback=fallback,
  )


def _check_no_failures(
  success: Bool[Array, 'm'], rows: Int[np.ndarray, 'm']
) -> None:
  lost = np.flatnonzero(~np.asarray(success))
  errors.check(
    not lost.size,
    f'{lost.size} of {rows.size} images have no adversarial image, the first '
    f'is row {rows[lost[0]] if lost.size else None}; use failures="drop" or '
    'another attack',
  )


def find_pairs(
  key: PRNGKey,
  model: Model,
  inputs: InputStep,
  variables: Variables,
  samples: Samples,
  *,
  attack: attacks.Attack | None = None,
  failures: str = 'drop',
  retry: attacks.Attack | None = None,
  size: int = 256,
) -> AdversarialPairs:
  """An adversarial image of every valid sample, verified as it is stored.

  The network need not be the one that is unlearned: adversarial images of
  another one are the transferred sets of the paper's appendix.

  Args:
    key: of the attack.
    model: the network under attack.
    inputs: raw pixels to network input; paints stamps after a perturbation.
    variables: the weights under attack.
    samples: D_F. Rows that are not valid are not looked at.
    attack: None for `attacks.minimal_pgd(0.04)`.
    failures: what becomes of samples without success: 'drop'; 'margin_retry'
      attacks them once more by `retry`, then drops; 'keep_last' keeps what the
      network gives another class where the attack ended; 'error'.
    retry: None for `attacks.minimal_pgd(0.04, loss='margin', warm=False)`.
    size: images in memory at once.

  Raises:
    UserError: no valid samples, bad pixels or labels (see
      `attacks.attack_split`), an
      unknown policy, or failures where they are an error.
  """
  if failures not in POLICIES:
    raise errors.unknown_name('policy for failures', failures, POLICIES)
  rows = np.flatnonzero(np.asarray(samples.valid))
  errors.check(
    rows.size, 'the set to be forgotten is empty; give one image or more'
  )
  total = samples.valid.shape[0]
  where = rows[np.arange(total) % rows.size]
  batch = splits.take(samples.batch, where)
  network = _Target(model, inputs, variables)
  found = attacks.attack_split(
    rng.fold_in(key, 'attack'),
    attack or attacks.minimal_pgd(0.04),
    *network,
    batch,
    size,
    title='adversarial images',
    count=rows.size,
  )
  if failures == 'margin_retry':
    other = retry or attacks.minimal_pgd(0.04, loss='margin', warm=False)
    named = rng.fold_in(key, 'retry')
    found = _retry_failures(named, found, other, network, batch, size)
  if failures == 'error':
    _check_no_failures(found.success, rows)
  return _verify_pairs(
    network, batch, found, where, failures == 'keep_last', size
  )


def _verify_pairs(
  network: _Target,
  batch: Batch,
  found: attacks.AttackResult,
  index: Int[np.ndarray, 'n'],
  any_flip: bool,
  size: int,
) -> AdversarialPairs:
  """What was found, as a training will see it.

  On the host: the number of samples decides the shapes.
  """
  count, total = found.success.shape[0], index.size
  cycled = lambda x: np.asarray(x)[np.arange(total) % count]
  valid = np.arange(total) < count
  image = np.float32(255) * cycled(found.image)
  stored = batch._replace(image=jnp.asarray(image))
  label, before = (
    metrics.predict(*network, split, size) for split in (stored, batch)
  )
  own, success = np.asarray(batch.label), cycled(found.success)
  nothing = np.zeros(count, bool)
  fallback = nothing if found.fallback is None else found.fallback
  flags = {
    'valid': valid,
    'success': valid & success & (label != own),
    'misclassified': valid & (before != own),
    'fallback': valid & cycled(fallback),
  }
  delta = (image - np.asarray(batch.image, np.float32)) / 255
  spent = 0 if found.gradients is None else np.asarray(found.gradients).sum()
  return AdversarialPairs(
    clean=batch,
    image=stored.image,
    label=jnp.asarray(label),
    row=jnp.asarray(index, jnp.int32),
    usable=jnp.asarray(valid & (label != own) & (success | any_flip)),
    distance=jnp.asarray(np.linalg.norm(delta.reshape(total, -1), axis=1)),
    flags=jax.tree.map(jnp.asarray, flags),
    gradients=jnp.asarray(spent, jnp.int32),
  )


def summarize_pairs(found: AdversarialPairs) -> dict[str, float]:
  """Shares of the samples, and how far their adversarial images are.

  Returns:
    'adversarial_share' (with an adversarial image that counts),
    'fallback_share' (that needed the margin), 'misclassified_share' (before
    any perturbation), and 'distance', the median l2 norm of those that count
    (0 for none).
  """
  count = int(found.flags['valid'].sum())
  kept = np.asarray(found.usable)
  distance = np.asarray(found.distance)[kept]
  share = lambda flag: float(np.asarray(flag).sum() / count)
  return {
    'adversarial_share': share(kept),
    'fallback_share': share(found.flags['fallback']),
    'misclassified_share': share(found.flags['misclassified']),
    'distance': float(np.median(distance)) if distance.size else 0.0,
  }


def choose_radius(
  key: PRNGKey,
  model: Model,
  inputs: InputStep,
  variables: Variables,
  batch: Batch,
  *,
  share: float = 0.95,
  count: int = 100,
  tiny: float = 1e-3,
  size: int = 256,
) -> float:
  """The first radius within which most samples have an adversarial image.

  Args:
    key: of which samples are tried.
    model: the network.
    inputs: raw pixels to network input.
    variables: its weights.
    batch: samples of D_F.
    share: of the samples tried, that must have one.
    count: samples to try.
    tiny: the radius that the search begins with.
    size: images in memory at once.

  Returns:
    `tiny` times a power of two.

  Raises:
    UserError: fewer samples than `share` have an adversarial image at all, or
      bad input, see `attacks.attack_split`.

  References:
    AMUN, arXiv 2503.00917, section 4.1: 95 % of about 100 samples.
  """
  total = batch.label.shape[0]
  order = jax.random.permutation(rng.fold_in(key, 'tried'), max(total, 1))
  few = splits.take(batch, order[:count]) if total else batch
  found = attacks.attack_split(
    rng.fold_in(key, 'attack'),
    attacks.minimal_pgd(tiny),
    model,
    inputs,
    variables,
    few,
    size,
    title='radius of the attack',
  )
  each = np.where(found.success, np.asarray(found.radius), np.inf)
  wanted = float(np.quantile(each, share, method='inverted_cdf'))
  errors.check(
    np.isfinite(wanted),
    f'only {np.isfinite(each).mean():.0%} of {each.size} images have an '
    f'adversarial image, not {share:.0%}; set the radius by hand',
  )
  return tiny * 2.0 ** round(math.log2(wanted / tiny))


SET_NAMES = ('adv', 'orig', 'advl', 'rl', 'arl', 'ars')


def draw_third_class(
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


def _draw_on_sphere(
  key: PRNGKey, found: AdversarialPairs
) -> Float[Array, 'n h w c']:
  """Points as far from the clean images as the adversarial ones are."""
  clean = found.clean.image.astype(jnp.float32) / 255
  noise = jax.random.normal(key, clean.shape)
  unit = balls.steepest_direction(noise, 'l2')
  return 255 * jnp.clip(
    clean + balls.expand_to_pixels(found.distance) * unit, 0.0, 1.0
  )


def build_set(
  key: PRNGKey,
  found: AdversarialPairs,
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
  if name not in SET_NAMES:
    raise errors.unknown_name('set', name, SET_NAMES)
  clean, label = found.clean, found.label.astype(found.clean.label.dtype)
  image = clean.image
  if name in ('adv', 'arl'):
    image = found.image
  if name == 'ars':
    image = _draw_on_sphere(rng.fold_in(key, 'sphere'), found)
  if name == 'orig':
    label = clean.label
  if name in ('rl', 'arl'):
    label = draw_third_class(
      rng.fold_in(key, 'labels'), clean.label, label, classes
    )
  moved = name in ('adv', 'arl', 'ars') and not augment
  return Samples(
    clean._replace(image=image, label=label),
    jnp.ones_like(found.usable),
    found.usable,
    jnp.ones_like(found.usable) if moved else None,
  )
