"""Held-out pools: an exact share of every class, cut before any corruption.

Splits are drawn once, on the host, from concrete labels: the number of items
of each class decides the shapes of everything that follows.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

from cmu_jax.core import errors
from cmu_jax.core.types import Batch, PRNGKey

Labels = Integer[Array, 'n'] | Integer[np.ndarray, 'n']
Indices = Integer[Array, 'm'] | Integer[np.ndarray, 'm']


def floor_share(rate: float, count: int) -> int:
  """floor(rate * count), where 0.29 * 100 is 29 and not 28."""
  return math.floor(rate * count + 1e-9)


def check_rate(rate: float, name: str = 'rate') -> None:
  """Raises UserError unless `rate` is a number from 0 to 1."""
  errors.check(
    isinstance(rate, int | float | np.number) and 0 <= rate <= 1,
    f'{name} {rate!r} is not a number from 0 to 1; write 40% as 0.4',
  )


def check_labels(label: Labels, num_classes: int) -> np.ndarray:
  """The labels on the host, or UserError where one is not in 0..k-1."""
  host = np.asarray(label)
  wrong = (host < 0) | (host >= num_classes)
  if wrong.any():
    at = int(wrong.argmax())
    raise errors.UserError(
      f'label {int(host[at])} of sample {at} is outside 0..{num_classes - 1}; '
      'mend the labels or num_classes'
    )
  return host


def shuffled_rank(key: PRNGKey, label: Labels) -> np.ndarray:
  """The place of each sample in a random order of its own class.

  Taking the samples of rank < m gives m random ones of a class, and a smaller
  m gives a subset of them.
  """
  host = np.asarray(label)
  bits = np.asarray(jax.random.bits(key, (host.size,)))
  order = np.lexsort((bits, host))
  grouped = host[order]
  rank = np.empty(host.size, np.int64)
  rank[order] = np.arange(host.size) - np.searchsorted(grouped, grouped)
  return rank


def stratified_split(
  key: PRNGKey, label: Labels, fraction: float, num_classes: int
) -> tuple[Int[np.ndarray, 'held'], Int[np.ndarray, 'rest']]:
  """Cuts exactly floor(fraction * n_c) random items out of every class c.

  Pools of one key are nested: a smaller fraction gives a subset.

  Args:
    key: decides which items.
    label: class indices [n].
    fraction: share of each class to hold out, 0 to 1.
    num_classes: k; every label is below it.

  Returns:
    Ascending indices of the pool and of the rest.

  Raises:
    UserError: the fraction or a label is out of range.

  References:
    CUTS, arXiv 2511.18660, section 4 (2% and 10% proxy pools).
  """
  check_rate(fraction, 'fraction')
  host = check_labels(label, num_classes)
  size = np.bincount(host, minlength=num_classes).tolist()
  quota = np.array([floor_share(fraction, count) for count in size])
  held = shuffled_rank(key, host) < quota[host]
  return np.flatnonzero(held), np.flatnonzero(~held)


def take(batch: Batch, index: Indices) -> Batch:
  """The samples of `batch` at `index`, in that order."""
  where = jnp.asarray(index)
  stamp = None if batch.has_trigger is None else batch.has_trigger[where]
  return Batch(batch.image[where], batch.label[where], stamp)


def hold_out(
  key: PRNGKey, batch: Batch, fraction: float, num_classes: int
) -> tuple[Batch, Batch]:
  """Splits a batch in two by `stratified`.

  Returns:
    The held-out pool and the rest, each in ascending order.

  Raises:
    UserError: the fraction or a label is out of range.
  """
  held, rest = stratified_split(key, batch.label, fraction, num_classes)
  return take(batch, held), take(batch, rest)
