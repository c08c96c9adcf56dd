"""The whole alpha curve of CUTS beside three sequential PyTorch loops.

All sides get the same weights, task vector, proxy images and grid of 81 alphas,
and must return the same curve J(alpha) to 1e-4:

  shipped    reload, edit, a pass over the test images (only logged) and
             scikit-learn neighbours, an alpha at a time: the authors' program
             (without their image decoding: pixels are ready tensors here)
  selection  the same without the test pass
  matmul     the same with neighbours by matrix product and top-k
  ours       one compiled call; the first layer is computed once, as
             x W and x tau, because it is linear in its parameters

The loops share no work between alphas, so they are timed on every n-th alpha
and scaled up to the grid; ours always computes all 81. Repeats alternate
between the sides; the figures are medians.

  python experiments/bench_alpha_search.py --out bench_alpha.json
  python experiments/bench_alpha_search.py --data npz:cifar10.npz --cases ...
"""

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import bench_common
import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import files, rng
from cmu_jax.core.types import Model, Network, Training, Variables
from cmu_jax.data import corruption, input_step, proxy_sets, sources, splits
from cmu_jax.methods.cuts import algorithm, alpha_rules, alpha_search
from cmu_jax.training import optimizers, train


class Case(NamedTuple):
  """A network and its images."""

  model: str
  options: dict[str, int]
  side: int
  channels: int
  steps: int


class Setup(NamedTuple):
  """The data of every side; images are normalised."""

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
TRAINING_IMAGES = 4000
LOOPS = ('shipped', 'selection', 'matmul')


def prepare(case: Case, source: str, pool: int, test: int) -> Setup:
  """Trains a corrupted network briefly, and computes its task vector."""
  loaded = sources.load(source, image_size=None)
  fit = lambda batch, count: bench_common.fit_images(
    batch, case.side, case.channels, count
  )
  images = fit(loaded.train, TRAINING_IMAGES + pool)
  clean = splits.take(images, np.arange(TRAINING_IMAGES))
  pool_images = splits.take(
    images, np.arange(TRAINING_IMAGES, TRAINING_IMAGES + pool)
  )
  step = input_step.make((0.45,) * case.channels, (0.25,) * case.channels)
  model = networks.make(
    case.model, 10, (case.side, case.side, case.channels), **case.options
  )
  key = rng.fold_in(0)
  noisy = corruption.symmetric(rng.fold_in(key, 'c'), clean.label, 0.4, 10)
  start = jax.jit(model.init)(rng.fold_in(key, 'i'), step.eval(clean.image[:1]))
  network = Network(model, step)
  optimizer = optimizers.adamw(optimizers.constant_schedule(5e-4))
  mix = train.fit(
    rng.fold_in(key, 't'),
    network,
    start,
    corruption.apply(noisy, clean),
    Training(optimizer, case.steps, 128),
    train.Session('corrupted network'),
  ).variables
  proxies = proxy_sets.make_proxy(
    rng.fold_in(key, 'p'), 'symmetric', pool_images, 2, 10
  )
  tau, _ = algorithm.direction(
    rng.fold_in(key, 'f'),
    network,
    mix,
    proxies,
    Training(optimizer, case.steps // 2, 128),
  )
  return Setup(
    model,
    mix,
    tau,
    np.asarray(step.eval(pool_images.image)),
    np.asarray(step.eval(fit(loaded.test, test).image)),
    alpha_rules.neighbour_count(pool, 10),
  )


def our_search(setup: Setup) -> Callable[[], np.ndarray]:
  """() -> J over the grid, as one compiled call."""
  measure = functools.partial(alpha_rules.agreement, k=setup.k)
  image, grid = jnp.asarray(setup.pool), jnp.asarray(GRID, jnp.float32)
  return lambda: np.asarray(
    alpha_search.curve(
      setup.model, setup.variables, setup.tau, image, grid, measure
    ).J
  )


def compare(name: str, flags: Any, deadline: float) -> dict[str, Any]:
  """Returns medians, ratios and the largest difference of J of a case."""
  import bench_torch_alpha

  setup = prepare(CASES[name], flags.data, flags.pool, flags.test)
  device = bench_common.torch_device()
  loops = bench_torch_alpha.make(CASES[name].model, setup, device)
  ours = our_search(setup)
  first_call, curve = bench_common.time_call(ours)
  every = max(1, len(GRID) // flags.few)
  points = GRID[::every]
  times: dict[str, list[float]] = {n: [] for n in ('ours', *loops)}
  curves: dict[str, np.ndarray] = {}
  for repeat in range(flags.repeats):
    if repeat and time.monotonic() > deadline:
      break
    times['ours'].append(bench_common.time_call(ours)[0])
    for label, loop in loops.items():
      seconds, curves[label] = bench_common.time_call(
        functools.partial(loop, points)
      )
      times[label].append(seconds * len(GRID) / len(points))
  median = {n: statistics.median(t) for n, t in times.items()}
  differences = {
    n: float(np.max(np.abs(c - curve[::every]))) for n, c in curves.items()
  }
  return {
    'case': name,
    'device': str(jax.devices()[0].device_kind),
    'proxy_images': flags.pool,
    'test_images': flags.test,
    'repeats': len(times['ours']),
    'seconds': median,
    'seconds_ours_first_call': first_call,
    'ratio': {n: median[n] / median['ours'] for n in loops},
    'ratio_with_compilation': {n: median[n] / first_call for n in loops},
    'largest_difference_of_J': differences,
    'same_curve': all(d <= 1e-4 for d in differences.values()),
    'peak_memory_mib': bench_torch_alpha.peak_memory(device),
    'threads': bench_torch_alpha.threads(),
  }


def parse_flags() -> Any:
  """Reads the command line."""
  parser = bench_common.parser(__doc__ or '', 30.0, ('mlp', 'resnet9-16'))
  parser.add_argument('--data', default='digits', help='any data source')
  parser.add_argument('--pool', type=int, default=1000, help='proxy images')
  parser.add_argument('--test', type=int, default=10000, help='test images')
  parser.add_argument(
    '--few', type=int, default=9, help='alphas on which the loops are timed'
  )
  parser.add_argument('--out', help='JSON file')
  return parser.parse_args()


def main() -> None:
  """Runs the cases, prints the table, writes the JSON."""
  flags = parse_flags()
  bench_common.check(flags, CASES)
  bench_common.use_full_precision()
  deadline = time.monotonic() + 60 * flags.minutes
  rows = []
  for name in flags.cases:
    rows.append(compare(name, flags, deadline))
    print(json.dumps(rows[-1]))
    if flags.out:
      files.write_json(flags.out, rows)
  bench_common.print_table(
    'PyTorch seconds / ours',
    ('case', 'ours s', *LOOPS, 'max |dJ|'),
    [
      (
        row['case'],
        f'{row["seconds"]["ours"]:.2f}',
        *(f'{row["ratio"][n]:.1f}x' for n in LOOPS),
        f'{max(row["largest_difference_of_J"].values()):.1e}',
      )
      for row in rows
    ],
  )


if __name__ == '__main__':
  shell.run_script(main)
