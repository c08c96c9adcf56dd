"""One place that decides how a grid runs on the backend at hand.

On a CPU, `vmap` over convolution parameters becomes a grouped convolution and
runs 4 to 7 times slower than one member after another, so a grid is a
`lax.map` there: still one program and one compilation. On an accelerator it is
a `vmap` in chunks that bound the memory.

Long sums on the device, cut into segments so that their progress shows.
"""

import os
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from cmu_jax.core import progress

Strategy = Literal['map', 'vmap', 'loop']


def default_strategy(params: PyTree | None = None) -> Strategy:
  """'map' on a CPU, 'vmap' on accelerators.

  Args:
    params: of one member that is trained; None if it is not known. Networks of
      matrices alone are stacked on a CPU too: measured in
      experiments/bench_shadow.py.
  """
  if jax.default_backend() != 'cpu':
    return 'vmap'
  if params is None:
    return 'map'
  kernels = (leaf.ndim > 2 for leaf in jax.tree.leaves(params))
  return 'map' if any(kernels) else 'vmap'


def thread_count() -> int:
  """How many threads may train at a time: the cores of a CPU, else one."""
  if jax.default_backend() != 'cpu':
    return 1
  return (
    len(os.sched_getaffinity(0))
    if hasattr(os, 'sched_getaffinity')
    else (os.cpu_count() or 1)
  )


def map_members(
  fn: Callable, strategy: Strategy | None = None, chunk: int | None = None
) -> Callable:
  """`fn` over the leading axis of all its arguments.

  Args:
    fn: a function of pytrees of arrays.
    strategy: 'vmap'; 'map', one member after another inside one program;
      'loop', one call after another from the host; None for the backend's best.
    chunk: with 'vmap', how many members at a time; None for all.

  Returns:
    A function of stacked arguments that returns stacked results.
  """
  strategy = default_strategy() if strategy is None else strategy
  if strategy == 'vmap' and chunk is None:
    return jax.vmap(fn)
  if strategy == 'loop':
    return _loop_members(fn)
  size = chunk if strategy == 'vmap' else None
  return lambda *args: jax.lax.map(lambda a: fn(*a), args, batch_size=size)


def _loop_members(fn: Callable) -> Callable:
  def run(*args: Any) -> Any:
    count = jax.tree.leaves(args)[0].shape[0]
    outputs = [
      fn(*jax.tree.map(lambda x, i=i: x[i], args)) for i in range(count)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

  return run


def chunk_size(
  tree_bytes: int, budget: int = 4 * 2**30, largest: int = 27
) -> int:
  """How many copies of `tree_bytes` fit a memory budget: a chunk for `over`."""
  return max(1, min(largest, budget // max(tree_bytes, 1)))


_SEGMENT_SECONDS = 2.0


def fold_batches(
  segment: Callable[[Any, Any, Any], Any],
  total: Any,
  batches: int | Int[Array, ''],
  title: str,
) -> Any:
  """Folds all batches into a total; the result does not depend on the cuts.

  Args:
    segment: (total, start, stop) -> total over batches [start, stop); compiled
      with traced bounds; may donate the total.
    total: before the first batch.
    batches: how many; where it is traced, all of them are one segment.
    title: what the progress bar calls this.
  """
  if isinstance(batches, jax.core.Tracer):
    return segment(total, 0, batches)
  count, step, length = int(batches), 0, 1
  with progress.bar(title, count, 'batches') as advance:
    while step < count:
      stop, began = min(count, step + length), time.monotonic()
      total = jax.block_until_ready(segment(total, step, stop))
      each = (time.monotonic() - began) / (stop - step)
      advance(stop - step)
      step = stop
      length = int(np.clip(_SEGMENT_SECONDS / each, 1, 8 * length))
  return total
