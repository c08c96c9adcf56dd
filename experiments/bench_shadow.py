"""K = 32 shadow models from one call, beside PyTorch in sequence.

Both sides train the same networks on the same halves of the handwritten digits
(resized if the network takes 28 x 28), with the same number of steps, batch
and optimiser (SGD, momentum 0.9, coupled weight decay 5e-4) in float32. PyTorch
runs at the better of one and two threads. Repeats alternate; figures are
medians. Steady: all but compilation; with it: the first call of the process.
Accuracy on the half that a model did not see must agree within 2 standard
errors over models, else the exit code is 1.

  python experiments/bench_shadow.py --minutes 20 --out bench_shadow.json
  python experiments/bench_shadow.py --device gpu --out bench_shadow_gpu.json

Time and peak memory against K are measured in processes of their own and drawn
beside the JSON file. The same command continues with the results in that file.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import bench_common
import bench_shadow_cases as cases
import jax
import numpy as np

from cmu_jax.audits import shadow
from cmu_jax.commands import shell
from cmu_jax.core import errors, files, progress, provenance
from cmu_jax.report import style

K = 32
COUNTS = (2, 4, 8, 16, 32, 64)
GROUPS = (0, 8)
COLUMNS = (
  'case', 'steady', 'range', 'with compilation', 'goal',
  'ours s', 'torch s', 'accuracy ours', 'torch', '2 SE',
)  # fmt: skip
# The fields that identify a row of each list in the JSON.
KEYS = {'cases': ('case',), 'scaling': ('case', 'models', 'group')}


def measure(name: str, repeats: int, device: str) -> dict[str, Any]:
  """Measures a case on both sides."""
  import bench_torch_shadow

  case = cases.ALL[name]
  batch = cases.digits(case.side)
  inside = shadow.assign_halves(jax.random.key(0), K, len(batch.label))
  image = np.asarray(cases.recipe(name)[1].inputs.eval(batch.image, None))
  problem = bench_torch_shadow.Problem(
    case.model,
    case.options,
    image.copy(),
    np.array(batch.label),
    inside,
    case.steps,
    case.batch,
    cases.RATE,
  )
  torch_device = 'cuda' if device == 'gpu' else 'cpu'
  our_first, our_hits = cases.train_shadows(name, inside, 0)
  threads = bench_torch_shadow.fastest(problem, torch_device)
  torch_run = lambda: bench_torch_shadow.train(problem, torch_device, threads)
  torch_first, torch_hits = torch_run()
  seconds: dict[str, list[float]] = {'ours': [], 'torch': []}
  for i in range(repeats):
    seconds['ours'].append(cases.train_shadows(name, inside, 1 + i)[0])
    seconds['torch'].append(torch_run()[0])
  accuracy = [cases.unseen(h, inside) for h in (our_hits, torch_hits)]
  difference = float(accuracy[0].mean() - accuracy[1].mean())
  error = float(np.sqrt(sum(a.var(ddof=1) / len(a) for a in accuracy)))
  ratios = [t / o for o, t in zip(*seconds.values(), strict=True)]
  by_strategy = {}
  for strategy in ('vmap', 'map'):
    # The first call compiles, the second is timed.
    for seed in (0, 1):
      by_strategy[strategy] = cases.train_shadows(
        name, inside, seed, strategy=strategy
      )[0]
  return {
    'case': name,
    'goal': case.goal,
    'batch': case.batch,
    'steps': case.steps,
    'models': K,
    'ours_seconds': statistics.median(seconds['ours']),
    'torch_seconds': statistics.median(seconds['torch']),
    'steady': statistics.median(ratios),
    'steady_low': min(ratios),
    'steady_high': max(ratios),
    'first_ours': our_first,
    'first_torch': torch_first,
    'with_compilation': torch_first / our_first,
    'torch_threads': threads,
    'accuracy_ours': float(accuracy[0].mean()),
    'accuracy_torch': float(accuracy[1].mean()),
    'difference': difference,
    'standard_error': error,
    'within_2_se': abs(difference) <= 2 * error,
    'seconds_by_way': by_strategy,
    'repeats': seconds,
  }


def peak_mib() -> float:
  """Returns the peak memory of this process."""
  # `getrusage` is inherited from the process that started this one, so Linux's
  # own figure comes first.
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  facts = dict(line.split(':', 1) for line in status.read_text().splitlines())
  return int(facts['VmHWM'].split()[0]) / 1024


def measure_here(name: str, count: int, group: int) -> dict[str, float]:
  """Measures seconds and peak memory of K models, in this process."""
  size = len(cases.digits(cases.ALL[name].side).label)
  inside = shadow.assign_halves(jax.random.key(0), count, size)
  first = cases.train_shadows(name, inside, 0, group=group)[0]
  steady = statistics.median(
    cases.train_shadows(name, inside, i, group=group)[0] for i in (1, 2, 3)
  )
  return {'first': first, 'steady': steady, 'peak_mib': peak_mib()}


def measure_apart(name: str, count: int, group: int) -> dict[str, Any]:
  """Measures K models in a new process, whose memory is theirs alone."""
  command = [sys.executable, __file__, '--one', name, str(count), str(group)]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  measured = json.loads(done.stdout.splitlines()[-1])
  return {'case': name, 'models': count, 'group': group, **measured}


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Draws time and peak memory against K, a line a case and group size."""
  with style.context():
    canvas = style.canvas('Shadow models: time and memory', (10.0, 4.2), False)
    axes = canvas.subplots(1, 2)
    kinds = dict.fromkeys((row['case'], row['group']) for row in rows)
    for kind, colour in zip(kinds, style.COLOURS, strict=False):
      members = [row for row in rows if (row['case'], row['group']) == kind]
      groups = f'groups of {kind[1]}' if kind[1] else 'at once'
      for ax, field in zip(axes, ('steady', 'peak_mib'), strict=True):
        x = [row['models'] for row in members]
        y = [row[field] for row in members]
        ax.plot(x, y, 'o-', color=colour, label=f'{kind[0]}, {groups}')
    for ax, label in zip(axes, ('seconds', 'peak memory, MiB'), strict=True):
      style.set_log_axes(ax, 'x')
      ax.set(xlabel='models', ylabel=label, ylim=(0, None))
    axes[0].legend()
  png = style.png(canvas)
  files.write(path, lambda file: file.write(png))


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
  """Formats a case for the table."""
  return (
    row['case'],
    f'{row["steady"]:.2f}',
    f'{row["steady_low"]:.2f}-{row["steady_high"]:.2f}',
    f'{row["with_compilation"]:.2f}',
    f'{row["goal"]:g}',
    f'{row["ours_seconds"]:.2f}',
    f'{row["torch_seconds"]:.2f}',
    f'{row["accuracy_ours"]:.4f}',
    f'{row["accuracy_torch"]:.4f}',
    'within' if row['within_2_se'] else 'BEYOND',
  )


def parse_flags() -> argparse.Namespace:
  """Reads the command line."""
  parser = bench_common.parser(__doc__ or '', 30.0, ())
  parser.add_argument('--device', choices=('cpu', 'gpu'), default='cpu')
  parser.add_argument('--counts', nargs='*', type=int, default=COUNTS)
  parser.add_argument('--one', nargs=3, help=argparse.SUPPRESS)
  parser.add_argument('--out', default='bench_shadow.json', type=pathlib.Path)
  return parser.parse_args()


def run(flags: argparse.Namespace) -> int:
  """Runs the measurements that the file lacks; 1 if accuracies disagree."""
  bench_common.check(flags, cases.ALL)
  errors.check(
    jax.default_backend() == flags.device,
    f'--device={flags.device}, but JAX runs on {jax.default_backend()}',
  )
  names = flags.cases or (cases.CASES if flags.device == 'cpu' else cases.ALL)
  results: dict[str, Any] = {'cases': [], 'scaling': []}
  if flags.out.exists():
    results = files.read_json(flags.out)
  results['about'] = provenance.describe_process()
  deadline = time.monotonic() + 60 * flags.minutes
  work = [
    ('cases', (name,), measure, (name, flags.repeats, flags.device))
    for name in names
  ]
  work += [
    ('scaling', (name, k, group), measure_apart, (name, k, group))
    for name in names
    for group in GROUPS
    for k in flags.counts
  ]
  with progress.bar('benchmark', len(work), 'parts') as advance:
    for part, key, function, arguments in work:
      done = [tuple(row[k] for k in KEYS[part]) for row in results[part]]
      if key not in done and time.monotonic() < deadline:
        results[part].append(function(*arguments))
        files.write_json(flags.out, results)
      advance(1, str(key))
  bench_common.print_table(
    f'{K} shadow models beside PyTorch',
    COLUMNS,
    map(table_row, results['cases']),
    140,
  )
  if results['scaling']:
    plot(results['scaling'], flags.out.with_suffix('.png'))
  return 0 if all(row['within_2_se'] for row in results['cases']) else 1


def main() -> int:
  """Runs the benchmark, or a single measurement for the process above it."""
  flags = parse_flags()
  if not flags.one:
    return run(flags)
  name, count, group = flags.one
  print(json.dumps(measure_here(name, int(count), int(group))))
  return 0


if __name__ == '__main__':
  shell.run_script(main)
