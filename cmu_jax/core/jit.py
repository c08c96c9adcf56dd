"""How programs are compiled on a CPU: those that run once, and those that loop.

Most of the time of a small experiment is compilation. A program that runs once
(an initialisation, a random direction) does not repay optimisation: without
it, an initialisation compiles about eight times faster. A loop of convolutions
repays a choice of kernels instead: XLA hands fused sums and products to a
library, which is well, and convolutions too, which then run on one core.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

_CHEAP = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}

# What may go to the library. Convolutions are left out, so that they stay with
# Eigen and take all cores: ResNet-9 of width 16 steps 1.5 times faster.
_THREADED = {
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
  ),
}


def compile_cheaply(
  fn: Callable, static_argnums: int | tuple[int, ...] = ()
) -> Callable:
  """`jax.jit`, compiled cheaply on a CPU; for what is called once or twice."""
  options: Any = _CHEAP if jax.default_backend() == 'cpu' else None
  return jax.jit(fn, static_argnums=static_argnums, compiler_options=options)


def compile_loop(
  fn: Callable, donate_argnums: int | tuple[int, ...] = ()
) -> Callable:
  """`jax.jit` for the loops in which the time goes, of array arguments."""
  options: Any = _THREADED if jax.default_backend() == 'cpu' else None
  outermost = jax.jit(
    fn, donate_argnums=donate_argnums, compiler_options=options
  )
  inner = jax.jit(fn)  # JAX refuses options of a jit inside another one.

  def call(*args: Any) -> Any:
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args))
    return (inner if traced else outermost)(*args)

  return call


@contextlib.contextmanager
def optimize_fully() -> Iterator[None]:
  """Compiles with all optimisations inside the block, also where `hasty` is."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', False)
  try:
    yield
  finally:
    jax.config.update('jax_disable_most_optimizations', before)


@contextlib.contextmanager
def skip_optimizations(enabled: bool) -> Iterator[None]:
  """Compiles everything cheaply inside the block, for smoke runs on a CPU."""
  before = jax.config.read('jax_disable_most_optimizations')
  if enabled and jax.default_backend() == 'cpu':
    jax.config.update('jax_disable_most_optimizations', True)
  try:
    yield
  finally:
    jax.config.update('jax_disable_most_optimizations', before)
