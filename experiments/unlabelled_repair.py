r"""Repair of wrong labels from unlabelled pictures, beside rivals.

A cell is a network, a kind of wrong labels, their rate, a number of pictures
and a seed. The network is trained on wrong labels, and repaired from pictures
that it never saw: by information maximisation without labels, by CUTS with
wrong labels, by fine-tuning with clean labels. Rate 0 is a clean network, which
a repair should leave alone. The same command again continues with --out.

  python experiments/unlabelled_repair.py --minutes 10
  python experiments/unlabelled_repair.py --problem resnet20 --weights FILE \
    --data_dir DIR --out results/unlabelled_repair_resnet20.json --minutes 60
"""

import argparse
import functools
import pathlib
from typing import Any, NamedTuple

import cell_runs
import jax
import numpy as np
from clip_resnet20 import MEAN, MODEL, STD, load_shipped

import cmu_jax
from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import errors, jit, rng
from cmu_jax.core.types import (
  Batch,
  Corruption,
  Info,
  MethodInputs,
  Network,
  Training,
  Variables,
)
from cmu_jax.data import corruption, input_step, sources, splits
from cmu_jax.data.corruption import class_maps
from cmu_jax.methods.unlabelled import agreement, halves
from cmu_jax.methods.unlabelled import information_maximization as im
from cmu_jax.training import metrics, optimizers, train

CLASSES = 10
# Kind and rate of each cell, a clean network first.
KINDS = (
  ('symmetric', 0.0),
  ('symmetric', 0.2),
  ('symmetric', 0.4),
  ('symmetric', 0.6),
  ('asymmetric', 0.4),
)
COLUMNS = (
  *('nothing', 'always', 'safe', 'single'),
  *('cuts_safe', 'cuts_published', 'clean_labels'),
)


class Problem(NamedTuple):
  """A network with wrong labels in its training, and pictures for repairs.

  Attributes:
    network: its input step augments as its training did.
    variables: of the network.
    pool: pictures that it never saw, with true labels.
    wrong: wrong labels of the pool.
    test: of the accuracies.
    oracle: accuracy of the network before any wrong label; None if unknown.
  """

  network: Network
  variables: Variables
  pool: Batch
  wrong: Corruption
  test: Batch
  oracle: float | None


def draw_labels(
  key: jax.Array, kind: str, rate: float, batch: Batch, maps: str
) -> Corruption:
  """Draws wrong labels of a kind."""
  if kind == 'symmetric':
    return corruption.symmetric(key, batch.label, rate, CLASSES)
  table = class_maps.CLASS_MAPS[maps]
  return corruption.asymmetric(key, batch.label, rate, table)


def measure_accuracy(
  network: Network, variables: Variables, batch: Batch
) -> float:
  """Measures the accuracy on labelled pictures."""
  predicted = metrics.predict(network, variables, batch, 500)
  return float(np.mean(predicted == np.asarray(batch.label)))


def make_digits(kind: str, rate: float, seed: int, count: int) -> Problem:
  """A dense network on the embedded digits, trained until it knows them."""
  key = rng.fold_in(seed, 'unlabelled')
  digits = sources.load('digits')
  pool, training = splits.hold_out(
    rng.fold_in(key, 'hold'), digits.train, 0.36, CLASSES
  )
  order = jax.random.permutation(rng.fold_in(key, 'order'), pool.label.size)
  pool = splits.take(pool, np.asarray(order)[:count])
  pixels = input_step.make((0.3,), (0.35,))
  network = Network(networks.make('fc', CLASSES, (8, 8, 1), width=256), pixels)
  start = jit.compile_cheaply(network.model.init)(
    rng.fold_in(key, 'init'), pixels.eval(training.image[:1], None)
  )
  noise = draw_labels(rng.fold_in(key, 'noise'), kind, rate, training, 'mnist')
  fit = lambda batch: (
    train.fit(
      rng.fold_in(key, 'train'),
      network,
      start,
      batch,
      Training(_adam(1e-3), 1500, 64),
    ).variables
  )
  oracle = fit(splits.take(training, np.flatnonzero(~np.asarray(noise.mask))))
  return Problem(
    network,
    fit(corruption.apply(noise, training)),
    pool,
    draw_labels(rng.fold_in(key, 'wrong'), kind, 1.0, pool, 'mnist'),
    digits.test,
    measure_accuracy(network, oracle, digits.test),
  )


def make_resnet20(
  flags: argparse.Namespace, kind: str, rate: float, seed: int, count: int
) -> Problem:
  """A shipped ResNet-20, fine-tuned on 4,000 images with wrong labels.

  Its own training split is not unseen, so pool and test images are disjoint
  parts of the test split.
  """
  key = rng.fold_in(seed, 'unlabelled resnet20')
  cifar = sources.load('cifar10', data_dir=flags.data_dir)
  rows = lambda name, size: np.asarray(
    jax.random.permutation(rng.fold_in(key, name), size)
  )
  part = splits.take(cifar.train, rows('part', 50_000)[:4000])
  order = rows('test', 10_000)
  pool, test = (
    splits.take(cifar.test, chosen)
    for chosen in (order[:count], order[5000 : 5000 + flags.test])
  )
  start = load_shipped(flags.weights)
  network = Network(MODEL, input_step.make(MEAN, STD, pad=4))
  noise = draw_labels(rng.fold_in(key, 'noise'), kind, rate, part, 'cifar10')
  trained = train.fit(
    rng.fold_in(key, 'train'),
    Network(MODEL, input_step.make(MEAN, STD, pad=4, flip=True)),
    start,
    corruption.apply(noise, part),
    Training(_adam(1e-3), 300, 128),
    train.Session('wrong labels'),
  ).variables
  return Problem(
    network,
    trained,
    pool,
    draw_labels(rng.fold_in(key, 'wrong'), kind, 1.0, pool, 'cifar10'),
    test,
    measure_accuracy(network, start, test),
  )


@functools.lru_cache(maxsize=4)
def _adam(rate: float) -> Any:
  return optimizers.adamw(optimizers.constant_schedule(rate))


def adapt(problem: Problem, seed: int) -> Info:
  """Adapts without labels: both runs, their mean, and a run on all pictures."""
  key = rng.fold_in(seed, 'adapt')
  count = problem.pool.label.size
  samples = im.wrap_pictures(problem.pool.image)
  data = MethodInputs(ordinary=samples)
  method = halves.safe_information_maximization(
    problem.network, im.make_training(count // 2)
  )
  repaired, info = method(key, problem.variables, data)
  single, _ = im.information_maximization(
    problem.network, im.make_training(count)
  )(rng.fold_in(key, 'single'), problem.variables, data)
  evidence: agreement.Evidence = info['evidence']
  accuracy = lambda v: measure_accuracy(problem.network, v, problem.test)
  return {
    'always': accuracy(halves.mean(info['runs'])),
    'safe': accuracy(repaired),
    'single': accuracy(single),
    'evidence': evidence.record,
  }


def repair_by_cuts(problem: Problem, rule: str, seed: int) -> float | None:
  """Repairs by CUTS from wrong labels; None where it refuses the samples."""
  rows = np.flatnonzero(np.asarray(problem.wrong.mask))
  try:
    result = cmu_jax.repair(
      problem.network,
      problem.pool.image[rows],
      problem.wrong.label[rows],
      variables=problem.variables,
      rule=rule,
      seed=seed,
    )
  except errors.UserError:
    # Too few samples of a class, or no edit that can be judged.
    return None
  return measure_accuracy(problem.network, result.variables, problem.test)


def measure(problem: Problem, seed: int) -> Info:
  """Repairs in all ways; returns accuracies on the test images."""
  size = problem.pool.label.size
  tuned = train.fit(
    rng.fold_in(seed, 'clean labels'),
    problem.network,
    problem.variables,
    problem.pool,
    Training(_adam(5e-4), 200, min(128, size)),
    train.Session('clean labels'),
  ).variables
  accuracy = lambda v: measure_accuracy(problem.network, v, problem.test)
  return {
    'nothing': accuracy(problem.variables),
    **adapt(problem, seed),
    'cuts_safe': repair_by_cuts(problem, 'safe', seed),
    'cuts_published': repair_by_cuts(problem, 'published', seed),
    'clean_labels': accuracy(tuned),
    'oracle': problem.oracle,
  }


def summarize(cells: dict[str, Info]) -> list[Info]:
  """Averages the cells of each kind, rate and count over the seeds."""
  groups: dict[str, list[Info]] = {}
  for name, cell in cells.items():
    groups.setdefault(name.rsplit(',', 1)[0], []).append(cell)
  rows = []
  for name, members in groups.items():
    row: Info = {'cells': name, 'seeds': len(members)}
    for column in (*COLUMNS, 'oracle'):
      values = [c[column] for c in members if c[column] is not None]
      spread = len(values) > 1
      row[column] = float(np.mean(values)) if values else None
      row[f'{column}_deviation'] = (
        float(np.std(values, ddof=1)) if spread else None
      )
    row['edited'] = sum(c['evidence']['repaired'] for c in members)
    rows.append(row)
  return rows


def print_summary(rows: list[Info]) -> None:
  """Prints the summary as a Markdown table."""
  names = ('cells', *COLUMNS, 'oracle', 'edited')
  print(f'| {" | ".join(names)} |')
  print('|---' * len(names) + '|')
  for row in rows:
    texts = [
      '–' if row[column] is None else f'{row[column]:.3f}'
      for column in (*COLUMNS, 'oracle')
    ]
    edited = f'{row["edited"]} of {row["seeds"]}'
    print(f'| {row["cells"]} | {" | ".join(texts)} | {edited} |')


def parse_flags() -> argparse.Namespace:
  """Reads the command line."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument(
    '--problem', choices=('digits', 'resnet20'), default='digits'
  )
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--counts', default='500', help='pictures, by commas')
  parser.add_argument('--weights', help='of the ResNet-20')
  parser.add_argument('--data_dir', help='of CIFAR-10')
  parser.add_argument('--test', type=int, default=2000, help='test images')
  parser.add_argument('--minutes', type=float, default=10)
  parser.add_argument('--out', default='results/unlabelled_repair_digits.json')
  return parser.parse_args()


def main() -> None:
  """Runs the missing cells that fit the time; prints the table."""
  flags = parse_flags()

  def compute(name: str) -> Info:
    kind, rate, count, seed = name.split(',')
    make = (
      make_digits
      if flags.problem == 'digits'
      else functools.partial(make_resnet20, flags)
    )
    problem = make(kind, float(rate), int(seed), int(count))
    return measure(problem, int(seed))

  def report(cells: dict[str, Info]) -> Info:
    return {
      **cell_runs.describe(('--weights', '--data_dir')),
      'problem': flags.problem,
      'table': summarize(cells),
      'by_cell': cells,
    }

  names = [
    f'{kind},{rate},{count},{seed}'
    for seed in cell_runs.seeds_of(flags)
    for kind, rate in KINDS
    for count in flags.counts.split(',')
  ]
  cells = cell_runs.compute_missing(
    pathlib.Path(flags.out), names, compute, report, minutes=flags.minutes
  )
  print_summary(summarize(cells))


if __name__ == '__main__':
  shell.run_script(main)
