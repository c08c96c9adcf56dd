"""SSD's whole grid for ten identified fractions, beside PyTorch.

Both sides get the same network, samples and 50 grid points and repair the
network once for each point and fraction (500 repairs), on the same cores:

  published  PyTorch, importances computed anew for every point, as the
             benchmark of arXiv 2402.14015 does
  cached     PyTorch, importances computed once a fraction
  ours       importances once a fraction, the 39 distinct points as one program
  per_sample ours with per-sample importances, one pass for all fractions

Images are tensors on the device and not augmented. PyTorch runs on one or all
cores, whichever is faster. Repeats alternate; the figures are medians of the
repairs alone, and of the repairs with predictions on test images.

Equality: from the same importances the parameters of all repairs agree, except
for entries within 1e-4 of the selection threshold, which are counted.

  python experiments/bench_ssd_grid.py --out bench_ssd_grid.json
"""

import functools
import json
import os
import statistics
import sys
from typing import Any

import bench_common
import bench_ssd_problem as problem
import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import files, provenance, rng
from cmu_jax.methods.dampening import importance, ssd
from cmu_jax.training import descent

BATCH = 512
POINTS = ssd.published_grid()
COLUMNS = (
  'case', 'published s', 'ours s', 'ratio', 'with compilation',
  'max |d theta|',
)  # fmt: skip


def compare_importances(
  setup: problem.Setup, data: Any, importances: Any, net: Any
) -> float:
  """Returns the largest relative difference from PyTorch's importances."""
  import bench_torch_ssd
  import torch

  rows = descent.join_samples(data.retain, data.forget)
  is_retain = jnp.arange(rows.valid.shape[0]) < data.retain.valid.shape[0]
  tensors = bench_torch_ssd.tensors(
    setup.network.inputs.eval(rows.batch.image, None), rows.batch.label
  )
  largest = 0.0
  for name, ours, members in (
    ('retain', importances.retain, is_retain),
    ('forget', importances.forget, ~is_retain),
  ):
    valid = rows.valid & members
    # The sample order of our own pass: batch means depend on it.
    key = rng.fold_in(problem.KEY, name, 'order')
    order = np.asarray(importance.shuffle_rows(key, valid))
    order = torch.from_numpy(order[: int(valid.sum())].astype(np.int64))
    theirs = bench_torch_ssd.importances(net, *tensors, order, BATCH)
    leaves = bench_torch_ssd.leaves(setup.case.model, ours)
    for a, b in zip(leaves, theirs, strict=True):
      gap = float(np.abs(a - b.numpy()).max())
      largest = max(largest, gap / float(b.max()))
  return largest


def compare_repairs(setup: problem.Setup, net: Any) -> dict[str, Any]:
  """Compares parameters and importances of both sides."""
  import bench_torch_ssd

  method = problem.method(setup, BATCH)
  solve = problem.solver(setup, method, False)
  positions = np.array(
    [method.grid.index(ssd.distinct_points((p,))[0][0]) for p in POINTS]
  )
  original = [np.asarray(x) for x in jax.tree.leaves(setup.variables.params)]
  largest, close, changed, apart = 0.0, 0, 0, 0.0
  for data in setup.data:
    importances = method.prepare(problem.KEY, setup.variables, data)
    repaired = jax.tree.map(
      lambda x: np.asarray(x)[positions], solve(importances)
    )
    gap, near = bench_torch_ssd.largest_difference(
      setup.case.model,
      setup.variables.params,
      importances,
      list(POINTS),
      repaired,
      1e-4,
    )
    largest, close = max(largest, gap), close + near
    pairs = zip(jax.tree.leaves(repaired), original, strict=True)
    changed += sum(int((x != theta[None]).sum()) for x, theta in pairs)
    apart = max(apart, compare_importances(setup, data, importances, net))
  return {
    'largest_difference_of_parameters': largest,
    'entries_near_the_threshold': close,
    'entries_dampened': changed,
    'entries_compared': 500 * networks.parameter_count(setup.variables),
    'largest_relative_difference_of_importances': apart,
    'equal': largest <= 1e-5,
  }


def torch_loops(
  setup: problem.Setup, net: Any, few: int
) -> tuple[dict[str, Any], int]:
  """Returns PyTorch's programs by name, and their threads."""
  import bench_torch_ssd
  import torch

  sets = []
  for data in setup.data:
    pair = []
    for samples in (data.retain, data.forget):
      count = int(samples.valid.sum())
      image = setup.network.inputs.eval(samples.batch.image[:count], None)
      pair.append(bench_torch_ssd.tensors(image, samples.batch.label[:count]))
    sets.append(bench_torch_ssd.Sets(*pair))
  threads = bench_torch_ssd.fastest_threads(net, sets[0], BATCH)
  torch.set_num_threads(threads)
  test = bench_torch_ssd.tensors(
    setup.network.inputs.eval(setup.test.image, None), setup.test.label
  )[0]
  run = functools.partial(bench_torch_ssd.grid, net, sets)
  timed = list(POINTS)[:: max(1, 50 // few)]
  return {
    'published': lambda: run(timed, test, BATCH, False),
    'cached': lambda: run(list(POINTS), test, BATCH, True),
  }, threads


def compare(name: str, flags: Any) -> dict[str, Any]:
  """Returns medians, ratios and equality of a case."""
  import bench_torch_ssd

  setup = problem.prepare(
    problem.CASES[name], flags.data, flags.samples, flags.steps
  )
  net = bench_torch_ssd.network(setup.case, setup.variables)
  ours = {
    'ours': problem.our_repairs(setup, BATCH, False),
    'ours_with_predictions': problem.our_repairs(setup, BATCH, True),
    'per_sample': problem.per_sample_repairs(setup),
  }
  first = {label: bench_common.time_call(run)[0] for label, run in ours.items()}
  loops, threads = torch_loops(setup, net, flags.few)
  timed = len(POINTS[:: max(1, 50 // flags.few)])
  times: dict[str, list[float]] = {}
  load = os.getloadavg()
  for repeat in range(flags.repeats):
    for label, run in ours.items():
      times.setdefault(label, []).append(bench_common.time_call(run)[0])
    for label, loop in loops.items():
      seconds = loop()
      scale = 50 / timed if label == 'published' else 1.0
      repairs = scale * (seconds.importances + seconds.updates)
      times.setdefault(label, []).append(repairs)
      predicted = repairs + scale * seconds.predictions
      times.setdefault(f'{label}_with_predictions', []).append(predicted)
    print(f'{name}: repeat {repeat + 1} of {flags.repeats}', file=sys.stderr)
  median = {label: statistics.median(t) for label, t in times.items()}
  published = median['published']
  return {
    'case': name,
    'data': flags.data,
    'training_samples': flags.samples,
    'parameters': networks.parameter_count(setup.variables),
    'fractions': len(problem.FRACTIONS),
    'grid_points': 50,
    'torch_grid_points_timed': timed,
    'torch_scaled_up': timed != 50,
    'repeats': flags.repeats,
    'threads_torch': threads,
    'cores': os.cpu_count(),
    'load_before': load,
    'load_after': os.getloadavg(),
    'seconds': median,
    'seconds_first_call': first,
    'ratio': published / median['ours'],
    'ratio_with_compilation': published / first['ours'],
    'ratio_with_predictions': median['published_with_predictions']
    / median['ours_with_predictions'],
    'ratio_to_cached': median['cached'] / median['ours'],
    'ratio_per_sample': published / median['per_sample'],
    'bar_of_20_met': published / median['ours'] >= 20,
    'equality': compare_repairs(setup, net),
  }


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
  """Formats a case for the table."""
  return (
    row['case'],
    f'{row["seconds"]["published"]:.2f}',
    f'{row["seconds"]["ours"]:.3f}',
    f'{row["ratio"]:.1f}x',
    f'{row["ratio_with_compilation"]:.1f}x',
    f'{row["equality"]["largest_difference_of_parameters"]:.1e}',
  )


def main() -> None:
  """Runs the cases, prints the table, writes the JSON."""
  parser = bench_common.parser(
    __doc__ or '', 30.0, ('digits-convnet', 'digits-mlp')
  )
  parser.add_argument('--data', default='digits', help='any data source')
  parser.add_argument('--samples', type=int, default=1400, help='|S_tr|')
  parser.add_argument('--steps', type=int, default=300, help='of training')
  parser.add_argument(
    '--few',
    type=int,
    default=50,
    help='grid points timed in the published way; scaled up if < 50',
  )
  parser.add_argument('--out', help='JSON file')
  flags = parser.parse_args()
  bench_common.check(flags, problem.CASES)
  rows = []
  for name in flags.cases:
    rows.append(compare(name, flags))
    print(json.dumps(rows[-1]))
    if flags.out:
      about = provenance.describe_process()
      files.write_json(flags.out, {'about': about, 'cases': rows})
  bench_common.print_table('500 repairs by SSD', COLUMNS, map(table_row, rows))


if __name__ == '__main__':
  shell.run_script(main)
