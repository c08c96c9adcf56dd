"""SSD's whole grid for ten identified fractions, beside PyTorch.

Both sides get the same network, samples and 50 grid points and repair the
network once for each point and fraction (500 repairs), on the same cores:

  published  PyTorch, importances taken anew for every point, as the benchmark
             of arXiv 2402.14015 does
  cached     PyTorch, importances taken once a fraction
  ours       importances once a fraction, the 39 distinct points as one program
  per_sample ours with per-sample importances, one pass for all fractions

Images are tensors on the device and not augmented. PyTorch runs on one or all
cores, whatever is faster. Repeats alternate; the figures are medians of the
repairs alone, and of the repairs with predictions on test images.

Equality: from the same importances the parameters of all repairs agree, but
for entries within 1e-4 of the selection threshold, which are counted.

  python experiments/bench_ssd_grid.py --out bench_ssd_grid.json
"""

import argparse
import functools
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import bench_ssd_problem as posed
import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import errors, files, provenance, rng
from cmu_jax.core.types import Network
from cmu_jax.methods.dampening import importance, ssd
from cmu_jax.training import descent


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
  began = time.perf_counter()
  result = run()
  return time.perf_counter() - began, result


def equality(case: posed.Case, setup: posed.Setup, size: int) -> dict[str, Any]:
  """Parameters and importances of both sides, augmentation off."""
  import bench_torch_ssd as torch_side
  import torch

  method = ssd.ssd(
    Network(setup.model, setup.inputs), batch_size=size, augment=False
  )
  solve = posed.solver(setup, method, False)
  net = torch_side.network(
    case.model, posed.shape(case), case.options, setup.variables
  )
  points = ssd.published_grid()
  at = [method.grid.index(ssd.distinct_points((p,))[0][0]) for p in points]
  before = [np.asarray(x) for x in jax.tree.leaves(setup.variables.params)]
  largest, close, apart, changed = 0.0, 0, 0.0, 0
  for given in setup.given:
    pair = method.prepare(posed.KEY, setup.variables, given)
    every = jax.tree.map(lambda x: np.asarray(x)[np.array(at)], solve(pair))
    gap, near = torch_side.largest_difference(
      case.model, setup.variables.params, pair, list(points), every, 1e-4
    )
    largest, close = max(largest, gap), close + near
    rows = zip(jax.tree.leaves(every), before, strict=True)
    changed += sum(int((x != old[None]).sum()) for x, old in rows)
    rows = descent.join_samples(given.retain, given.forget)
    first = jnp.arange(rows.valid.shape[0]) < given.retain.valid.shape[0]
    both = torch_side.tensors(
      setup.inputs.eval(rows.batch.image, None), rows.batch.label
    )
    for name, mine, part in (
      ('retain', pair.retain, first),
      ('forget', pair.forget, ~first),
    ):
      valid = rows.valid & part
      order = importance.shuffle_rows(
        rng.fold_in(posed.KEY, name, 'order'), valid
      )
      order = np.asarray(order)[: int(valid.sum())].astype(np.int64)
      theirs = torch_side.importances(net, *both, torch.from_numpy(order), size)
      for a, b in zip(torch_side.leaves(case.model, mine), theirs, strict=True):
        gap = float(np.abs(a - b.numpy()).max())
        apart = max(apart, gap / float(b.max()))
  return {
    'largest_difference_of_parameters': largest,
    'entries_near_the_threshold': close,
    'entries_dampened': changed,
    'entries_compared': 500 * networks.parameter_count(setup.variables),
    'largest_relative_difference_of_importances': apart,
    'equal': largest <= 1e-5,
  }


def _loops(
  case: posed.Case, setup: posed.Setup, size: int, few: int
) -> tuple[dict, int]:
  """The PyTorch contestants by name, and their threads."""
  import bench_torch_ssd as torch_side
  import torch

  net = torch_side.network(
    case.model, posed.shape(case), case.options, setup.variables
  )
  sets = []
  for given in setup.given:
    parts = []
    for some in (given.retain, given.forget):
      count = int(some.valid.sum())
      image = setup.inputs.eval(some.batch.image[:count], None)
      parts.append(torch_side.tensors(image, some.batch.label[:count]))
    sets.append(torch_side.Sets(*parts))
  threads = torch_side.fastest_threads(net, sets[0], size)
  torch.set_num_threads(threads)
  test = torch_side.tensors(
    setup.inputs.eval(setup.test.image, None), setup.test.label
  )[0]
  points = list(ssd.published_grid())[:: max(1, 50 // few)]
  run = functools.partial(torch_side.grid, net, sets)
  return {
    'published': lambda: run(points, test, size, False),
    'cached': lambda: run(list(ssd.published_grid()), test, size, True),
  }, threads


def compare(
  name: str, source: str, count: int, steps: int, repeats: int, few: int
) -> dict[str, Any]:
  """One case: medians, ratios and equality."""
  case, size = posed.CASES[name], 512
  setup = posed.prepare(case, source, count, steps)
  mine = {
    'ours': posed.ours(setup, size, False),
    'ours_with_predictions': posed.ours(setup, size, True),
    'per_sample': posed.per_sample(setup),
  }
  first = {label: _timed(run)[0] for label, run in mine.items()}
  loops, threads = _loops(case, setup, size, few)
  timed = len(ssd.published_grid()[:: max(1, 50 // few)])
  times: dict[str, list[float]] = {}
  load = os.getloadavg()
  for repeat in range(repeats):
    for label, run in mine.items():
      times.setdefault(label, []).append(_timed(run)[0])
    for label, loop in loops.items():
      spent = loop()
      scale = 50 / timed if label == 'published' else 1.0
      repairs = scale * (spent.importances + spent.updates)
      times.setdefault(label, []).append(repairs)
      whole = repairs + scale * spent.predictions
      times.setdefault(f'{label}_with_predictions', []).append(whole)
    print(f'{name}: repeat {repeat + 1} of {repeats}', file=sys.stderr)
  median = {label: statistics.median(t) for label, t in times.items()}
  published = median['published']
  return {
    'case': name,
    'data': source,
    'training_samples': count,
    'parameters': networks.parameter_count(setup.variables),
    'fractions': len(posed.FRACTIONS),
    'grid_points': 50,
    'torch_grid_points_timed': timed,
    'torch_scaled_up': timed != 50,
    'repeats': repeats,
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
    'equality': equality(case, setup, size),
  }


def _flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--cases', default='digits-convnet,digits-mlp')
  parser.add_argument('--data', default='digits', help='any data.load source')
  parser.add_argument('--samples', type=int, default=1400, help='|S_tr|')
  parser.add_argument('--steps', type=int, default=300, help='of training')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument(
    '--few',
    type=int,
    default=50,
    help='grid points on which the published way is timed; scaled up if < 50',
  )
  parser.add_argument('--out', help='JSON file')
  return parser.parse_args()


def main() -> int:
  """Runs the cases, prints the table, writes the JSON."""
  if importlib.util.find_spec('torch') is None:
    print(
      "error: PyTorch is missing: pip install 'cmu_jax[bench]'", file=sys.stderr
    )
    return 2
  flags, found = _flags(), []
  table = rich.table.Table(
    'case',
    'published s',
    'ours s',
    'ratio',
    'with compilation',
    'max |d theta|',
    title='500 repairs by SSD',
  )
  for name in flags.cases.split(','):
    if name not in posed.CASES:
      raise errors.unknown_name('case', name, posed.CASES)
    row = compare(
      name, flags.data, flags.samples, flags.steps, flags.repeats, flags.few
    )
    found.append(row)
    table.add_row(
      name,
      f'{row["seconds"]["published"]:.2f}',
      f'{row["seconds"]["ours"]:.3f}',
      f'{row["ratio"]:.1f}x',
      f'{row["ratio_with_compilation"]:.1f}x',
      f'{row["equality"]["largest_difference_of_parameters"]:.1e}',
    )
    print(json.dumps(row))
    if flags.out:
      about = provenance.describe_process()
      files.write_json(flags.out, {'about': about, 'cases': found})
  rich.console.Console().print(table)
  return 0


if __name__ == '__main__':
  shell.run_script(main)
