"""Many task vectors made one, read one at a time.

Every rule passes once over its vectors and keeps a few accumulators, whatever
their number: they may lie on the host or be made as they are read. NumPy leaves
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
  """The vectors one after another, each checked against the first.

  Args:
    taus: an iterable of vectors, or a function from a position to a vector.
    count: how many; needed with a function.

  Raises:
    UserError: a function without a count, a single (stacked) tree, no vector
      at all, or vectors of different networks.
  """
  if callable(taus):
    errors.check(
      count is not None and count >= 1,
      'task vectors come from a function; give their count, 1 or more',
    )
    made = taus
    taus = (made(i) for i in range(count or 0))
  errors.check(
    not isinstance(taus, Mapping),
    'a merge takes a list of task vectors, not one tree; put them in a list',
  )
  first = None
  for tau in taus:
    if first is None:
      first = jax.tree.map(
        lambda x: (
          jax.ShapeDtypeStruct(x.shape, x.dtype) if tree.is_float(x) else x
        ),
        tau,
      )
    leaves.check_like(first, tau, 'a task vector')
    yield tau
  errors.check(
    first is not None, 'there are no task vectors to merge; give one or more'
  )


def _accumulate(
  taus: Iterable[PyTree], begin: Callable, step: Callable, end: Callable
) -> PyTree:
  """Accumulators of every floating-point leaf over a stream.

  Args:
    taus: the vectors.
    begin: first leaf -> accumulators.
    step: (accumulators, leaf) -> accumulators.
    end: (accumulators, number of vectors) -> merged leaf.
  """
  first: leaves.Split | None = None
  held: list[Any] = []
  count = 0
  for tau in taus:
    parts = leaves.split(tau)
    wide = [leaves.widen(x) for x in parts.floats]
    if first is None:
      first, held = parts._replace(floats=[]), [begin(x) for x in wide]
    else:
      held = [step(a, x) for a, x in zip(held, wide, strict=True)]
    # Otherwise transfers of the next vectors would be under way already.
    jax.block_until_ready(held)
    count += 1
  assert first is not None
  merged = [end(a, count) for a in held]
  return leaves.join(first.skeleton, merged, first.fixed)


def _sign(x: Any) -> Any:
  return leaves.array_module(x).sign(x)


def uniform(taus: Taus, count: int | None = None) -> PyTree:
  """The mean of the vectors: model soups' merge, a simplex's centroid."""
  return _accumulate(
    stream(taus, count), lambda x: x, lambda a, x: a + x, lambda a, n: a / n
  )


def negmerge(taus: Taus, count: int | None = None) -> PyTree:
  """The mean where all vectors have one and the same sign; 0 elsewhere.

  A zero in any vector has no sign, so that it clears its coordinate.

  Args:
    taus: an iterable of vectors, or a function from a position to a vector.
    count: how many; needed with a function.

  References:
    NegMerge: Sign-Consensual Weight Merging for Machine Unlearning (arXiv
    2410.05583, ICML 2025).
  """

  def merged(held: Any, n: int) -> Any:
    total, signs = held
    return (total / n) * (abs(signs) == n)

  return _accumulate(
    stream(taus, count),
    lambda x: (x, _sign(x)),
    lambda held, x: (held[0] + x, held[1] + _sign(x)),
    merged,
  )


def ties(taus: Taus, count: int | None = None, keep: float = 0.2) -> PyTree:
  """Trimmed vectors, a sign elected for each coordinate, the mean of that sign.

  Args:
    taus: an iterable of vectors, or a function from a position to a vector.
    count: how many; needed with a function.
    keep: the share of a vector that stays, by magnitude.

  References:
    TIES-Merging (arXiv 2306.01708, NeurIPS 2023), sections 3 and 4.
  """

  def pieces(x: Any) -> tuple[Any, ...]:
    up, down = x > 0, x < 0
    return x * up, up.astype(x.dtype), x * down, down.astype(x.dtype)

  def merged(held: Any, n: int) -> Any:
    del n
    above, ups, below, downs = held
    xp = leaves.array_module(above)
    total = above + below
    chosen = xp.where(total > 0, above, below)
    votes = xp.where(total > 0, ups, downs)
    return xp.where(total == 0, 0, chosen / xp.maximum(votes, 1))

  trimmed = (algebra.sparsify(tau, keep) for tau in stream(taus, count))
  return _accumulate(
    trimmed,
    pieces,
    lambda held, x: tuple(a + b for a, b in zip(held, pieces(x), strict=True)),
    merged,
  )


def magmax(taus: Taus, count: int | None = None) -> PyTree:
  """Of every coordinate the entry of largest magnitude; of +a and -a, +a.

  References:
    MagMax: Leveraging Model Merging for Seamless Continual Learning (arXiv
    2407.06322, ECCV 2024).
  """

  def larger(held: Any, x: Any) -> Any:
    tied = (abs(x) == abs(held)) & (x > held)
    return leaves.array_module(x).where((abs(x) > abs(held)) | tied, x, held)

  return _accumulate(stream(taus, count), lambda x: x, larger, lambda a, n: a)
