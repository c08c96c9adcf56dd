r"""The gain of a repair by the number of bad samples, on the embedded digits.

A third of the images is held out. On the others, 40 % of the labels are wrong
when a network is trained on them. The first 10, 50, 100 and 500 held-out
images, with other wrong labels, go through `cmu_jax.repair` as a user's bad
samples. The same command again continues with the cells in --out.

  python experiments/bad_samples.py --minutes 8
"""

import functools
import pathlib
from typing import NamedTuple

import cell_runs
import jax
import numpy as np

import cmu_jax
from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import errors, jit, rng
from cmu_jax.core.types import Batch, Info, Network, Training, Variables
from cmu_jax.data import corruption, input_step, sources, splits
from cmu_jax.training import metrics, optimizers, train

COUNTS = (10, 50, 100, 500)
RULES = ('safe', 'published')
CLASSES, NOISE, SHARE = 10, 0.4, 0.36


class Problem(NamedTuple):
  """A network with wrong labels in its training, and bad samples for it."""

  network: Network
  variables: Variables
  bad: Batch
  test: Batch


@functools.lru_cache(maxsize=1)
def make_problem(seed: int, width: int, steps: int) -> Problem:
  """Trains the network of a seed, and draws its bad samples in random order."""
  key = rng.fold_in(seed, 'bad samples')
  digits = sources.load('digits')
  pool, kept = splits.hold_out(
    rng.fold_in(key, 'hold'), digits.train, SHARE, CLASSES
  )
  order = jax.random.permutation(rng.fold_in(key, 'order'), pool.label.size)
  pool = splits.take(pool, np.asarray(order))
  wrong = corruption.symmetric(
    rng.fold_in(key, 'wrong'), pool.label, 1.0, CLASSES
  )
  noise = corruption.symmetric(
    rng.fold_in(key, 'noise'), kept.label, NOISE, CLASSES
  )
  pixels = input_step.make((0.3,), (0.35,))
  network = Network(
    networks.make('fc', CLASSES, (8, 8, 1), width=width), pixels
  )
  start = jit.compile_cheaply(network.model.init)(
    rng.fold_in(key, 'init'), pixels.eval(kept.image[:1], None)
  )
  adam = optimizers.adamw(optimizers.constant_schedule(1e-3))
  variables = train.fit(
    rng.fold_in(key, 'train'),
    network,
    start,
    corruption.apply(noise, kept),
    Training(adam, steps, 64),
  ).variables
  return Problem(network, variables, corruption.apply(wrong, pool), digits.test)


def measure_accuracy(problem: Problem, variables: Variables) -> float:
  """Measures the accuracy on the test images, which no repair sees."""
  predicted = metrics.predict(problem.network, variables, problem.test, 512)
  return float(np.mean(predicted == np.asarray(problem.test.label)))


def measure(problem: Problem, count: int, rule: str, seed: int) -> Info:
  """Repairs with so many bad samples.

  Returns:
    Accuracies, alpha and whether the network was edited; the reason where the
    repair refuses so few samples.
  """
  before = measure_accuracy(problem, problem.variables)
  try:
    result = cmu_jax.repair(
      problem.network,
      problem.bad.image[:count],
      problem.bad.label[:count],
      variables=problem.variables,
      rule=rule,
      seed=seed,
    )
  except errors.UserError as error:
    return {'before': before, 'after': before, 'refused': str(error)}
  return {
    'before': before,
    'after': measure_accuracy(problem, result.variables),
    'alpha': result.alpha,
    'repaired': result.repaired,
    'refused': None,
  }


def summarize(cells: dict[str, Info]) -> list[Info]:
  """Averages the cells of each rule and count over the seeds."""
  groups: dict[str, list[Info]] = {}
  for name, cell in cells.items():
    groups.setdefault(name.rsplit(',', 1)[0], []).append(cell)
  rows = []
  for name, members in groups.items():
    rule, count = name.split(',')
    accuracies = {
      key: [cell[key] for cell in members] for key in ('before', 'after')
    }
    rows.append(
      {
        'rule': rule,
        'count': int(count),
        'seeds': len(members),
        **{key: float(np.mean(x)) for key, x in accuracies.items()},
        'deviation': float(np.std(accuracies['after'], ddof=len(members) > 1)),
        'edited': sum(bool(cell.get('repaired')) for cell in members),
        'refused': sum(cell['refused'] is not None for cell in members),
      }
    )
  return rows


def print_summary(rows: list[Info]) -> None:
  """Prints the summary as a Markdown table."""
  print('| rule | bad samples | before | after | edited | refused |')
  print('|---' * 6 + '|')
  for row in rows:
    print(
      f'| {row["rule"]} | {row["count"]} | {row["before"]:.3f} | '
      f'{row["after"]:.3f} ± {row["deviation"]:.3f} | {row["edited"]} of '
      f'{row["seeds"]} | {row["refused"]} |'
    )


def main() -> None:
  """Runs the missing cells that fit the time; prints the table."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--width', type=int, default=256)
  parser.add_argument('--steps', type=int, default=1500)
  parser.add_argument('--minutes', type=float, default=8)
  parser.add_argument('--out', default='results/bad_samples_digits.json')
  flags = parser.parse_args()

  def compute(name: str) -> Info:
    rule, count, seed = name.split(',')
    problem = make_problem(int(seed), flags.width, flags.steps)
    return measure(problem, int(count), rule, int(seed))

  def report(cells: dict[str, Info]) -> Info:
    return {
      **cell_runs.describe(),
      'width': flags.width,
      'steps': flags.steps,
      'noise': NOISE,
      'table': summarize(cells),
      'by_cell': cells,
    }

  # Seed by seed, because all cells of a seed share its network.
  names = [
    f'{rule},{count},{seed}'
    for seed in cell_runs.seeds_of(flags)
    for rule in RULES
    for count in COUNTS
  ]
  path = pathlib.Path(flags.out)
  cells = cell_runs.compute_missing(
    path, names, compute, report, minutes=flags.minutes
  )
  print_summary(summarize(cells))


if __name__ == '__main__':
  shell.run_script(main)
