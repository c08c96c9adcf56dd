"""Merges of many task vectors, read one at a time.

Every rule passes once over its vectors and keeps a few accumulators, whatever
their number: they may lie on the host or be computed when read. NumPy leaves
are merged by NumPy.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from cmu_jax.core import errors, tree
from cmu_jax.methods.task_vectors import algebra, leaves

Taus = Iterable[PyTree] | Callable[[int], PyTree]


def stream(taus: Taus, count: int | None = None) -> Iterator[PyTree]:
  """Yields the vectors, each checked against the first.

  Args:
    taus: an iterable of vectors, or a function from a position to a vector.
    count: their number; needed with a function.

  Raises:
    UserError: a function without a count, a single (stacked) tree, no vector
      at all, or vectors of different networks.
  """
  if callable(taus):
    errors.check(
      count is not None and count >= 1,
      'task vectors come from a function; give their count, 1 or more',
    )
    read = taus
    taus = (read(i) for i in range(count or 0))
  # Iterating over a dictionary would yield its keys.
  errors.check(
    not isinstance(taus, Mapping),
    'a merge takes a list of task vectors, not one tree; put them in a list',
  )
  template = None
  for tau in taus:
    if template is None:
      # Shapes alone: the first vector itself need not stay in memory.
      template = jax.tree.map(
        lambda x: (
          jax.ShapeDtypeStruct(x.shape, x.dtype) if tree.is_float(x) else x
        ),
        tau,
      )
    leaves.check_like(template, tau, 'a task vector')
    yield tau
  errors.check(
    template is not None, 'there are no task vectors to merge; give one or more'
  )


def _accumulate(
  taus: Iterable[PyTree], begin: Callable, step: Callable, end: Callable
) -> PyTree:
  """Folds every floating-point leaf of a stream into accumulators.

  Args:
    taus: the vectors.
    begin: first leaf -> accumulators.
    step: (accumulators, leaf) -> accumulators.
    end: (accumulators, number of vectors) -> merged leaf.
  """
  first_parts: leaves.Split | None = None
  accumulators: list[Any] = []
  count = 0
  for tau in taus:
    parts = leaves.split(tau)
    wide = [leaves.widen(x) for x in parts.floats]
    if first_parts is None:
      first_parts = parts._replace(floats=[])
      accumulators = [begin(x) for x in wide]
    else:
      pairs = zip(accumulators, wide, strict=True)
      accumulators = [step(a, x) for a, x in pairs]
    # Dispatch is asynchronous: without waiting, several vectors would be on the
    # device together.
    jax.block_until_ready(accumulators)
    count += 1
  assert first_parts is not None
  merged = [end(a, count) for a in accumulators]
  return leaves.join(first_parts.skeleton, merged, first_parts.fixed)


def _sign(x: Any) -> Any:
  return leaves.array_module(x).sign(x)


def uniform(taus: Taus, count: int | None = None) -> PyTree:
  """The mean of the vectors: model soups' merge, a simplex's centroid."""
  return _accumulate(
    stream(taus, count), lambda x: x, lambda a, x: a + x, lambda a, n: a / n
  )


def negmerge(taus: Taus, count: int | None = None) -> PyTree:
  """The mean where all vectors have the same sign; 0 elsewhere.

  Args:
    taus: an iterable of vectors, or a function from a position to a vector.
    count: their number; needed with a function.

  References:
    NegMerge: Sign-Consensual Weight Merging for Machine Unlearning (arXiv
    2410.05583, ICML 2025).
  """

  def merge(sums: Any, n: int) -> Any:
    total, signs = sums
    # A zero in any vector has no sign, so it clears its coordinate.
    return (total / n) * (abs(signs) == n)

  return _accumulate(
    stream(taus, count),
    lambda x: (x, _sign(x)),
    lambda sums, x: (sums[0] + x, sums[1] + _sign(x)),
    merge,
  )


def ties(taus: Taus, count: int | None = None, keep: float = 0.2) -> PyTree:
  """Trims vectors, elects a sign for each coordinate, averages that sign.

  Args:
    taus: an iterable of vectors, or a function from a position to a vector.
    count: their number; needed with a function.
    keep: the share of a vector that stays, by magnitude.

  References:
    TIES-Merging (arXiv 2306.01708, NeurIPS 2023), sections 3 and 4.
  """

  # Sums and counts of both signs: the elected sign is known only at the end,
  # and a second pass over the stream is not possible.
  def by_sign(x: Any) -> tuple[Any, ...]:
    up, down = x > 0, x < 0
    return x * up, up.astype(x.dtype), x * down, down.astype(x.dtype)

  def merge(sums: Any, n: int) -> Any:
    del n
    above, ups, below, downs = sums
    xp = leaves.array_module(above)
    total = above + below
    elected = xp.where(total > 0, above, below)
    votes = xp.where(total > 0, ups, downs)
    return xp.where(total == 0, 0, elected / xp.maximum(votes, 1))

  trimmed = (algebra.sparsify(tau, keep) for tau in stream(taus, count))
  return _accumulate(
    trimmed,
    by_sign,
    lambda sums, x: tuple(a + b for a, b in zip(sums, by_sign(x), strict=True)),
    merge,
  )


def magmax(taus: Taus, count: int | None = None) -> PyTree:
  """Takes the entry of largest magnitude of every coordinate.

  References:
    MagMax: Leveraging Model Merging for Seamless Continual Learning (arXiv
    2407.06322, ECCV 2024).
  """

  def take_larger(best: Any, x: Any) -> Any:
    # Of +a and -a, +a wins: the order of the vectors must not matter.
    tied = (abs(x) == abs(best)) & (x > best)
    return leaves.array_module(x).where((abs(x) > abs(best)) | tied, x, best)

  return _accumulate(
    stream(taus, count), lambda x: x, take_larger, lambda a, n: a
  )
