r"""D_A: near adversarial images of samples, under the classes they are given.

  D_A = {(x + delta, argmax f(x + delta)) : (x, y) in D_F},  ||delta|| small

Images stay floats: a perturbation of length 0.04 changes a pixel of a 32 x 32
image by 7e-4, less than half of 1/255, so that rounding would erase it.
"""

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
from cmu_jax.training import metrics

POLICIES = ('drop', 'margin_retry', 'keep_last', 'error')


class Pairs(NamedTuple):
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
  kept: Bool[Array, 'n']
  distance: Float[Array, 'n']
  flags: dict[str, Bool[Array, 'n']]
  spent: Int[Array, '']


class _Network(NamedTuple):
  """What is attacked."""

  model: Model
  inputs: InputStep
  variables: Variables


def _again(
  key: PRNGKey,
  found: attacks.Adversarial,
  retry: attacks.Attack,
  network: _Network,
  batch: Batch,
  size: int,
) -> attacks.Adversarial:
  """Another attack on the images on which the first one failed."""
  lost = np.flatnonzero(~np.asarray(found.success))
  if not lost.size:
    return found
  # As long as the first batch, so that no count of failures compiles anew.
  rows = lost[np.arange(batch.label.shape[0]) % lost.size]
  more = attacks.over(
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
  if found.spent is not None and more.spent is not None:
    spent = put(found.spent, found.spent[lost] + more.spent)
  if found.fallback is not None:
    fallback = put(found.fallback, True)
  return found._replace(
    image=put(found.image, more.image),
    label=put(found.label, more.label),
    success=put(found.success, more.success),
    spent=spent,
    fallback=fallback,
  )


def _refuse(success: Bool[Array, 'm'], rows: Int[np.ndarray, 'm']) -> None:
  lost = np.flatnonzero(~np.asarray(success))
  errors.check(
    not lost.size,
    f'{lost.size} of {rows.size} images have no adversarial image, the first '
    f'is row {rows[lost[0]] if lost.size else None}; use failures="drop" or '
    'another attack',
  )


def pairs(
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
) -> Pairs:
  """An adversarial image of every valid sample, verified as it is stored.

  The network need not be the one that is unlearned: adversarial images of
  another one are the transferred sets of the paper's appendix.

  Args:
    key: of the attack.
    model: the network under attack.
    inputs: raw pixels to network input; paints stamps after a perturbation.
    variables: the weights under attack.
    samples: D_F. Rows that are not valid are not looked at.
    attack: None for `attacks.minimal(0.04)`.
    failures: what becomes of samples without success: 'drop'; 'margin_retry'
      attacks them once more by `retry`, then drops; 'keep_last' keeps what the
      network gives another class where the attack ended; 'error'.
    retry: None for `attacks.minimal(0.04, loss='margin', warm=False)`.
    size: images in memory at once.

  Raises:
    UserError: no valid samples, bad pixels or labels (see `attacks.over`), an
      unknown policy, or failures where they are an error.
  """
  if failures not in POLICIES:
    raise errors.unknown('policy for failures', failures, POLICIES)
  rows = np.flatnonzero(np.asarray(samples.valid))
  errors.check(
    rows.size, 'the set to be forgotten is empty; give one image or more'
  )
  total = samples.valid.shape[0]
  where = rows[np.arange(total) % rows.size]
  batch = splits.take(samples.batch, where)
  network = _Network(model, inputs, variables)
  found = attacks.over(
    rng.named(key, 'attack'),
    attack or attacks.minimal(0.04),
    *network,
    batch,
    size,
    title='adversarial images',
    count=rows.size,
  )
  if failures == 'margin_retry':
    other = retry or attacks.minimal(0.04, loss='margin', warm=False)
    named = rng.named(key, 'retry')
    found = _again(named, found, other, network, batch, size)
  if failures == 'error':
    _refuse(found.success, rows)
  return _stored(network, batch, found, where, failures == 'keep_last', size)


def _stored(
  network: _Network,
  batch: Batch,
  found: attacks.Adversarial,
  index: Int[np.ndarray, 'n'],
  any_flip: bool,
  size: int,
) -> Pairs:
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
  spent = 0 if found.spent is None else np.asarray(found.spent).sum()
  return Pairs(
    clean=batch,
    image=stored.image,
    label=jnp.asarray(label),
    row=jnp.asarray(index, jnp.int32),
    kept=jnp.asarray(valid & (label != own) & (success | any_flip)),
    distance=jnp.asarray(np.linalg.norm(delta.reshape(total, -1), axis=1)),
    flags=jax.tree.map(jnp.asarray, flags),
    spent=jnp.asarray(spent, jnp.int32),
  )


def facts(found: Pairs) -> dict[str, float]:
  """Shares of the samples, and how far their adversarial images are.

  Returns:
    'adversarial_share' (with an adversarial image that counts),
    'fallback_share' (that needed the margin), 'misclassified_share' (before
    any perturbation), and 'distance', the median l2 norm of those that count
    (0 for none).
  """
  count = int(found.flags['valid'].sum())
  kept = np.asarray(found.kept)
  distance = np.asarray(found.distance)[kept]
  share = lambda flag: float(np.asarray(flag).sum() / count)
  return {
    'adversarial_share': share(kept),
    'fallback_share': share(found.flags['fallback']),
    'misclassified_share': share(found.flags['misclassified']),
    'distance': float(np.median(distance)) if distance.size else 0.0,
  }
