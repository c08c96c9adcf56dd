"""Held-out pools: an exact share of every class, cut before any corruption.

Splits are drawn once, on the host, from concrete labels, because the number of
items of each class determines all later shapes.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import Batch, PRNGKey

Labels = Integer[Array, 'n'] | Integer[np.ndarray, 'n']
Indices = Integer[Array, 'm'] | Integer[np.ndarray, 'm']


def floor_share(rate: float, count: int) -> int:
  """Computes floor(rate * count), where 0.29 * 100 is 29 and not 28."""
  # 0.29 * 100 is 28.999999999999996 in floating point.
  return math.floor(rate * count + 1e-9)


def check_rate(rate: float, name: str = 'rate') -> None:
  """Raises UserError unless `rate` is a number from 0 to 1."""
  errors.check(
    isinstance(rate, int | float | np.number) and 0 <= rate <= 1,
    f'{name} {rate!r} is not a number from 0 to 1; write 40% as 0.4',
  )


def check_labels(label: Labels, num_classes: int) -> np.ndarray:
  """Returns the labels on the host; UserError for a label outside 0..k-1."""
  # NumPy would build an array of the parts of a batch.
  errors.check(
    not hasattr(label, '_fields'),
    f'labels are {errors.describe_value(label)}; give its label',
  )
  host = np.asarray(label)
  outside = (host < 0) | (host >= num_classes)
  if outside.any():
    position = int(outside.argmax())
    raise errors.UserError(
      f'label {int(host[position])} of sample {position} is outside '
      f'0..{num_classes - 1}; correct the labels or num_classes'
    )
  return host


def rank_in_class(label: Integer[np.ndarray, 'n'], order: np.ndarray):
  """Ranks each sample within its class; `order` sorts the samples by class."""
  grouped = label[order]
  rank = np.empty(label.size, np.int64)
  rank[order] = np.arange(label.size) - np.searchsorted(grouped, grouped)
  return rank


def shuffled_rank(key: PRNGKey, label: Labels) -> np.ndarray:
  """Ranks each sample in a random order of its own class.

  The samples of rank < m are m random samples of a class, and a smaller m gives
  a subset of them.
  """
  array_checks.check_key(key)
  host = np.asarray(label)
  bits = np.asarray(jax.random.bits(key, (host.size,)))
  # Labels are the primary key of lexsort, the random bits break the ties.
  return rank_in_class(host, np.lexsort((bits, host)))


def stratified_split(
  key: PRNGKey, label: Labels, fraction: float, num_classes: int
) -> tuple[Int[np.ndarray, 'held'], Int[np.ndarray, 'rest']]:
  """Draws exactly floor(fraction * n_c) random items of every class c.

  Pools of the same key are nested: a smaller fraction gives a subset.

  Args:
    key: determines the items.
    label: class indices [n].
    fraction: share of each class to hold out, 0 to 1.
    num_classes: k; every label is below it.

  Returns:
    Ascending indices of the pool and of all other items.

  Raises:
    UserError: the fraction or a label is out of range.

  References:
    CUTS, arXiv 2511.18660, section 4 (2% and 10% proxy pools).
  """
  check_rate(fraction, 'fraction')
  host = check_labels(label, num_classes)
  sizes = np.bincount(host, minlength=num_classes).tolist()
  quota = np.array([floor_share(fraction, size) for size in sizes])
  in_pool = shuffled_rank(key, host) < quota[host]
  # Ascending, so the order of images does not depend on the key.
  return np.flatnonzero(in_pool), np.flatnonzero(~in_pool)


def take(batch: Batch, index: Indices) -> Batch:
  """Selects the samples of `batch` at `index`, in that order."""
  array_checks.check_type('batch', batch, Batch)
  index = jnp.asarray(index)
  flags = None if batch.has_trigger is None else batch.has_trigger[index]
  return Batch(batch.image[index], batch.label[index], flags)


def hold_out(
  key: PRNGKey, batch: Batch, fraction: float, num_classes: int
) -> tuple[Batch, Batch]:
  """Splits a batch in two by `stratified_split`.

  Returns:
    The held-out pool and all other samples, each in ascending order.

  Raises:
    UserError: the fraction or a label is out of range.
  """
  pool, others = stratified_split(key, batch.label, fraction, num_classes)
  return take(batch, pool), take(batch, others)
