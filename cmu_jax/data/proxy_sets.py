"""Proxy sets: unseen images that carry the suspected corruption in full.

Whatever share of the training set was corrupted, the proxy is corrupted at
rate 1 and keeps the corrupted images only (CUTS, arXiv 2511.18660, section 3).
What that means for a kind of corruption is `proxy` in its own file.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from cmu_jax.core import errors
from cmu_jax.core.types import Batch, PRNGKey, Proxy
from cmu_jax.data import corruption, splits


def _corrupted_positions(mask: Bool[Any, 'n'], kind: str) -> np.ndarray:
  kept = np.flatnonzero(mask)
  errors.check(
    kept.size,
    f'no image of the proxy pool can be corrupted as {kind!r}; '
    'use a larger proxy fraction or another class_map or target',
  )
  return kept


def make_proxy(
  key: PRNGKey,
  kind: str,
  pool: Batch,
  draws: int,
  num_classes: int,
  **arguments: Any,
) -> Proxy:
  """Corrupts a pool in full, `draws` times independently.

  Symmetric noise keeps every image and moves every label. Of the other kinds
  the images that really change are kept: of asymmetric noise those of the
  source classes, of poison those that are not of the target class, stamped.
  These leave nothing to chance, so their draws are equal.

  Args:
    key: split for the draws.
    kind: a name in `corruption.KINDS`.
    pool: images never seen in training, with their true labels [n].
    draws: how many re-corrupted copies.
    num_classes: k.
    **arguments: of the kind: class_map for 'asymmetric'; trigger and target
      for 'poison'; see `proxy` in the file of the kind.

  Raises:
    UserError: an unknown kind, a missing class_map or trigger, draws below 1,
      labels out of range, or no image that can be corrupted.

  References:
    CUTS, arXiv 2511.18660, section 3 and section 4.
  """
  errors.check(draws >= 1, f'proxy draws is {draws}; it must be at least 1')
  splits.check_labels(pool.label, num_classes)
  corrupt = corruption.find_kind(kind).proxy
  copies = [
    corrupt(one, pool.label, num_classes, **arguments)
    for one in jax.random.split(key, draws)
  ]
  kept = [_corrupted_positions(copy.mask, kind) for copy in copies]
  index = jnp.asarray(np.stack(kept), jnp.int32)
  label = jnp.stack(
    [copy.label[where] for copy, where in zip(copies, kept, strict=True)]
  )
  stamped = copies[0].trigger is not None
  stamp = jnp.ones(index.shape, bool) if stamped else None
  return Proxy(pool.image, index, label, stamp)


def make_clean_proxy(kind: str, pool: Batch, **arguments: Any) -> Batch:
  """The pool with true labels, for the catastrophic-forgetting baseline.

  All of it under symmetric noise and poison (the target class included, no
  trigger); the images of the source classes under asymmetric noise. For other
  kinds see `affected` in their file.

  Args:
    kind: a name in `corruption.KINDS`.
    pool: images never seen in training, with their true labels [n].
    **arguments: of the kind, as for `make_proxy`.

  Raises:
    UserError: an unknown kind, a missing class_map, or no image left.
  """
  affected = corruption.find_kind(kind).affected_mask
  clean = pool._replace(has_trigger=None)
  if affected is None:
    return clean
  return splits.take(
    clean, _corrupted_positions(affected(pool.label, **arguments), kind)
  )


def draw_copy(proxy: Proxy, i: int | Int[Array, '']) -> Batch:
  """The i-th re-corrupted copy as a batch; i may be traced (vmap, scan)."""
  stamp = None if proxy.has_trigger is None else proxy.has_trigger[i]
  return Batch(proxy.image[proxy.positions[i]], proxy.label[i], stamp)
