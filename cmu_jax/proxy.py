"""Proxy sets: unseen images that carry the suspected corruption in full.

Whatever share of the training set was corrupted, the proxy is corrupted at
rate 1 and keeps the corrupted images only (CUTS, arXiv 2511.18660, section 3).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from cmu_jax import corruption, errors, splits
from cmu_jax.types import Batch, Corruption, PRNGKey, Proxy, Trigger

KINDS = ('symmetric', 'asymmetric', 'poison')


def _corrupt(
  key: PRNGKey,
  kind: str,
  label: Int[Array, 'n'],
  num_classes: int,
  class_map: Mapping | None,
  trigger: Trigger | None,
  target: int,
) -> Corruption:
  """The pool at rate 1."""
  if kind == 'symmetric':
    return corruption.symmetric(key, label, 1.0, num_classes)
  if kind == 'asymmetric':
    if class_map is None:
      raise errors.UserError("an 'asymmetric' proxy needs a class_map")
    return corruption.asymmetric(
      key, label, 1.0, class_map, num_classes=num_classes
    )
  if kind == 'poison':
    if trigger is None:
      raise errors.UserError("a 'poison' proxy needs a trigger")
    count = int(jnp.sum(label != target))
    return corruption.poison(key, label, None, trigger, target, count=count)
  raise errors.unknown('corruption', kind, KINDS)


def _kept(mask: Bool[Array, 'n'], kind: str) -> np.ndarray:
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
  class_map: Mapping | None = None,
  trigger: Trigger | None = None,
  target: int = 0,
) -> Proxy:
  """Corrupts a pool in full, `draws` times independently.

  Symmetric noise keeps every image and moves every label; asymmetric noise
  keeps the images of the source classes; poison keeps the images that are not
  of the target class, stamped. The last two leave nothing to chance, so their
  draws are equal.

  Args:
    key: split for the draws.
    kind: 'symmetric', 'asymmetric' or 'poison'.
    pool: images never seen in training, with their true labels [n].
    draws: how many re-corrupted copies.
    num_classes: k.
    class_map: source class to target class, for 'asymmetric'.
    trigger: for 'poison'.
    target: the class that poisoned images are labelled as.

  Raises:
    UserError: an unknown kind, a missing class_map or trigger, draws below 1,
      labels out of range, or no image that can be corrupted.

  References:
    CUTS, arXiv 2511.18660, section 3 and section 4.
  """
  errors.check(draws >= 1, f'proxy draws is {draws}; it must be at least 1')
  splits.check_labels(pool.label, num_classes)
  copies = [
    _corrupt(k, kind, pool.label, num_classes, class_map, trigger, target)
    for k in jax.random.split(key, draws)
  ]
  kept = [_kept(copy.mask, kind) for copy in copies]
  index = jnp.asarray(np.stack(kept), jnp.int32)
  label = jnp.stack(
    [copy.label[where] for copy, where in zip(copies, kept, strict=True)]
  )
  stamp = None if trigger is None else jnp.ones(index.shape, bool)
  return Proxy(pool.image, index, label, stamp if kind == 'poison' else None)


def clean_proxy(
  kind: str, pool: Batch, class_map: Mapping | None = None
) -> Batch:
  """The pool with true labels, for the catastrophic-forgetting baseline.

  All of it under symmetric noise and poison (the target class included, no
  trigger); the images of the source classes under asymmetric noise.

  Raises:
    UserError: an unknown kind, a missing class_map, or no image left.
  """
  if kind not in KINDS:
    raise errors.unknown('corruption', kind, KINDS)
  if kind != 'asymmetric':
    return pool._replace(stamp=None)
  if class_map is None:
    raise errors.UserError("an 'asymmetric' proxy needs a class_map")
  source = jnp.isin(
    pool.label, jnp.asarray(list(corruption.class_map(class_map)))
  )
  return splits.take(pool._replace(stamp=None), _kept(source, kind))


def draw(proxy: Proxy, i: int | Int[Array, '']) -> Batch:
  """The i-th re-corrupted copy as a batch; i may be traced (vmap, scan)."""
  stamp = None if proxy.stamp is None else proxy.stamp[i]
  return Batch(proxy.image[proxy.kept[i]], proxy.label[i], stamp)
