"""Training speed beside plain PyTorch: same network, batch and optimiser.

Both sides hold the data on the device, draw each batch at random, and step
with SGD (momentum 0.9, coupled weight decay 5e-4) in float32. PyTorch runs at
the best of 1 and 2 threads and of both memory layouts, chosen by a trial. The
repeats alternate between the two sides, so that a busy machine slows both.

  python experiments/bench_training.py --minutes 5 --out bench.json
"""

import functools
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import bench_common
import jax
import numpy as np
import optax
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import files, jit, progress
from cmu_jax.core.types import Variables


class Case(NamedTuple):
  """A network at a batch size."""

  model: str
  options: dict[str, int]
  shape: tuple[int, int, int]
  batch: int


class Timing(NamedTuple):
  """A side that is ready to be timed.

  Attributes:
    run: steps -> seconds.
    steps: number of steps that fill a repeat.
    first: seconds of the first step, with compilation.
    setting: threads and layout, in words.
  """

  run: Callable[[int], float]
  steps: int
  first: float
  setting: str = ''


CASES = {
  'mlp': Case('fc', {'width': 128, 'depth': 2}, (28, 28, 1), 256),
  'convnet': Case('convnet', {'width': 1}, (28, 28, 1), 128),
  'resnet9-8': Case('resnet9', {'width': 8}, (32, 32, 3), 128),
  'resnet9-16': Case('resnet9', {'width': 16}, (32, 32, 3), 128),
  'resnet9-64': Case('resnet9', {'width': 64}, (32, 32, 3), 64),
}
SAMPLES = 4096
COLUMNS = (
  'case', 'batch', 'ours img/s', 'torch img/s', 'ours/torch', 'range',
  'warm-up s', 'torch s', 'first minute ours/torch', 'torch at',
)  # fmt: skip


def trainer(
  case: Case, image: np.ndarray, label: np.ndarray
) -> Callable[[int], float]:
  """run(steps) -> seconds of our step, looped on the device."""
  model = networks.make(case.model, 10, case.shape, **case.options)
  tx = optax.chain(
    optax.add_decayed_weights(5e-4), optax.sgd(0.01, momentum=0.9)
  )
  images, labels = jnp.asarray(image), jnp.asarray(label)

  def loss(params: Any, stats: Any, index: jax.Array) -> tuple[jax.Array, Any]:
    logits, stats = model.update(Variables(params, stats), images[index])
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, labels[index]
    )
    return losses.mean(), stats

  def step(carry: tuple, key: jax.Array) -> tuple:
    variables, state, _ = carry
    index = jax.random.randint(key, (case.batch,), 0, len(label))
    (value, stats), grad = jax.value_and_grad(loss, has_aux=True)(
      variables.params, variables.batch_stats, index
    )
    updates, state = tx.update(grad, state, variables.params)
    params = optax.apply_updates(variables.params, updates)
    return Variables(params, stats), state, value

  @functools.partial(jit.compile_loop, donate_argnums=0)
  def fit(carry: tuple, key: jax.Array, steps: jax.Array) -> tuple:
    return jax.lax.fori_loop(
      0, steps, lambda i, c: step(c, jax.random.fold_in(key, i)), carry
    )

  variables = jax.jit(model.init)(jax.random.key(0), images[:1])
  carry = (variables, tx.init(variables.params), jnp.zeros(()))

  def run(steps: int) -> float:
    nonlocal carry
    began = time.perf_counter()
    carry = fit(carry, jax.random.key(steps), jnp.asarray(steps))
    # Reading the loss waits for the device.
    if not np.isfinite(float(carry[2])):
      raise FloatingPointError('our run diverged')
    return time.perf_counter() - began

  return run


def warm_up(
  run: Callable[[int], float], seconds: float, setting: str = ''
) -> Timing:
  """Runs a side first, and finds the steps that take about `seconds`."""
  first = run(1)
  step_seconds = max(run(2) / 2, 1e-6)
  steps = max(int(0.2 * seconds / step_seconds), 1)
  return Timing(run, max(int(seconds * steps / run(steps)), 1), first, setting)


def fastest_torch(
  case: Case, image: np.ndarray, label: np.ndarray, device: str, seconds: float
) -> Timing:
  """Tries PyTorch's settings and returns the fastest."""
  import bench_torch

  trials = []
  for options in bench_torch.variants(device, case.model != 'fc'):
    run = bench_torch.trainer(
      case.model,
      case.options,
      image,
      label,
      case.batch,
      device,
      **options,
    )
    timing = warm_up(run, seconds, bench_torch.describe(**options))
    trials.append((run(timing.steps) / timing.steps, timing))
  return min(trials, key=lambda trial: trial[0])[1]


def measure(name: str, repeats: int, seconds: float) -> dict[str, Any]:
  """Times a case; images a second, medians over the repeats."""
  case = CASES[name]
  generator = np.random.default_rng(0)
  image = generator.standard_normal((SAMPLES, *case.shape), np.float32)
  label = generator.integers(0, 10, SAMPLES).astype(np.int32)
  built, run = bench_common.time_call(lambda: trainer(case, image, label))
  ours = warm_up(run, seconds)
  theirs = fastest_torch(
    case, image, label, bench_common.torch_device(), seconds
  )
  rates: dict[str, list[float]] = {'ours': [], 'torch': []}
  for _ in range(repeats):
    for side, timing in zip(rates, (ours, theirs), strict=True):
      images = timing.steps * case.batch
      rates[side].append(images / timing.run(timing.steps))
  ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
  return {
    'case': name,
    'batch': case.batch,
    **{side: statistics.median(rate) for side, rate in rates.items()},
    'ratio': statistics.median(ratios),
    'ratio_low': min(ratios),
    'ratio_high': max(ratios),
    'first_ours': built + ours.first,
    'first_torch': theirs.first,
    'torch_setting': theirs.setting,
    'repeats': rates,
  }


def first_minute(rate: float, first: float) -> float:
  """Images a second over the first minute, warm-up included."""
  return rate * max(60 - first, 0) / 60


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
  """Formats a result for the table."""
  minute = first_minute(row['ours'], row['first_ours']) / max(
    first_minute(row['torch'], row['first_torch']), 1e-9
  )
  return (
    row['case'],
    str(row['batch']),
    f'{row["ours"]:,.0f}',
    f'{row["torch"]:,.0f}',
    f'{row["ratio"]:.2f}',
    f'{row["ratio_low"]:.2f}-{row["ratio_high"]:.2f}',
    f'{row["first_ours"]:.1f}',
    f'{row["first_torch"]:.1f}',
    f'{minute:.2f}',
    row['torch_setting'],
  )


def main() -> None:
  """Runs the benchmark, prints the table, writes the JSON."""
  parser = bench_common.parser(__doc__ or '', 5.0, CASES)
  parser.add_argument('--tf32', action='store_true', help='both sides; GPUs')
  parser.add_argument('--out', help='JSON file to write')
  flags = parser.parse_args()
  bench_common.check(flags, CASES)
  bench_common.use_full_precision(flags.tf32)
  # Two sides, up to four trials of PyTorch, and the search for step counts.
  shares = len(flags.cases) * (2 * flags.repeats + 12)
  seconds = flags.minutes * 60 / shares
  rows = []
  with progress.bar('benchmark', len(flags.cases), 'cases') as advance:
    for name in flags.cases:
      rows.append(measure(name, flags.repeats, seconds))
      advance(1, name)
  device = bench_common.torch_device()
  precision = 'TF32' if flags.tf32 else 'float32, no TF32'
  bench_common.print_table(
    f'training on {device}, {precision}', COLUMNS, map(table_row, rows), 150
  )
  if flags.out:
    about = {
      'device': device,
      'tf32': flags.tf32,
      'jax': jax.__version__,
      'python': platform.python_version(),
    }
    files.write_json(flags.out, {'about': about, 'cases': rows})


if __name__ == '__main__':
  shell.run_script(main)
