"""Training speed beside plain PyTorch: same network, batch and optimiser.

Both sides hold the data on the device, draw each batch at random, and step
with SGD (momentum 0.9, coupled weight decay 5e-4) in float32. PyTorch runs at
the best of 1 and 2 threads and of both memory layouts, chosen by a trial. The
repeats alternate between the two sides, so that a busy machine slows both.

  python experiments/bench_training.py --minutes 5 --out bench.json
"""

import argparse
import functools
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import rich.console
import rich.table
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import errors, files, jit, progress
from cmu_jax.core.types import Variables


class Case(NamedTuple):
  """One network at one batch size."""

  model: str
  options: dict[str, int]
  shape: tuple[int, int, int]
  batch: int


CASES = {
  'mlp': Case('fc', {'width': 128, 'depth': 2}, (28, 28, 1), 256),
  'convnet': Case('convnet', {'width': 1}, (28, 28, 1), 128),
  'resnet9-8': Case('resnet9', {'width': 8}, (32, 32, 3), 128),
  'resnet9-16': Case('resnet9', {'width': 16}, (32, 32, 3), 128),
  'resnet9-64': Case('resnet9', {'width': 64}, (32, 32, 3), 64),
}
SAMPLES = 4096


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
    each = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, labels[index]
    )
    return each.mean(), stats

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
    if not np.isfinite(float(carry[2])):
      raise FloatingPointError('our run diverged')
    return time.perf_counter() - began

  return run


def _timed(run: Callable[[int], float], seconds: float) -> tuple[int, float]:
  """Steps that take about `seconds`, and the seconds of the very first."""
  first = run(1)
  pair = max(run(2) / 2, 1e-6)
  steps = max(int(0.2 * seconds / pair), 1)
  return max(int(seconds * steps / run(steps)), 1), first


def _fastest_torch(
  case: Case, image: np.ndarray, label: np.ndarray, device: str, seconds: float
) -> tuple[Callable[[int], float], int, float, str]:
  import bench_torch  # after the check that PyTorch is there

  tried = []
  for setting in bench_torch.variants(device, case.model != 'fc'):
    run = bench_torch.trainer(
      case.model,
      case.options,
      image,
      label,
      case.batch,
      device,
      **setting,
    )
    steps, first = _timed(run, seconds)
    layout = 'channels last' if setting['channels_last'] else 'contiguous'
    words = f'{setting["threads"]} threads, {layout}'
    tried.append((run(steps) / steps, run, steps, first, words))
  return min(tried, key=lambda t: t[0])[1:]


def measure(
  name: str, repeats: int, seconds: float, device: str
) -> dict[str, Any]:
  """Times one case; images a second, medians over the repeats."""
  case = CASES[name]
  rng = np.random.default_rng(0)
  image = rng.standard_normal((SAMPLES, *case.shape), np.float32)
  label = rng.integers(0, 10, SAMPLES).astype(np.int32)
  began = time.perf_counter()
  ours = trainer(case, image, label)
  built = time.perf_counter() - began
  steps, first = _timed(ours, seconds)
  theirs, torch_steps, torch_first, words = _fastest_torch(
    case, image, label, device, seconds
  )
  rates: dict[str, list[float]] = {'ours': [], 'torch': []}
  for _ in range(repeats):
    rates['ours'].append(steps * case.batch / ours(steps))
    rates['torch'].append(torch_steps * case.batch / theirs(torch_steps))
  ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
  return {
    'case': name,
    'batch': case.batch,
    **{side: statistics.median(rate) for side, rate in rates.items()},
    'ratio': statistics.median(ratios),
    'ratio_low': min(ratios),
    'ratio_high': max(ratios),
    'first_ours': built + first,
    'first_torch': torch_first,
    'torch_setting': words,
    'repeats': rates,
  }


def _first_minute(rate: float, first: float) -> float:
  """Images a second over the first minute, warm-up included."""
  return rate * max(60 - first, 0) / 60


def _table(rows: list[dict[str, Any]], title: str) -> rich.table.Table:
  table = rich.table.Table(title=title)
  for column in (
    'case', 'batch', 'ours img/s', 'torch img/s', 'ours/torch', 'range',
    'warm-up s', 'torch s', 'first minute ours/torch', 'torch at',
  ):  # fmt: skip
    table.add_column(column, justify='right')
  for row in rows:
    minute = _first_minute(row['ours'], row['first_ours']) / max(
      _first_minute(row['torch'], row['first_torch']), 1e-9
    )
    table.add_row(
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
  return table


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--minutes', type=float, default=5.0)
  parser.add_argument('--cases', nargs='+', default=list(CASES))
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--tf32', action='store_true', help='both sides; GPUs')
  parser.add_argument('--out', help='JSON file to write')
  return parser.parse_args()


def _run(options: argparse.Namespace) -> None:
  for name in options.cases:
    if name not in CASES:
      raise errors.unknown_name('case', name, CASES)
  errors.check(options.repeats >= 1, '--repeats must be 1 or more')
  errors.check(options.minutes > 0, '--minutes must be above 0')
  import bench_torch

  device = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'
  bench_torch.allow_tf32(options.tf32)
  jax.config.update(
    'jax_default_matmul_precision',
    'tensorfloat32' if options.tf32 else 'float32',
  )
  # Two sides, up to four trials of PyTorch, and the search for step counts.
  parts = len(options.cases) * (2 * options.repeats + 12)
  seconds = options.minutes * 60 / parts
  rows = []
  with progress.bar('benchmark', len(options.cases), 'cases') as advance:
    for name in options.cases:
      rows.append(measure(name, options.repeats, seconds, device))
      advance(1, name)
  precision = 'TF32' if options.tf32 else 'float32, no TF32'
  title = f'training on {device}, {precision}'
  rich.console.Console(width=150).print(_table(rows, title))
  if options.out:
    about = {
      'device': device,
      'tf32': options.tf32,
      'jax': jax.__version__,
      'python': platform.python_version(),
    }
    files.write_json(options.out, {'about': about, 'cases': rows})


def main() -> int:
  """Runs the benchmark; 2 for a user's mistake or a missing PyTorch."""
  if importlib.util.find_spec('torch') is None:
    print("PyTorch is missing: pip install 'cmu_jax[bench]'", file=sys.stderr)
    return 2
  try:
    _run(_arguments())
  except errors.UserError as error:
    print(error, file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  shell.run_script(main)
