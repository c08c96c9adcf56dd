"""Norms of a ResNet-18's 20 convolutions: time to 1e-3, beside PyTorch.

Both sides run the power method with k = 1 from the same start, for the same
number of iterations: the fewest, of 10, 20, 40, ..., that bring the relative
error of ours below 1e-3 on every convolution of a shape. PyTorch does M^T M by
autograd and by conv_transpose2d, each at the best of 1 and 2 threads and of
both layouts. True norms come from a dense matrix if its shorter side is at
most 8192, else from a float64 Lanczos run to a residual of 1e-8.

  python experiments/bench_spectral.py --out=bench_spectral.json --prepare
  python experiments/bench_spectral.py --out=bench_spectral.json

The first command finds the true norms, most of the work, also beside other
programs; the second wants idle cores. The same command continues with the
results in the file.
"""

import argparse
import math
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import bench_common
import jax
import numpy as np
from bench_spectral_layers import Group, groups, reference, upper
from jax import numpy as jnp

from cmu_jax.commands import shell
from cmu_jax.core import errors, files, jit, progress, provenance, vectorize
from cmu_jax.robustness import spectral

ACCURACY = 1e-3
DENSE = 8192
MAX_ITERATIONS = 5120
LANCZOS = (5, 10, 15, 20, 30, 45, 60)
COLUMNS = (
  'shape', 'layers', 'iterations', 'ours', 'autograd', 'transpose',
  'first ours', 'first torch', 'error', 'lanczos', 'reference',
)  # fmt: skip


def power(group: Group, iterations: int, start: np.ndarray) -> Callable:
  """run() -> (seconds, norms): one program for all layers of a shape."""
  layer = group.layers[0]
  vector = jnp.asarray(start)

  def norm(parameters: dict[str, jax.Array]) -> jax.Array:
    result = spectral.power_qr(
      jax.random.key(0),
      lambda x: layer.linear(parameters, x),
      layer.shape,
      iterations=iterations,
      start=vector,
    )
    return result.sigma[0]

  return _time_norms(vectorize.map_members(norm), group)


def lanczos(group: Group, steps: int) -> Callable:
  """run() -> (seconds, norms), by Lanczos."""
  layer = group.layers[0]

  def norm(parameters: dict[str, jax.Array]) -> jax.Array:
    linear = lambda x: layer.linear(parameters, x)
    return spectral.lanczos(
      jax.random.key(0), linear, layer.shape, steps=steps
    ).sigma

  return _time_norms(vectorize.map_members(norm), group)


def _time_norms(fn: Callable, group: Group) -> Callable:
  compiled = jit.compile_loop(fn)
  # `tolist` waits for the device.
  return lambda: bench_common.time_call(
    lambda: np.asarray(compiled(group.parameters)).tolist()
  )


def _error(values: list[float], true: list[float]) -> float:
  return max(abs(a / b - 1) for a, b in zip(values, true, strict=True))


def _fewest(
  make: Callable[[int], Callable], counts: Any, true: list[float]
) -> tuple[int, Callable, float]:
  """Finds the first count with a small error: it, its run, first seconds."""
  for count in counts:
    run = make(count)
    first, values = run()
    if _error(values, true) <= ACCURACY:
      break
  return count, run, first


def measure(
  group: Group, pairs: list[Any], repeats: int, device: str
) -> dict[str, Any]:
  """Measures a shape; seconds are medians over alternating repeats."""
  import bench_torch_spectral

  true = [sigma for sigma, _ in pairs]
  generator = np.random.default_rng(0)
  start = generator.standard_normal((1, *group.layers[0].shape)).astype(
    np.float32
  )
  doublings = int(math.log2(MAX_ITERATIONS / 10)) + 1
  runs, settings, firsts = {}, {}, {}
  iterations, runs['ours'], firsts['ours'] = _fewest(
    lambda n: power(group, n, start),
    [10 * 2**i for i in range(doublings)],
    true,
  )
  steps, runs['lanczos'], firsts['lanczos'] = _fewest(
    lambda n: lanczos(group, n), LANCZOS, true
  )
  for method in bench_torch_spectral.METHODS:
    runs[method], settings[method], firsts[method] = (
      bench_torch_spectral.fastest(
        method,
        device,
        kernels=list(np.asarray(group.parameters['kernel'])),
        start=start,
        stride=group.stride,
        iterations=iterations,
      )
    )
  timings = [
    {name: run() for name, run in runs.items()} for _ in range(repeats)
  ]
  by_name = {name: [timing[name][0] for timing in timings] for name in runs}
  return {
    'shape': group.name,
    'layers': [layer.path for layer in group.layers],
    'sigma': true,
    'reference': [source for _, source in pairs],
    'iterations': iterations,
    'lanczos_steps': steps,
    'error': {name: _error(timings[-1][name][1], true) for name in runs},
    'seconds': {name: statistics.median(x) for name, x in by_name.items()},
    'first_seconds': firsts,
    'torch_at': settings,
    'gram_upper_bound': upper(group),
    'repeats': by_name,
  }


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
  """Formats a shape for the table."""
  seconds, first = row['seconds'], row['first_seconds']
  return (
    row['shape'],
    str(len(row['layers'])),
    str(row['iterations']),
    *(f'{seconds[x]:.3f}' for x in ('ours', 'autograd', 'transpose')),
    f'{first["ours"]:.2f}',
    f'{min(first["autograd"], first["transpose"]):.2f}',
    f'{row["error"]["ours"]:.0e}',
    f'{seconds["lanczos"]:.3f}',
    row['reference'][0],
  )


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """Adds all shapes up, in the form of a row."""
  combine = lambda function, field: {
    name: function(row[field][name] for row in rows) for name in rows[0][field]
  }
  return {
    'shape': 'all',
    'layers': [path for row in rows for path in row['layers']],
    'iterations': max(row['iterations'] for row in rows),
    'seconds': combine(sum, 'seconds'),
    'first_seconds': combine(sum, 'first_seconds'),
    'error': combine(max, 'error'),
    'reference': [''],
  }


def parse_flags() -> argparse.Namespace:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--minutes', type=float, default=30.0)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--width', type=int, default=64, help='of the stem')
  parser.add_argument('--dense', type=int, default=DENSE, help='largest side')
  parser.add_argument('--out', help='JSON file to write and to continue')
  parser.add_argument(
    '--prepare', action='store_true', help='only the true norms, into --out'
  )
  flags = parser.parse_args()
  bench_common.check(flags, ())
  errors.check(bool(flags.out or not flags.prepare), '--prepare needs --out')
  return flags


def load(flags: argparse.Namespace) -> dict[str, Any]:
  """Reads the results of an earlier run with the same settings."""
  about = {
    'device': bench_common.torch_device(),
    'width': flags.width,
    'dense': flags.dense,
    'repeats': flags.repeats,
    'accuracy': ACCURACY,
    'jax': jax.__version__,
    'python': platform.python_version(),
  }
  if not flags.out or not pathlib.Path(flags.out).exists():
    return {'about': about, 'references': {}, 'rows': []}
  stored = files.read_json(flags.out)
  errors.check(
    all(stored.get('about', {}).get(x) == about[x] for x in about),
    f'{flags.out} is of other settings or versions; choose another --out',
  )
  return stored


def main() -> None:
  """Runs the benchmark, prints the table, writes the JSON."""
  flags = parse_flags()
  bench_common.use_full_precision()
  stored = load(flags)
  references, rows = stored['references'], stored['rows']
  done = references if flags.prepare else [row['shape'] for row in rows]
  remaining = [x for x in groups(flags.width) if x.name not in done]
  deadline = time.monotonic() + 60 * flags.minutes
  with progress.bar('benchmark', len(remaining), 'shapes') as advance:
    for group in remaining:
      if time.monotonic() > deadline:
        print('out of time; the same command continues', file=sys.stderr)
        break
      if group.name not in references:
        references[group.name] = [
          reference(group, i, flags.dense) for i in range(len(group.layers))
        ]
      if not flags.prepare:
        pairs = references[group.name]
        device = stored['about']['device']
        rows.append(measure(group, pairs, flags.repeats, device))
      advance(1, group.name)
      if flags.out:
        stored |= {'total': total(rows)} if rows else {}
        files.write_json(flags.out, {**stored, **provenance.describe_process()})
  if rows:
    bench_common.print_table(
      'seconds to a relative error of 1e-3',
      COLUMNS,
      map(table_row, [*rows, total(rows)]),
    )


if __name__ == '__main__':
  shell.run_script(main)
