"""Compilation on a CPU, adapted to programs that run once and to loops.

Most of the time of a small experiment is compilation. A program that runs once
(an initialisation, a random direction) does not repay optimisation: without
it, an initialisation compiles about eight times faster. A loop of convolutions
repays a choice of kernels. XLA hands fused sums, products and convolutions to a
library; there, convolutions run on a single core. A large program compiles for
minutes, in which Python can do nothing else: a thread says so.
"""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from cmu_jax.core import progress

_CHEAP = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}

# Operations that may go to the library. Without convolutions, which then stay
# with Eigen and take all cores: ResNet-9 of width 16 steps 1.5 times faster.
_THREADED = {
  'xla_cpu_experimental_ynn_fusion_type': (
    'LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
  ),
}
_SWITCH = 'jax_disable_most_optimizations'
# JAX tells its listeners when it begins and ends to compile a program.
_COMPILATION = '/jax/core/compile/backend_compile_duration'
# A reader of a silent terminal begins to worry after some seconds.
_SILENT_SECONDS, _REPEAT_SECONDS = 3.0, 30.0


def device_count() -> int:
  """Starts JAX and counts its devices.

  Raises:
    RuntimeError, AssertionError: no platform of JAX_PLATFORMS is available.
  """
  return jax.device_count()


def compile_cheaply(
  fn: Callable, static_argnums: int | tuple[int, ...] = ()
) -> Callable:
  """Wraps `jax.jit` for a function that is called once or twice."""
  options: Any = _CHEAP if jax.default_backend() == 'cpu' else None
  return jax.jit(fn, static_argnums=static_argnums, compiler_options=options)


def compile_loop(
  fn: Callable, donate_argnums: int | tuple[int, ...] = ()
) -> Callable:
  """Wraps `jax.jit` for a long loop with array arguments."""
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
def _optimizations_disabled(disabled: bool) -> Iterator[None]:
  previous = jax.config.read(_SWITCH)
  jax.config.update(_SWITCH, disabled)
  try:
    yield
  finally:
    jax.config.update(_SWITCH, previous)


def optimize_fully() -> contextlib.AbstractContextManager[None]:
  """Compiles with all optimisations, also inside `skip_optimizations`."""
  return _optimizations_disabled(False)


def skip_optimizations(
  enabled: bool,
) -> contextlib.AbstractContextManager[None]:
  """Compiles everything cheaply, for smoke runs on a CPU."""
  if enabled and jax.default_backend() == 'cpu':
    return _optimizations_disabled(True)
  return contextlib.nullcontext()


@functools.cache
def announce_compilations() -> None:
  """Names each program on stderr that takes XLA longer than three seconds."""
  ends: dict[int, threading.Event] = {}

  def begin(event: str, value: float | int, **facts: str | int) -> None:
    if event != _COMPILATION:
      return
    end = ends[threading.get_ident()] = threading.Event()
    name = str(facts.get('fun_name', ''))
    program = name.removeprefix('jit(').removesuffix(')')
    names = program, progress.current_title()
    text = ' of '.join(filter(None, names)) or 'a program'
    # The compiling thread cannot print.
    threading.Thread(target=_announce, args=(text, end), daemon=True).start()

  def finish(event: str, duration_secs: float, **_: str | int) -> None:
    if event == _COMPILATION:
      ends.pop(threading.get_ident(), threading.Event()).set()

  jax.monitoring.register_scalar_listener(begin)
  jax.monitoring.register_event_duration_secs_listener(finish)


def _announce(name: str, end: threading.Event) -> None:
  """Prints a line now and then until a compilation ends."""
  began, wait = time.monotonic(), _SILENT_SECONDS
  while not end.wait(wait):
    seconds = time.monotonic() - began
    print(f'compiling {name}: {seconds:.0f} s', file=sys.stderr, flush=True)
    wait = _REPEAT_SECONDS
