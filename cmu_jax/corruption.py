"""Corruptions of a training set, each a pure function of a key.

The draw is made once, on the host, from concrete labels. One key gives nested
sets: what is corrupted at 10% is also corrupted, in the same way, at 20%.

A published index set is used exactly through `indices`. Inter-class confusion
is `asymmetric` with a two-way map: class_map={3: 5, 5: 3}.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from cmu_jax import class_maps, errors, splits
from cmu_jax.splits import Indices, Labels
from cmu_jax.types import Batch, Corruption, PRNGKey, Trigger

CLASS_MAPS = class_maps.CLASS_MAPS
class_map = class_maps.class_map


def legacy_indices(
  seed: int, population: int, count: int
) -> Int[np.ndarray, 'count']:
  """`count` of 0..population-1 as NumPy's legacy generator chooses them.

  For index sets that were published as a seed. Seed 0 gives the poisoned
  CIFAR-10 images of arXiv 2402.14015, nested in `count`.
  """
  errors.check(
    0 <= count <= population,
    f'cannot choose {count} of {population} samples; lower the count',
  )
  return np.random.RandomState(seed).choice(population, count, replace=False)


def _chosen(indices: Indices, size: int) -> Bool[np.ndarray, 'n']:
  """The mask of a given index set."""
  host = np.asarray(indices)
  errors.check(
    host.size == 0 or (host.min() >= 0 and host.max() < size),
    f'indices run outside 0..{size - 1}; are they for another dataset?',
  )
  errors.check(
    np.unique(host).size == host.size, 'indices has duplicates; remove them'
  )
  mask = np.zeros(size, bool)
  mask[host] = True
  return mask


def _first(
  key: PRNGKey, eligible: Bool[np.ndarray, 'n'], count: int
) -> Bool[np.ndarray, 'n']:
  """A mask of `count` random samples among the eligible ones."""
  rank = splits.shuffled_rank(key, (~eligible).astype(np.int32))
  return eligible & (rank < count)


def _result(
  label: np.ndarray, mask: np.ndarray, trigger: Trigger | None = None
):
  return Corruption(jnp.asarray(label, jnp.int32), jnp.asarray(mask), trigger)


def symmetric(
  key: PRNGKey,
  label: Labels,
  rate: float,
  num_classes: int,
  indices: Indices | None = None,
) -> Corruption:
  """Moves floor(rate * n) labels, each to a uniformly drawn other class.

  Args:
    key: decides which samples and which classes.
    label: true labels [n].
    rate: share of all n samples, 0 to 1.
    num_classes: k, at least 2.
    indices: the samples to corrupt instead of drawn ones; `rate` is unused.

  Raises:
    UserError: the rate, a label or an index is out of range.

  References:
    CUTS, arXiv 2511.18660, section 4.
  """
  splits.check_rate(rate)
  errors.check(num_classes >= 2, 'label noise needs at least 2 classes')
  host = splits.check_labels(label, num_classes)
  which, where = jax.random.split(key)
  if indices is None:
    count = splits.floor_share(rate, host.size)
    mask = _first(which, np.ones(host.size, bool), count)
  else:
    mask = _chosen(indices, host.size)
  step = np.asarray(jax.random.randint(where, host.shape, 1, num_classes))
  return _result(np.where(mask, (host + step) % num_classes, host), mask)


def asymmetric(
  key: PRNGKey,
  label: Labels,
  rate: float,
  class_map: Mapping,
  indices: Indices | None = None,
  num_classes: int | None = None,
) -> Corruption:
  """Moves floor(rate * n_c) labels of each source class c to class_map[c].

  Args:
    key: decides which samples.
    label: true labels [n].
    rate: share of each source class, 0 to 1.
    class_map: source class to target class, see `class_map`.
    indices: the samples to corrupt instead of drawn ones; `rate` is unused.
    num_classes: k, to check the labels and the map against.

  Raises:
    UserError: the rate, a label, a class or an index is out of range, or an
      index is of a class that the map does not move.

  References:
    CUTS, arXiv 2511.18660, section 4.
  """
  splits.check_rate(rate)
  names = [str(c) for c in range(num_classes or 0)]
  pairs = class_maps.class_map(class_map, names)
  largest = max(*pairs, *pairs.values(), np.max(label, initial=0))
  top = num_classes or int(largest) + 1
  host = splits.check_labels(label, top)
  moved = np.arange(top)
  moved[list(pairs)] = list(pairs.values())
  source = moved[host] != host
  if indices is None:
    size = np.bincount(host, minlength=top)
    quota = np.array(
      [splits.floor_share(rate, count) for count in size.tolist()]
    )
    mask = source & (splits.shuffled_rank(key, host) < quota[host])
  else:
    mask = _chosen(indices, host.size)
    errors.check(
      source[mask].all(),
      'indices has samples of a class that class_map does not move; '
      'add the class to class_map or drop them',
    )
  return _result(np.where(mask, moved[host], host), mask)


def poison(
  key: PRNGKey,
  label: Labels,
  rate: float | None,
  trigger: Trigger,
  target: int = 0,
  include_target: bool = False,
  indices: Indices | None = None,
  count: int | None = None,
) -> Corruption:
  """Stamps the trigger on some samples and labels them as the target class.

  Args:
    key: decides which samples.
    label: true labels [n].
    rate: share of *all* n samples, of which round(rate * n) are poisoned; None
      where `count` or `indices` says how many.
    trigger: what the input step paints on them.
    target: the class they are labelled as.
    include_target: draw from all classes, so that some samples carry the
      trigger under their true label; otherwise from the other classes only.
    indices: the samples to poison instead of drawn ones.
    count: how many samples to poison, instead of `rate`.

  Raises:
    UserError: a rate, label or index out of range, or more samples asked for
      than are eligible.

  References:
    CUTS, arXiv 2511.18660, section 4; with include_target=True and a count,
    Corrective Machine Unlearning, arXiv 2402.14015, section 4.
  """
  given = [x is not None for x in (rate, count, indices)]
  errors.check(
    sum(given) == 1, 'poison needs exactly one of rate, count and indices'
  )
  errors.check(target >= 0, f'poison target {target} is not a class')
  host = splits.check_labels(
    label, 1 + max(target, int(np.max(label, initial=0)))
  )
  eligible = np.full(host.shape, True) if include_target else host != target
  if indices is None:
    if rate is not None:
      splits.check_rate(rate)
    wanted = round(rate * host.size) if rate is not None else count or 0
    errors.check(
      0 <= wanted <= eligible.sum(),
      f'cannot poison {wanted} samples: {eligible.sum()} are eligible (target '
      f'class {target}); lower the rate or set include_target=True',
    )
    mask = _first(key, eligible, wanted)
  else:
    mask = _chosen(indices, host.size)
    errors.check(
      eligible[mask].all(),
      f'indices has samples of the target class {target}; '
      'set include_target=True to poison them too',
    )
  return _result(np.where(mask, target, host), mask, trigger)


def apply(corruption: Corruption, batch: Batch) -> Batch:
  """The batch as the corruption leaves it: new labels, trigger stamps.

  Pixels are untouched: the input step paints the trigger.

  Raises:
    UserError: the corruption is of a set of another size.
  """
  n = batch.label.shape[0]
  errors.check(
    corruption.label.shape == (n,),
    f'the corruption is of {corruption.label.shape[0]} samples, the batch '
    f'has {n}; draw it from the labels of this batch',
  )
  stamp = batch.stamp if corruption.trigger is None else corruption.mask
  return batch._replace(label=corruption.label, stamp=stamp)
