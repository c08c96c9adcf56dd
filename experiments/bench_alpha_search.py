"""The whole alpha curve of CUTS beside three sequential PyTorch loops.

All get the same weights, task vector, proxy images and grid of 81 alphas, and
must return the same curve J(alpha) to 1e-4:

  shipped    reload, edit, a pass over the test images (only logged) and
             scikit-learn neighbours, an alpha at a time: what the authors ship
             (without their image decoding: pixels are ready tensors here)
  selection  the same without the test pass
  matmul     the same with neighbours by matrix product and top-k
  ours       one compiled call; the first layer is computed once, as
             x W and x tau, because it is linear in its parameters

The loops have no cost that alphas share, so they are timed on every n-th alpha
and scaled up to the grid; ours always computes all 81. Repeats alternate
between the contestants; the figures are medians.

  python experiments/bench_alpha_search.py --out bench_alpha.json
  python experiments/bench_alpha_search.py --data npz:cifar10.npz --cases ...
"""

import argparse
import functools
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import errors, files, rng
from cmu_jax.core.types import Batch, Model, Network, Training, Variables
from cmu_jax.data import corruption, input_step, proxy_sets, sources, splits
from cmu_jax.methods.cuts import algorithm, alpha_rules, alpha_search
from cmu_jax.training import optimizers, train


class Case(NamedTuple):
  """One network and its images."""

  model: str
  options: dict[str, int]
  side: int
  channels: int
  steps: int


class Setup(NamedTuple):
  """What every contestant gets; images are normalised."""

  model: Model
  variables: Variables
  tau: Any
  pool: np.ndarray
  test: np.ndarray
  k: int


CASES = {
  'mlp': Case('fc', {'width': 1024}, 28, 1, 300),
  'resnet9-16': Case('resnet9', {'width': 16}, 32, 3, 20),
  'resnet9-64': Case('resnet9', {'width': 64}, 32, 3, 200),
  'fc1': Case('fc', {'width': 32768}, 28, 1, 200),
}
GRID = alpha_rules.noise_grid()


def _images(case: Case, source: str, pool: int, test: int):
  """Train, proxy pool and test images of the case's size, from any source."""
  loaded = sources.load(source, image_size=None)
  shape = (case.side, case.side, case.channels)

  def fit(batch: Batch, count: int) -> Batch:
    reps = -(-count // batch.label.shape[0])
    image = jnp.tile(batch.image, (reps, 1, 1, 1))[:count].astype(jnp.float32)
    image = jnp.broadcast_to(
      jax.image.resize(
        image[..., :1] if case.channels == 1 else image,
        (
          count,
          case.side,
          case.side,
          1 if case.channels == 1 else image.shape[-1],
        ),
        'linear',
      ),
      (count, *shape),
    )
    # Repeated images would be each other's neighbours: a little noise.
    noise = jax.random.uniform(jax.random.key(count), image.shape, maxval=32)
    pixels = jnp.clip(image + noise, 0, 255).astype(jnp.uint8)
    return Batch(pixels, jnp.tile(batch.label, reps)[:count])

  both = fit(loaded.train, 4000 + pool)
  rest = splits.take(both, np.arange(4000))
  return (
    rest,
    splits.take(both, np.arange(4000, 4000 + pool)),
    fit(loaded.test, test),
  )


def prepare(case: Case, source: str, pool: int, test: int) -> Setup:
  """A briefly trained corrupted network and its task vector."""
  clean, held, test_batch = _images(case, source, pool, test)
  step = input_step.make((0.45,) * case.channels, (0.25,) * case.channels)
  model = networks.make(
    case.model, 10, (case.side, case.side, case.channels), **case.options
  )
  key = rng.fold_in(0)
  noisy = corruption.symmetric(rng.fold_in(key, 'c'), clean.label, 0.4, 10)
  start = jax.jit(model.init)(rng.fold_in(key, 'i'), step.eval(clean.image[:1]))
  network = Network(model, step)
  adam = optimizers.adamw(optimizers.constant_schedule(5e-4))
  training = Training(adam, case.steps, 128)
  mix = train.fit(
    rng.fold_in(key, 't'),
    network,
    start,
    corruption.apply(noisy, clean),
    training,
    title='corrupted network',
  ).variables
  proxies = proxy_sets.make_proxy(
    rng.fold_in(key, 'p'), 'symmetric', held, 2, 10
  )
  tau, _ = algorithm.direction(
    rng.fold_in(key, 'f'),
    network,
    mix,
    proxies,
    training._replace(steps=case.steps // 2),
  )
  return Setup(
    model,
    mix,
    tau,
    np.asarray(step.eval(held.image)),
    np.asarray(step.eval(test_batch.image)),
    alpha_rules.neighbour_count(pool, 10),
  )


def ours(setup: Setup) -> Callable[[], np.ndarray]:
  """() -> J over the grid, as one compiled call."""
  measure = functools.partial(alpha_rules.agreement, k=setup.k)
  image, grid = jnp.asarray(setup.pool), jnp.asarray(GRID, jnp.float32)
  return lambda: np.asarray(
    alpha_search.curve(
      setup.model, setup.variables, setup.tau, image, grid, measure
    ).J
  )


def _timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
  began = time.perf_counter()
  result = run()
  return time.perf_counter() - began, result


def compare(
  name: str,
  source: str,
  pool: int,
  test: int,
  repeats: int,
  few: int,
  deadline: float,
) -> dict[str, Any]:
  """One case: the medians, the ratios and the largest difference of J."""
  import bench_torch_alpha as contestants

  setup = prepare(CASES[name], source, pool, test)
  device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
  loops = contestants.make(CASES[name].model, setup, device)
  mine = ours(setup)
  compiled, curve = _timed(mine)
  every = max(1, len(GRID) // few)
  part = GRID[::every]
  times: dict[str, list[float]] = {n: [] for n in ('ours', *loops)}
  curves: dict[str, np.ndarray] = {}
  for repeat in range(repeats):
    if repeat and time.monotonic() > deadline:
      break
    times['ours'].append(_timed(mine)[0])
    for label, loop in loops.items():
      seconds, curves[label] = _timed(functools.partial(loop, part))
      times[label].append(seconds * len(GRID) / len(part))
  median = {n: statistics.median(t) for n, t in times.items()}
  differences = {
    n: float(np.max(np.abs(c - curve[::every]))) for n, c in curves.items()
  }
  return {
    'case': name,
    'device': str(jax.devices()[0].device_kind),
    'proxy_images': pool,
    'test_images': test,
    'repeats': len(times['ours']),
    'seconds': median,
    'seconds_ours_first_call': compiled,
    'ratio': {n: median[n] / median['ours'] for n in loops},
    'ratio_with_compilation': {n: median[n] / compiled for n in loops},
    'largest_difference_of_J': differences,
    'same_curve': all(d <= 1e-4 for d in differences.values()),
    'peak_memory_mib': contestants.peak_memory(device),
    'threads': contestants.threads(),
  }


def _flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--cases', default='mlp,resnet9-16')
  parser.add_argument('--data', default='digits', help='any data.load source')
  parser.add_argument('--pool', type=int, default=1000, help='proxy images')
  parser.add_argument('--test', type=int, default=10000, help='test images')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument(
    '--few', type=int, default=9, help='alphas on which the loops are timed'
  )
  parser.add_argument('--minutes', type=float, default=30.0)
  parser.add_argument('--out', help='JSON file')
  return parser.parse_args()


def main() -> int:
  """Runs the cases, prints the table, writes the JSON."""
  if importlib.util.find_spec('torch') is None:
    print(
      "error: PyTorch is missing: pip install 'cmu_jax[bench]'", file=sys.stderr
    )
    return 2
  # Both sides in full float32: on GPUs the default would be TF32.
  jax.config.update('jax_default_matmul_precision', 'highest')
  flags = _flags()
  deadline = time.monotonic() + 60 * flags.minutes
  table = rich.table.Table(
    'case',
    'ours s',
    'shipped',
    'selection',
    'matmul',
    'max |dJ|',
    title='PyTorch seconds / ours',
  )
  found = []
  for name in flags.cases.split(','):
    if name not in CASES:
      raise errors.unknown_name('case', name, CASES)
    row = compare(
      name,
      flags.data,
      flags.pool,
      flags.test,
      flags.repeats,
      flags.few,
      deadline,
    )
    found.append(row)
    ratio = row['ratio']
    table.add_row(
      name,
      f'{row["seconds"]["ours"]:.2f}',
      *(f'{ratio[n]:.1f}x' for n in ('shipped', 'selection', 'matmul')),
      f'{max(row["largest_difference_of_J"].values()):.1e}',
    )
    print(json.dumps(row))
    if flags.out:
      files.write_json(flags.out, found)
  rich.console.Console().print(table)
  return 0


if __name__ == '__main__':
  shell.run_script(main)
