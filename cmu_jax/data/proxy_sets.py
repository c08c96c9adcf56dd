"""Proxy sets: unseen images that carry the suspected corruption in full.

The proxy is corrupted at rate 1, whatever share of the training set was
corrupted, and contains the corrupted images only (CUTS, arXiv 2511.18660,
section 3). Each kind of corruption defines its proxy in its own file.
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import Batch, PRNGKey, Proxy
from cmu_jax.data import corruption, splits


def _masked_positions(mask: Bool[Any, 'n'], kind: str) -> np.ndarray:
  positions = np.flatnonzero(mask)
  errors.check(
    positions.size,
    f'no image of the proxy pool can be corrupted as {kind!r}; '
    'use a larger proxy fraction or another class_map or target',
  )
  return positions


def make_proxy(
  key: PRNGKey,
  kind: str,
  pool: Batch,
  draws: int,
  num_classes: int,
  **arguments: Any,
) -> Proxy:
  """Corrupts a pool in full, `draws` times independently.

  Symmetric noise uses every image and moves every label. Other kinds use only
  the images that really change: asymmetric noise those of the source classes,
  poison those outside the target class, with the trigger. These kinds leave
  nothing to chance, so their draws are equal.

  Args:
    key: split for the draws.
    kind: a name in `corruption.KINDS`.
    pool: images never seen in training, with their true labels [n].
    draws: number of re-corrupted copies.
    num_classes: k.
    **arguments: of the kind: class_map for 'asymmetric'; trigger and target
      for 'poison'; see `proxy` in the file of the kind.

  Raises:
    UserError: an unknown kind, a missing class_map or trigger, draws below 1,
      labels out of range, or no image that can be corrupted.

  References:
    CUTS, arXiv 2511.18660, section 3 and section 4.
  """
  array_checks.check_key(key)
  array_checks.check_type('pool', pool, Batch)
  array_checks.check_count('proxy draws', draws)
  array_checks.check_count('num_classes', num_classes)
  corrupt = corruption.find_kind(kind).proxy
  # The key, the labels and the number of classes come from here.
  known = [*inspect.signature(corrupt).parameters][3:]
  for name in arguments:
    if name not in known:
      raise errors.unknown_name(f'argument of kind {kind!r}', name, known)
  splits.check_labels(pool.label, num_classes)
  copies = [
    corrupt(draw_key, pool.label, num_classes, **arguments)
    for draw_key in jax.random.split(key, draws)
  ]
  # The masks of all draws have the same size, so that they stack: no kind lets
  # chance decide how many images change.
  positions = [_masked_positions(copy.mask, kind) for copy in copies]
  index = jnp.asarray(np.stack(positions), jnp.int32)
  label = jnp.stack(
    [copy.label[rows] for copy, rows in zip(copies, positions, strict=True)]
  )
  poisoned = copies[0].trigger is not None
  has_trigger = jnp.ones(index.shape, bool) if poisoned else None
  return Proxy(pool.image, index, label, has_trigger)


def wrap_labels(image: Any, label: Any, has_trigger: Any = None) -> Proxy:
  """Makes a proxy of images that come with wrong labels of their own.

  Args:
    image: raw pixels, uint8 [n, h, w, c], never seen in training.
    label: the wrong label of each image, integers [n].
    has_trigger: bool [n], marks images on which the input step paints the
      trigger; None without trigger, or if the images have it in their pixels.

  Raises:
    UserError: images without a label, or labels below 0.
  """
  # NumPy would build an array of the parts of a tuple.
  errors.check(
    not isinstance(image, tuple),
    f'image is {errors.describe_value(image)}; give the array of pixels',
  )
  pixels, labels = np.asarray(image), np.asarray(label)
  errors.check(
    pixels.ndim == 4 and pixels.dtype == np.uint8,
    f'proxy images are {pixels.dtype} of shape {pixels.shape}; give uint8 '
    '[n, h, w, c]',
  )
  errors.check(
    labels.shape == pixels.shape[:1] and labels.size,
    f'{len(pixels)} proxy images have labels of shape {labels.shape}; give one '
    'label an image',
  )
  errors.check(
    np.issubdtype(labels.dtype, np.integer) and labels.min() >= 0,
    'proxy labels must be class numbers from 0',
  )
  errors.check(
    has_trigger is None or np.shape(has_trigger) == labels.shape,
    f'has_trigger has shape {np.shape(has_trigger)}; give one value an image',
  )
  every = jnp.arange(len(labels), dtype=jnp.int32)[None, :]
  return Proxy(
    jnp.asarray(image),
    every,
    jnp.asarray(labels, jnp.int32)[None, :],
    None if has_trigger is None else jnp.asarray(has_trigger, bool)[None, :],
  )


def make_clean_proxy(kind: str, pool: Batch, **arguments: Any) -> Batch:
  """Selects proxy images with true labels, for catastrophic forgetting.

  The whole pool under symmetric noise and poison (with the target class,
  without trigger); the images of the source classes under asymmetric noise. For
  other kinds see `affected_mask` in their file.

  Args:
    kind: a name in `corruption.KINDS`.
    pool: images never seen in training, with their true labels [n].
    **arguments: of the kind, as for `make_proxy`.

  Raises:
    UserError: an unknown kind, a missing class_map, or no image left.
  """
  affected_mask = corruption.find_kind(kind).affected_mask
  # True labels do not fit images with a trigger.
  clean = pool._replace(has_trigger=None)
  if affected_mask is None:
    return clean
  mask = affected_mask(pool.label, **arguments)
  return splits.take(clean, _masked_positions(mask, kind))


def draw_copy(proxy: Proxy, i: int | Int[Array, '']) -> Batch:
  """Selects the i-th re-corrupted copy; i may be traced (vmap, scan)."""
  has_trigger = None if proxy.has_trigger is None else proxy.has_trigger[i]
  return Batch(proxy.image[proxy.positions[i]], proxy.label[i], has_trigger)
