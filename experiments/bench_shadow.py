"""K = 32 shadow models from one call, beside PyTorch one after another.

Both sides train the same networks on the same halves of the handwritten digits
(resized where the network takes 28 x 28), with the same number of steps, batch
and optimiser (SGD, momentum 0.9, coupled weight decay 5e-4) in float32. PyTorch
runs at the better of one and two threads. Repeats alternate; figures are
medians. Steady: all but compilation; with it: the first call of the process.
Accuracy on the half that a model did not see must agree within 2 standard
errors over models, else the exit code is 1.

  python experiments/bench_shadow.py --minutes 20 --out bench_shadow.json
  python experiments/bench_shadow.py --device gpu --out bench_shadow_gpu.json

Time and peak memory against K are measured in processes of their own and drawn
beside the JSON file. What is done is in that file: the command goes on.
"""

import argparse
import importlib.util
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import bench_shadow_cases as posed
import jax
import numpy as np
import rich.console
import rich.table

from cmu_jax.audits import shadow
from cmu_jax.commands import shell
from cmu_jax.core import errors, files, progress, provenance
from cmu_jax.report import style

K = 32
COUNTS = (2, 4, 8, 16, 32, 64)


def measure(name: str, repeats: int, device: str) -> dict[str, Any]:
  """One case on both sides."""
  import bench_torch_shadow as torch_side

  case = posed.ALL[name]
  batch = posed.data(case.side)
  inside = shadow.assign_halves(jax.random.key(0), K, len(batch.label))
  image = np.asarray(posed.recipe(name)[1].inputs.eval(batch.image, None))
  label = np.array(batch.label)
  side = torch_side.Side(
    case.model,
    case.options,
    image.copy(),
    label,
    inside,
    case.steps,
    case.batch,
    posed.RATE,
  )
  where = 'cuda' if device == 'gpu' else 'cpu'
  first, hits = posed.ours(name, inside, 0)
  threads = torch_side.fastest(side, where)
  torch_first, torch_hits = torch_side.train(side, where, threads)
  seconds: dict[str, list[float]] = {'ours': [], 'torch': []}
  for i in range(repeats):
    seconds['ours'].append(posed.ours(name, inside, 1 + i)[0])
    seconds['torch'].append(torch_side.train(side, where, threads)[0])
  accuracy = [posed.unseen(h, inside) for h in (hits, torch_hits)]
  difference = float(accuracy[0].mean() - accuracy[1].mean())
  error = float(np.sqrt(sum(a.var(ddof=1) / len(a) for a in accuracy)))
  ratios = [t / o for o, t in zip(*seconds.values(), strict=True)]
  ways = {
    how: posed.ours(name, inside, 0, how=how)[0] for how in ('vmap', 'map')
  }
  ways = {how: posed.ours(name, inside, 1, how=how)[0] for how in ways}
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
    'first_ours': first,
    'first_torch': torch_first,
    'with_compilation': torch_first / first,
    'torch_threads': threads,
    'accuracy_ours': float(accuracy[0].mean()),
    'accuracy_torch': float(accuracy[1].mean()),
    'difference': difference,
    'standard_error': error,
    'within_2_se': abs(difference) <= 2 * error,
    'seconds_by_way': ways,
    'repeats': seconds,
  }


def _peak_mib() -> float:
  """The most memory that this process has held.

  Not of `getrusage` where Linux says it better: that figure is inherited from
  the process that started this one.
  """
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  facts = dict(line.split(':', 1) for line in status.read_text().splitlines())
  return int(facts['VmHWM'].split()[0]) / 1024


def _one(name: str, count: int, group: int) -> dict[str, float]:
  """Seconds and peak memory of K models, in this process."""
  size = len(posed.data(posed.ALL[name].side).label)
  inside = shadow.assign_halves(jax.random.key(0), count, size)
  first = posed.ours(name, inside, 0, group=group)[0]
  steady = statistics.median(
    posed.ours(name, inside, i, group=group)[0] for i in (1, 2, 3)
  )
  return {'first': first, 'steady': steady, 'peak_mib': _peak_mib()}


def scaling(name: str, count: int, group: int) -> dict[str, Any]:
  """The same in a process of its own; memory is of one training only then."""
  command = [sys.executable, __file__, '--one', name, str(count), str(group)]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  found = json.loads(done.stdout.splitlines()[-1])
  return {'case': name, 'models': count, 'group': group, **found}


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Time and peak memory against K, a line a case and group size."""
  with style.context():
    made = style.canvas('Shadow models: time and memory', (10.0, 4.2), False)
    axes = made.subplots(1, 2)
    kinds = dict.fromkeys((row['case'], row['group']) for row in rows)
    for kind, colour in zip(kinds, style.COLOURS, strict=False):
      own = [row for row in rows if (row['case'], row['group']) == kind]
      label = f'{kind[0]}, ' + (
        f'groups of {kind[1]}' if kind[1] else 'at once'
      )
      for ax, field in zip(axes, ('steady', 'peak_mib'), strict=True):
        x, y = [row['models'] for row in own], [row[field] for row in own]
        ax.plot(x, y, 'o-', color=colour, label=label)
    for ax, words in zip(axes, ('seconds', 'peak memory, MiB'), strict=True):
      style.set_log_axes(ax, 'x')
      ax.set(xlabel='models', ylabel=words, ylim=(0, None))
    axes[0].legend()
  png = style.png(made)
  files.write(path, lambda file: file.write(png))


def _table(rows: list[dict[str, Any]]) -> rich.table.Table:
  table = rich.table.Table(title=f'{K} shadow models beside PyTorch')
  for column in ('case', 'steady', 'range', 'with compilation', 'goal'):
    table.add_column(column, justify='right')
  for column in ('ours s', 'torch s', 'accuracy ours', 'torch', '2 SE'):
    table.add_column(column, justify='right')
  for row in rows:
    table.add_row(
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
  return table


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--minutes', type=float, default=30.0)
  parser.add_argument('--device', choices=('cpu', 'gpu'), default='cpu')
  parser.add_argument('--cases', nargs='+')
  parser.add_argument('--counts', nargs='*', type=int, default=COUNTS)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--one', nargs=3, help=argparse.SUPPRESS)
  parser.add_argument('--out', default='bench_shadow.json', type=pathlib.Path)
  return parser.parse_args()


def _run(options: argparse.Namespace) -> int:
  known = posed.CASES if options.device == 'cpu' else posed.ALL
  names = options.cases or list(known)
  for name in names:
    if name not in posed.ALL:
      raise errors.unknown_name('case', name, posed.ALL)
  errors.check(
    jax.default_backend() == options.device,
    f'--device={options.device}, but JAX runs on {jax.default_backend()}',
  )
  found: dict[str, Any] = {'cases': [], 'scaling': []}
  if options.out.exists():
    found = files.read_json(options.out)
  found['about'] = provenance.describe_process()
  until = time.monotonic() + 60 * options.minutes
  work = [
    ('cases', (name,), measure, (name, options.repeats, options.device))
    for name in names
  ]
  work += [
    ('scaling', (name, k, group), scaling, (name, k, group))
    for name in names
    for group in (0, 8)
    for k in options.counts
  ]
  keys = {'cases': ('case',), 'scaling': ('case', 'models', 'group')}
  with progress.bar('benchmark', len(work), 'parts') as advance:
    for part, key, run, arguments in work:
      done = [tuple(row[k] for k in keys[part]) for row in found[part]]
      if key not in done and time.monotonic() < until:
        found[part].append(run(*arguments))
        files.write_json(options.out, found)
      advance(1, str(key))
  rich.console.Console(width=140).print(_table(found['cases']))
  if found['scaling']:
    plot(found['scaling'], options.out.with_suffix('.png'))
  return 0 if all(row['within_2_se'] for row in found['cases']) else 1


def main() -> int:
  """Runs the benchmark; 2 for a user's mistake or a missing PyTorch."""
  options = _arguments()
  if options.one:
    name, count, group = options.one
    print(json.dumps(_one(name, int(count), int(group))))
    return 0
  if importlib.util.find_spec('torch') is None:
    print("PyTorch is missing: pip install 'cmu_jax[bench]'", file=sys.stderr)
    return 2
  try:
    return _run(options)
  except errors.UserError as error:
    print(error, file=sys.stderr)
    return 2


if __name__ == '__main__':
  shell.run_script(main)
