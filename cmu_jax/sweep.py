"""One place that decides how a grid runs on the backend at hand.

On a CPU, `vmap` over convolution parameters becomes a grouped convolution and
runs 4 to 7 times slower than one member after another, so a grid is a
`lax.map` there: still one program and one compilation. On an accelerator it is
a `vmap` in chunks that bound the memory.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

How = Literal['map', 'vmap', 'loop']


def strategy() -> How:
  """'map' on a CPU, 'vmap' on accelerators."""
  return 'map' if jax.default_backend() == 'cpu' else 'vmap'


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
