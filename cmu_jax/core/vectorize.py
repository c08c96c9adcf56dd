"""Grids of computations, and long sums, on the backend at hand.

On a CPU, `vmap` over convolution parameters becomes a grouped convolution and
runs 4 to 7 times slower than the members in sequence, so a grid is a `lax.map`
there: still a single program and compilation. On an accelerator a grid is a
`vmap` in chunks that bound the memory.
"""

import os
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

from cmu_jax.core import progress

Strategy = Literal['map', 'vmap']
_SEGMENT_SECONDS = 2.0


def default_strategy(params: PyTree | None = None) -> Strategy:
  """Chooses 'map' on a CPU, 'vmap' on accelerators.

  Args:
    params: of a member that is trained; None if unknown. Networks of matrices
      alone are stacked on a CPU too (measured in experiments/bench_shadow.py).
  """
  if jax.default_backend() != 'cpu':
    return 'vmap'
  if params is None:
    return 'map'
  # A leaf of more than two axes is a convolution kernel.
  has_kernels = any(leaf.ndim > 2 for leaf in jax.tree.leaves(params))
  return 'map' if has_kernels else 'vmap'


def thread_count() -> int:
  """Number of trainings to run side by side: the cores of a CPU, else 1."""
  if jax.default_backend() != 'cpu':
    return 1
  # A container may allow fewer cores than the machine has.
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def map_members(
  fn: Callable, strategy: Strategy | None = None, chunk: int | None = None
) -> Callable:
  """Maps `fn` over the leading axis of all its arguments.

  Args:
    fn: a function of pytrees of arrays.
    strategy: 'vmap'; 'map', the members in sequence inside a single program;
      None for the backend's best.
    chunk: with 'vmap', members at a time; None for all.

  Returns:
    A function of stacked arguments that returns stacked results.
  """
  strategy = default_strategy() if strategy is None else strategy
  if strategy == 'vmap' and chunk is None:
    return jax.vmap(fn)
  size = chunk if strategy == 'vmap' else None
  return lambda *args: jax.lax.map(lambda a: fn(*a), args, batch_size=size)


def chunk_size(
  tree_bytes: int, budget: int = 4 * 2**30, largest: int = 27
) -> int:
  """Number of copies of `tree_bytes` that fit a memory budget, at least 1."""
  return max(1, min(largest, budget // max(tree_bytes, 1)))


def fold_batches(
  segment: Callable[[Any, Any, Any], Any],
  total: Any,
  batches: int | Int[Array, ''],
  title: str,
) -> Any:
  """Folds all batches into a total, in segments that show progress.

  The result does not depend on the segments.

  Args:
    segment: (total, start, stop) -> total over batches [start, stop); compiled
      with traced bounds; may donate the total.
    total: before the first batch.
    batches: their number; if it is traced, all of them are a single segment.
    title: name in the progress bar.
  """
  if isinstance(batches, jax.core.Tracer):
    return segment(total, 0, batches)
  count, step, length = int(batches), 0, 1
  with progress.bar(title, count, 'batches') as advance:
    while step < count:
      stop, begin = min(count, step + length), time.monotonic()
      total = jax.block_until_ready(segment(total, step, stop))
      seconds = (time.monotonic() - begin) / (stop - step)
      advance(stop - step)
      step = stop
      # Long enough to hide the cost of a call, short enough for a live bar; at
      # most 8 times longer, because the first segments include compilation.
      length = int(np.clip(_SEGMENT_SECONDS / seconds, 1, 8 * length))
  return total
