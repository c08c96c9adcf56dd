"""Shared parts of the benchmarks beside PyTorch: flags, clock, images."""

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import rich.console
import rich.table

from cmu_jax.core import errors
from cmu_jax.core.types import Batch

T = TypeVar('T')


def parser(text: str, minutes: float, cases: Iterable[str]) -> Any:
  """Returns a parser with the flags that all benchmarks share.

  Args:
    text: for --help.
    minutes: default of --minutes.
    cases: default of --cases.
  """
  flags = argparse.ArgumentParser(
    description=text, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  flags.add_argument('--minutes', type=float, default=minutes)
  flags.add_argument('--cases', nargs='+', default=list(cases))
  flags.add_argument('--repeats', type=int, default=5)
  return flags


def check(flags: argparse.Namespace, cases: Iterable[str]) -> None:
  """Raises UserError for flags that cannot be, or without PyTorch."""
  errors.check(
    importlib.util.find_spec('torch') is not None,
    "PyTorch is missing: pip install 'cmu_jax[bench]'",
  )
  errors.check(flags.repeats >= 1, '--repeats must be 1 or more')
  errors.check(flags.minutes > 0, '--minutes must be above 0')
  for name in getattr(flags, 'cases', ()):
    if name not in cases:
      raise errors.unknown_name('case', name, cases)


def torch_device() -> str:
  """The device of PyTorch beside that of JAX."""
  return 'cuda' if jax.default_backend() == 'gpu' else 'cpu'


def use_full_precision(tf32: bool = False) -> None:
  """Sets the same precision of products on both sides.

  Args:
    tf32: allow TF32, the default of JAX on GPUs.
  """
  # After `check`: without PyTorch the import would end in a traceback.
  import bench_torch

  bench_torch.allow_tf32(tf32)
  jax.config.update(
    'jax_default_matmul_precision', 'tensorfloat32' if tf32 else 'float32'
  )


def time_call(run: Callable[[], T]) -> tuple[float, T]:
  """Returns the seconds of a call and its result."""
  began = time.perf_counter()
  result = run()
  return time.perf_counter() - began, result


def fit_images(batch: Batch, side: int, channels: int, count: int) -> Batch:
  """Resizes and repeats images, so that any source fits a case.

  Args:
    batch: images of any size.
    side: height and width of the result.
    channels: 1 takes the first channel; grey images are repeated to fill more.
    count: images of the result.
  """
  rows = jnp.arange(count) % batch.label.shape[0]
  image = batch.image[rows].astype(jnp.float32)
  image = image[..., :1] if channels == 1 else image
  size = (count, side, side, image.shape[-1])
  image = jax.image.resize(image, size, 'linear')
  image = jnp.broadcast_to(image, (count, side, side, channels))
  # Repeated images would be each other's neighbours: a little noise.
  noise = jax.random.uniform(jax.random.key(count), image.shape, maxval=32)
  pixels = jnp.clip(image + noise, 0, 255).astype(jnp.uint8)
  return Batch(pixels, batch.label[rows])


def print_table(
  title: str,
  columns: Sequence[str],
  rows: Iterable[Sequence[str]],
  width: int = 160,
) -> None:
  """Prints a table; all columns but the first are aligned to the right."""
  table = rich.table.Table(title=title)
  for position, name in enumerate(columns):
    table.add_column(name, justify='right' if position else 'left')
  for row in rows:
    table.add_row(*row)
  rich.console.Console(width=width).print(table)
