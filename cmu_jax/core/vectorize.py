"""One place that decides how a grid runs on the backend at hand.

On a CPU, `vmap` over convolution parameters becomes a grouped convolution and
runs 4 to 7 times slower than one member after another, so a grid is a
`lax.map` there: still one program and one compilation. On an accelerator it is
a `vmap` in chunks that bound the memory.
"""

import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

How = Literal['map', 'vmap', 'loop']


def strategy(params: PyTree | None = None) -> How:
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


def cores() -> int:
  """How many threads may train at a time: the cores of a CPU, else one."""
  if jax.default_backend() != 'cpu':
    return 1
  return (
    len(os.sched_getaffinity(0))
    if hasattr(os, 'sched_getaffinity')
    else (os.cpu_count() or 1)
  )


def over(
  fn: Callable, how: How | None = None, chunk: int | None = None
) -> Callable:
  """`fn` over the leading axis of all its arguments.

  Args:
    fn: a function of pytrees of arrays.
    how: 'vmap'; 'map', one member after another inside one program; 'loop',
      one call after another from the host; None for the backend's best.
    chunk: with 'vmap', how many members at a time; None for all.

  Returns:
    A function of stacked arguments that returns stacked results.
  """
  how = strategy() if how is None else how
  if how == 'vmap' and chunk is None:
    return jax.vmap(fn)
  if how == 'loop':
    return _looped(fn)
  size = chunk if how == 'vmap' else None
  return lambda *args: jax.lax.map(lambda a: fn(*a), args, batch_size=size)


def _looped(fn: Callable) -> Callable:
  def run(*args: Any) -> Any:
    count = jax.tree.leaves(args)[0].shape[0]
    outputs = [
      fn(*jax.tree.map(lambda x, i=i: x[i], args)) for i in range(count)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

  return run


def members(tree_bytes: int, budget: int = 4 * 2**30, most: int = 27) -> int:
  """How many copies of `tree_bytes` fit a memory budget: a chunk for `over`."""
  return max(1, min(most, budget // max(tree_bytes, 1)))
