"""Norms of a ResNet-18's 20 convolutions: time to 1e-3, beside PyTorch.

Both sides run the power method with k = 1 from the same start, for the same
number of iterations: the fewest, of 10, 20, 40, ..., that bring the relative
error of ours below 1e-3 on every convolution of a shape. PyTorch does M^T M by
autograd and by conv_transpose2d, each at the best of 1 and 2 threads and of
both layouts. True norms come from a dense matrix where its shorter side is at
most 8192, elsewhere from a float64 Lanczos run to a residual of 1e-8.

  python experiments/bench_spectral.py --out=bench_spectral.json --prepare
  python experiments/bench_spectral.py --out=bench_spectral.json

The first finds the true norms, most of the work, and minds no other program;
the second wants idle cores. What is in the file already is kept: the same
command again continues.
"""

import argparse
import importlib.util
import math
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table
from bench_spectral_layers import Group, groups, reference, upper
from jax import numpy as jnp

from cmu_jax.commands import shell
from cmu_jax.core import errors, files, jit, progress, provenance, vectorize
from cmu_jax.robustness import spectral

ACCURACY = 1e-3
DENSE = 8192
MOST = 5120
LANCZOS = (5, 10, 15, 20, 30, 45, 60)


def ours(group: Group, iterations: int, start: np.ndarray) -> Callable:
  """run() -> (seconds, norms): one program for all of a shape."""
  layer = group.layers[0]
  vector = jnp.asarray(start)

  def one(own: dict[str, jax.Array]) -> jax.Array:
    found = spectral.power_qr(
      jax.random.key(0),
      lambda x: layer.linear(own, x),
      layer.shape,
      iterations=iterations,
      start=vector,
    )
    return found.sigma[0]

  return _timed(vectorize.map_members(one), group)


def lanczos(group: Group, steps: int) -> Callable:
  """Likewise, by Lanczos."""
  layer = group.layers[0]

  def one(own: dict[str, jax.Array]) -> jax.Array:
    linear = lambda x: layer.linear(own, x)
    return spectral.lanczos(
      jax.random.key(0), linear, layer.shape, steps=steps
    ).sigma

  return _timed(vectorize.map_members(one), group)


def _timed(fn: Callable, group: Group) -> Callable:
  compiled = jit.compile_loop(fn)

  def run() -> tuple[float, list[float]]:
    began = time.perf_counter()
    values = np.asarray(compiled(group.own)).tolist()
    return time.perf_counter() - began, values

  return run


def _error(values: list[float], true: list[float]) -> float:
  return max(abs(a / b - 1) for a, b in zip(values, true, strict=True))


def _fewest(
  make: Callable[[int], Callable], counts: Any, true: list[float]
) -> tuple[int, Callable, float]:
  """The first count whose error is small: it, its run and its first seconds."""
  for count in counts:
    run = make(count)
    first, values = run()
    if _error(values, true) <= ACCURACY:
      break
  return count, run, first


def measure(
  group: Group, pairs: list[Any], repeats: int, device: str
) -> dict[str, Any]:
  """One row of the results; seconds are medians over alternating repeats."""
  import bench_torch_spectral  # after the check that PyTorch is there

  true = [sigma for sigma, _ in pairs]
  layer = group.layers[0]
  rng = np.random.default_rng(0)
  start = rng.standard_normal((1, *layer.shape)).astype(np.float32)
  counts = [10 * 2**i for i in range(int(math.log2(MOST / 10)) + 1)]
  iterations, run, first = _fewest(
    lambda n: ours(group, n, start), counts, true
  )
  steps, quick, first_quick = _fewest(
    lambda n: lanczos(group, n), LANCZOS, true
  )
  runs, at = {'ours': run, 'lanczos': quick}, {}
  firsts = {'ours': first, 'lanczos': first_quick}
  for method in bench_torch_spectral.METHODS:
    runs[method], at[method], firsts[method] = bench_torch_spectral.fastest(
      method,
      device,
      kernels=list(np.asarray(group.own['kernel'])),
      start=start,
      stride=group.stride,
      iterations=iterations,
    )
  seen = [{name: go() for name, go in runs.items()} for _ in range(repeats)]
  seconds = {
    name: statistics.median(one[name][0] for one in seen) for name in runs
  }
  return {
    'shape': group.name,
    'layers': [layer.path for layer in group.layers],
    'sigma': true,
    'reference': [words for _, words in pairs],
    'iterations': iterations,
    'lanczos_steps': steps,
    'error': {name: _error(seen[-1][name][1], true) for name in runs},
    'seconds': seconds,
    'first_seconds': firsts,
    'torch_at': at,
    'gram_upper_bound': upper(group),
    'repeats': {name: [one[name][0] for one in seen] for name in runs},
  }


def _table(rows: list[dict[str, Any]]) -> rich.table.Table:
  table = rich.table.Table(title='seconds to a relative error of 1e-3')
  columns = (
    'shape', 'layers', 'iterations', 'ours', 'autograd', 'transpose',
    'first ours', 'first torch', 'error', 'lanczos', 'reference',
  )  # fmt: skip
  for column in columns:
    table.add_column(column, justify='right')
  for row in [*rows, total(rows)]:
    seconds, first = row['seconds'], row['first_seconds']
    table.add_row(
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
  return table


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """All convolutions together, in the form of a row."""
  add = lambda part, name: sum(row[part][name] for row in rows)
  return {
    'shape': 'all',
    'layers': [path for row in rows for path in row['layers']],
    'iterations': max(row['iterations'] for row in rows),
    'seconds': {x: add('seconds', x) for x in rows[0]['seconds']},
    'first_seconds': {
      x: add('first_seconds', x) for x in rows[0]['first_seconds']
    },
    'error': {
      x: max(row['error'][x] for row in rows) for x in rows[0]['error']
    },
    'reference': [''],
  }


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--minutes', type=float, default=30.0)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--width', type=int, default=64, help='of the stem')
  parser.add_argument('--dense', type=int, default=DENSE, help='largest side')
  parser.add_argument('--out', help='JSON file to write and to continue')
  parser.add_argument(
    '--prepare', action='store_true', help='only the true norms, into --out'
  )
  return parser.parse_args()


def _kept(options: argparse.Namespace, about: dict[str, Any]) -> dict[str, Any]:
  """What an earlier run of these settings left in the file."""
  if not options.out or not pathlib.Path(options.out).exists():
    return {'about': about, 'references': {}, 'rows': []}
  stored = files.read_json(options.out)
  same = all(stored.get('about', {}).get(x) == about[x] for x in about)
  errors.check(
    same,
    f'{options.out} is of other settings or versions; choose another --out',
  )
  return stored


def _about(options: argparse.Namespace) -> dict[str, Any]:
  return {
    'device': 'cuda' if jax.default_backend() == 'gpu' else 'cpu',
    'width': options.width,
    'dense': options.dense,
    'repeats': options.repeats,
    'accuracy': ACCURACY,
    'jax': jax.__version__,
    'python': platform.python_version(),
  }


def _run(options: argparse.Namespace) -> None:
  errors.check(options.repeats >= 1, '--repeats must be 1 or more')
  errors.check(options.minutes > 0, '--minutes must be above 0')
  errors.check(
    bool(options.out or not options.prepare), '--prepare needs --out'
  )
  jax.config.update('jax_default_matmul_precision', 'float32')
  about = _about(options)
  stored = _kept(options, about)
  known, rows = stored['references'], stored['rows']
  done = known if options.prepare else [row['shape'] for row in rows]
  left = [one for one in groups(options.width) if one.name not in done]
  began = time.monotonic()
  with progress.bar('benchmark', len(left), 'shapes') as advance:
    for group in left:
      if time.monotonic() - began > 60 * options.minutes:
        print('out of time; the same command continues', file=sys.stderr)
        break
      if group.name not in known:
        places = range(len(group.layers))
        known[group.name] = [reference(group, i, options.dense) for i in places]
      if not options.prepare:
        pairs = known[group.name]
        rows.append(measure(group, pairs, options.repeats, about['device']))
      advance(1, group.name)
      if options.out:
        stored |= {'total': total(rows)} if rows else {}
        files.write_json(
          options.out, {**stored, **provenance.describe_process()}
        )
  if rows:
    rich.console.Console(width=160).print(_table(rows))


def main() -> None:
  """Runs the benchmark."""
  there = importlib.util.find_spec('torch') is not None
  errors.check(there, "PyTorch is missing: pip install 'cmu_jax[bench]'")
  import torch

  torch.backends.cuda.matmul.allow_tf32 = False
  torch.backends.cudnn.allow_tf32 = False
  torch.backends.cudnn.benchmark = True
  _run(_arguments())


if __name__ == '__main__':
  shell.run_script(main)
