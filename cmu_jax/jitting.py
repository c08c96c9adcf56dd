"""Compilations that should cost little, for programs that run once.

On a CPU most of the time of a small experiment is compilation. A program that
runs once (an initialisation, a random direction) does not repay optimisation:
without it, an initialisation compiles about eight times faster.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

_CHEAP = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def once(fn: Callable, static_argnums: int | tuple[int, ...] = ()) -> Callable:
  """`jax.jit`, compiled cheaply on a CPU; for what is called once or twice."""
  options: Any = _CHEAP if jax.default_backend() == 'cpu' else None
  return jax.jit(fn, static_argnums=static_argnums, compiler_options=options)


@contextlib.contextmanager
def hasty(wanted: bool) -> Iterator[None]:
  """Compiles everything cheaply inside the block, for smoke runs on a CPU."""
  before = jax.config.read('jax_disable_most_optimizations')
  if wanted and jax.default_backend() == 'cpu':
    jax.config.update('jax_disable_most_optimizations', True)
  try:
    yield
  finally:
    jax.config.update('jax_disable_most_optimizations', before)
