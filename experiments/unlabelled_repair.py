r"""Repair of wrong labels from unlabelled pictures, beside rivals.

A cell is a kind of wrong labels, their rate, a pool of pictures and a seed. The
network (`unlabelled_problems`) learnt wrong labels, and is repaired from
pictures that it never saw: by information maximisation without labels; by CUTS
with wrong labels, at the published, the safe and the best alpha; by SAP and by
fine-tuning with clean labels. The best alpha and the scale of SAP are chosen on
the test images, in favour of the rivals. Rate 0 is a clean network, which a
repair should leave alone. The same command again continues with --out.

  python experiments/unlabelled_repair.py --minutes 10
  python experiments/unlabelled_repair.py --problem resnet20 --weights FILE \
    --data_dir DIR --out results/unlabelled_repair_resnet20.json --minutes 60
"""

import argparse
import pathlib

import cell_runs
import numpy as np
from unlabelled_problems import (
  Pool,
  Problem,
  add_flags,
  draw_pool,
  make_adam,
  make_problem,
  measure_accuracy,
)

import cmu_jax
from cmu_jax.commands import shell
from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Batch,
  Info,
  Method,
  MethodInputs,
  Training,
  Variables,
)
from cmu_jax.methods.projection import sap
from cmu_jax.methods.unlabelled import agreement, halves
from cmu_jax.methods.unlabelled import information_maximization as im
from cmu_jax.training import descent, train

# Kinds and rates of wrong labels, a clean network first.
NOISES = 'symmetric:0,symmetric:0.2,symmetric:0.4,symmetric:0.6,asymmetric:0.4'
ADAPTED = ('always', 'safe')
RIVALS = (
  *('cuts_safe', 'cuts_published', 'cuts_best'),
  *('sap', 'clean_labels'),
)
# A run on all pictures, and both orders of halves and published CUTS.
VARIANTS = ('single', 'cuts_first', 'cuts_second')
COLUMNS = ('nothing', *ADAPTED, *VARIANTS, *RIVALS, 'oracle')


def make_method(problem: Problem, pool: Pool, steps: int | None) -> Method:
  """The repair of `repair --ordinary`, with its training."""
  training = im.make_training(len(pool.image) // 2, steps=steps)
  return halves.safe_information_maximization(problem.network, training)


def adapt(problem: Problem, pool: Pool, seed: int, steps: int | None) -> Info:
  """Adapts without labels: the mean of both runs, and the rule's choice."""
  key = rng.fold_in(seed, 'adapt')
  data = MethodInputs(ordinary=im.wrap_pictures(pool.image))
  repaired, info = make_method(problem, pool, steps)(
    key, problem.variables, data
  )
  evidence: agreement.Evidence = info['evidence']
  accuracy = lambda v: measure_accuracy(problem.network, v, problem.test)
  return {
    'always': accuracy(halves.mean(info['runs'])),
    'safe': accuracy(repaired),
    'evidence': evidence.record,
  }


def vary(problem: Problem, pool: Pool, seed: int, steps: int | None) -> Info:
  """Repairs by a run on all pictures; by halves and CUTS in both orders."""
  method = make_method(problem, pool, steps)
  key = rng.fold_in(rng.fold_in(seed, 'adapt'), 'single')
  data = MethodInputs(ordinary=im.wrap_pictures(pool.image))

  def adapt_halves(start: Variables) -> Variables:
    _, info = method(rng.fold_in(seed, 'adapt'), start, data)
    return halves.mean(info['runs'])

  def edit_by_cuts(start: Variables) -> Variables:
    wrong = pool.wrong != pool.label
    return cmu_jax.repair(
      problem.network,
      pool.image[: len(wrong)][wrong],
      pool.wrong[wrong],
      variables=start,
      rule='published',
      seed=seed,
    ).variables

  accuracy = lambda v: measure_accuracy(problem.network, v, problem.test)
  single = im.information_maximization(
    problem.network, im.make_training(len(pool.image), steps=steps)
  )
  return {
    'single': accuracy(single(key, problem.variables, data)[0]),
    'cuts_first': accuracy(adapt_halves(edit_by_cuts(problem.variables))),
    'cuts_second': accuracy(edit_by_cuts(adapt_halves(problem.variables))),
  }


def repair_by_cuts(problem: Problem, pool: Pool, seed: int) -> Info:
  """Repairs by CUTS from wrong labels; None where it refuses the samples."""
  pictures = pool.image[: len(pool.label)]
  wrong = pool.wrong != pool.label
  accuracy = lambda v: measure_accuracy(problem.network, v, problem.test)
  record: Info = dict.fromkeys(RIVALS[:3])
  for rule in ('safe', 'published'):
    try:
      result = cmu_jax.repair(
        problem.network,
        pictures[wrong],
        pool.wrong[wrong],
        variables=problem.variables,
        rule=rule,
        seed=seed,
      )
    except errors.UserError as error:
      # Too few samples of a class, or no edit that can be judged.
      record['cuts_refused'] = str(error)
      continue
    record[f'cuts_{rule}'] = accuracy(result.variables)
    if rule == 'published' and result.alpha:
      record['cuts_best'] = max(
        accuracy(halves.move(problem.variables, result.variables, share))
        for share in np.arange(0, 1.6, 0.15) / result.alpha
      )
  return record


def project_activations(problem: Problem, pool: Pool) -> float:
  """SAP with as many clean labels, at the best of its scales."""
  data = MethodInputs(retain=wrap_labelled(pool))
  method = sap.sap(problem.network, samples=len(pool.label))
  key = rng.fold_in(0, 'sap')
  prepared = method.prepare(key, problem.variables, data)
  return max(
    measure_accuracy(
      problem.network,
      method.solve(key, problem.variables, data, prepared, hyper)[0],
      problem.test,
    )
    for hyper in method.grid
  )


def wrap_labelled(pool: Pool):
  """The pictures that are not foreign, with true labels."""
  image = pool.image[: len(pool.label)]
  return descent.whole_batch(Batch(image, pool.label.astype(np.int32)))


def tune_on_clean_labels(problem: Problem, pool: Pool, seed: int) -> Variables:
  """Fine-tunes on as many pictures with their true labels."""
  size = pool.label.size
  return train.fit(
    rng.fold_in(seed, 'clean labels'),
    problem.network,
    problem.variables,
    wrap_labelled(pool).batch,
    Training(make_adam(5e-4), 200, min(128, size)),
    train.Session('clean labels'),
  ).variables


def measure(
  problem: Problem, pool: Pool, seed: int, besides: str, steps: int | None
) -> Info:
  """Repairs in all ways; returns accuracies on the test images."""
  accuracy = lambda v: measure_accuracy(problem.network, v, problem.test)
  record = {
    **dict.fromkeys((*RIVALS, *VARIANTS)),
    'nothing': accuracy(problem.variables),
    **adapt(problem, pool, seed, steps),
    'oracle': problem.oracle,
  }
  if besides == 'variants':
    record |= vary(problem, pool, seed, steps)
  if besides == 'rivals':
    record |= repair_by_cuts(problem, pool, seed)
    record['sap'] = project_activations(problem, pool)
    record['clean_labels'] = accuracy(tune_on_clean_labels(problem, pool, seed))
  return record


def summarize(cells: dict[str, Info]) -> list[Info]:
  """Averages the cells of each kind, rate and count over the seeds."""
  groups: dict[str, list[Info]] = {}
  for name, cell in cells.items():
    groups.setdefault(name.rsplit(',', 1)[0], []).append(cell)
  rows = []
  for name, members in groups.items():
    row: Info = {'cells': name, 'seeds': len(members)}
    for column in COLUMNS:
      values = [c[column] for c in members if c.get(column) is not None]
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
  names = ('cells', *COLUMNS, 'edited')
  print(f'| {" | ".join(names)} |')
  print('|---' * len(names) + '|')
  for row in rows:
    texts = [
      '–' if row[column] is None else f'{row[column]:.3f}' for column in COLUMNS
    ]
    edited = f'{row["edited"]} of {row["seeds"]}'
    print(f'| {row["cells"]} | {" | ".join(texts)} | {edited} |')


def parse_flags() -> argparse.Namespace:
  """Reads the command line."""
  parser = cell_runs.parser(__doc__)
  add_flags(parser)
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--noises', default=NOISES, help='KIND:RATE, by commas')
  parser.add_argument(
    '--pools',
    default='500',
    help="by commas: '50,500,500 without three classes,500 with a tenth "
    "foreign,500 of uneven classes'",
  )
  parser.add_argument(
    '--besides',
    choices=('rivals', 'variants', 'nothing'),
    default='rivals',
    help='beside the adaptation: CUTS, SAP and clean labels; or a run on '
    'all pictures, and CUTS before and after the adaptation',
  )
  parser.add_argument('--steps', type=int, help='of a run without labels')
  parser.add_argument('--minutes', type=float, default=10)
  parser.add_argument('--out', default='results/unlabelled_repair_digits.json')
  return parser.parse_args()


def main() -> None:
  """Runs the missing cells that fit the time; prints the table."""
  flags = parse_flags()
  paths = (flags.weights, flags.data_dir, flags.labels)

  def compute(name: str) -> Info:
    kind, rate, pool, seed = name.split(',')
    problem = make_problem(flags.problem, kind, float(rate), int(seed), paths)
    pictures = draw_pool(problem, pool, int(seed))
    return measure(problem, pictures, int(seed), flags.besides, flags.steps)

  def report(cells: dict[str, Info]) -> Info:
    return {
      **cell_runs.describe(('--weights', '--data_dir', '--labels')),
      'problem': flags.problem,
      'table': summarize(cells),
      'by_cell': cells,
    }

  names = [
    f'{noise.replace(":", ",")},{pool},{seed}'
    for seed in cell_runs.seeds_of(flags)
    for noise in flags.noises.split(',')
    for pool in flags.pools.split(',')
  ]
  cells = cell_runs.compute_missing(
    pathlib.Path(flags.out), names, compute, report, minutes=flags.minutes
  )
  print_summary(summarize(cells))


if __name__ == '__main__':
  shell.run_script(main)
