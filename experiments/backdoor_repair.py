r"""Repair of backdoors from ordinary pictures, without a triggered one.

A cell is an attack, a number of pictures and a seed. A network is trained on
data with a backdoor, and repaired in all ways from pictures that it never saw.
The attack 'none' is a clean network, which a repair should leave as good as it
was. The same command again continues with --out.

  python experiments/backdoor_repair.py --minutes 10
  python experiments/backdoor_repair.py --problem resnet20 --weights FILE \
    --data_dir DIR --out results/backdoor_repair_resnet20.json --minutes 60
"""

import argparse
import functools
import pathlib
from typing import Any, NamedTuple

import cell_runs
import jax
import jax.numpy as jnp
import numpy as np
from clip_resnet20 import MEAN, MODEL, STD, load_shipped

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import jit, rng
from cmu_jax.core.types import (
  Batch,
  Corruption,
  Info,
  MethodInputs,
  Network,
  Training,
  Trigger,
  Variables,
)
from cmu_jax.data import corruption, input_step, sources, splits
from cmu_jax.data.corruption import triggers
from cmu_jax.methods.backdoor import pruning, safe_tuning, self_tuning
from cmu_jax.methods.unlabelled import information_maximization
from cmu_jax.training import metrics, optimizers, train

CLASSES, TARGET = 10, 0
# Least attack success of an attack that took.
TOOK = 0.9
# Attack -> trigger, and its options on images of 32 and of 8 pixels.
ATTACKS: dict[str, tuple[str, Info, Info]] = {
  'badnet': ('badnet', {}, {'margin': (0, 0)}),
  'blended': ('blended', {}, {}),
  'sinusoidal': ('sinusoidal', {}, {'amplitude': 40.0, 'frequency': 2.0}),
  'warping': ('warping', {'strength': 2.0}, {'strength': 3.0}),
  'sample_specific': ('sample_specific', {}, {'amplitude': 60.0}),
  # Labels stay right: only strong stripes on most of the class are learnt.
  'clean_label': (
    'sinusoidal',
    {'amplitude': 80.0},
    {'amplitude': 160.0, 'frequency': 2.0},
  ),
  'none': ('badnet', {}, {'margin': (0, 0)}),
}
COLUMNS = {
  'asr': 'ASR',
  'accuracy': 'accuracy',
  'target_class': 'target class',
  'triggered_accuracy': 'triggered',
  'agreement': 'agreement',
}


class Candidate(NamedTuple):
  """A repair.

  Attributes:
    form: of `self_tuning`.
    optimizer: 'adamw' or 'sgd'.
    learning_rate: constant.
    steps: of a batch of 128.
    options: of the form.
    labelled: takes true labels.
  """

  form: str
  optimizer: str
  learning_rate: float
  steps: int
  options: Info
  labelled: bool = False


CANDIDATES = {
  'own_labels': Candidate('own_labels', 'adamw', 1e-3, 150, {}),
  'd3': Candidate('d3', 'sgd', 1e-2, 150, {}),
  'fst_without_penalty': Candidate('fst', 'sgd', 1e-2, 150, {'strength': 0.0}),
  'fst_strong': Candidate('fst', 'sgd', 1e-2, 150, {'strength': 2.0}),
  'true_labels': Candidate('own_labels', 'adamw', 1e-3, 150, {}, True),
}


METHODS = (*CANDIDATES, 'safe', 'safe_true_labels')


class Problem(NamedTuple):
  """A network with a backdoor, and pictures for its repair.

  Attributes:
    network: for the repair; no attack changes it, so it compiles once.
    marked: the same with an input step that paints the trigger.
    variables: of the network.
    pool: ordinary pictures that it never saw, with true labels.
    test: of the accuracies.
  """

  network: Network
  marked: Network
  variables: Variables
  pool: Batch
  test: Batch


def poison(
  key: jax.Array, attack: str, batch: Batch, trigger: Trigger
) -> Batch:
  """Poisons a training set: a tenth of it, or most of the target class."""
  if attack == 'none':
    return batch
  drawn: Corruption = (
    corruption.clean_label(key, batch.label, 0.9, trigger, TARGET)
    if attack == 'clean_label'
    else corruption.poison(key, batch.label, 0.1, trigger, TARGET)
  )
  return corruption.apply(drawn, batch)


@functools.lru_cache(maxsize=1)
def digits_network() -> Network:
  """The network on digits, the same object at every call."""
  return Network(
    networks.make('fc', CLASSES, (8, 8, 1), width=256),
    input_step.make((0.3,), (0.35,)),
  )


@functools.lru_cache(maxsize=1)
def resnet20_network() -> Network:
  """The ResNet-20 with crops, the same object at every call."""
  return Network(MODEL, input_step.make(MEAN, STD, pad=4))


def make_digits(attack: str, count: int, seed: int) -> Problem:
  """A dense network on the embedded digits."""
  key = rng.fold_in(seed, 'backdoor')
  kind, _, options = ATTACKS[attack]
  trigger = triggers.make(kind, 8, 8, **options)
  digits = sources.load('digits')
  pool, training = splits.hold_out(
    rng.fold_in(key, 'hold'), digits.train, 0.36, CLASSES
  )
  order = jax.random.permutation(rng.fold_in(key, 'order'), pool.label.size)
  network = digits_network()
  pixels = input_step.make((0.3,), (0.35,), trigger=trigger)
  marked = network._replace(inputs=pixels)
  start = jit.compile_cheaply(network.model.init)(
    rng.fold_in(key, 'init'), pixels.eval(training.image[:1], None)
  )
  variables = train.fit(
    rng.fold_in(key, 'train'),
    marked,
    start,
    poison(rng.fold_in(key, 'poison'), attack, training, trigger),
    Training(make_optimizer('adamw', 1e-3), 1500, 64),
  ).variables
  taken = splits.take(pool, np.asarray(order)[:count])
  return Problem(network, marked, variables, taken, digits.test)


def make_resnet20(
  flags: argparse.Namespace, attack: str, count: int, seed: int
) -> Problem:
  """A shipped ResNet-20, fine-tuned on 4,000 images with a backdoor.

  Its own training split is not unseen, so pool and test images are disjoint
  parts of the test split.
  """
  key = rng.fold_in(seed, 'backdoor resnet20')
  kind, options, _ = ATTACKS[attack]
  trigger = triggers.make(kind, 32, 32, **options)
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
  step = functools.partial(input_step.make, MEAN, STD, trigger=trigger, pad=4)
  variables = train.fit(
    rng.fold_in(key, 'train'),
    Network(MODEL, step(flip=True)),
    load_shipped(flags.weights),
    poison(rng.fold_in(key, 'poison'), attack, part, trigger),
    Training(make_optimizer('adamw', 1e-3), 300, 128),
    train.Session(f'backdoor: {attack}'),
  ).variables
  return Problem(
    resnet20_network(), Network(MODEL, step()), variables, pool, test
  )


@functools.lru_cache(maxsize=16)
def make_optimizer(name: str, rate: float) -> Any:
  """An optimizer at a constant rate, the same object for the same settings."""
  schedule = optimizers.constant_schedule(rate)
  if name == 'sgd':
    return optimizers.sgd(schedule, weight_decay=0.0)
  return optimizers.adamw(schedule)


def score(problem: Problem, variables: Variables, original: Any) -> Info:
  """Measures a network on test images with and without the trigger."""
  label = np.asarray(problem.test.label)
  predicted = metrics.predict(problem.network, variables, problem.test, 500)
  flagged = problem.test._replace(has_trigger=jnp.ones(label.size, bool))
  triggered = metrics.predict(problem.marked, variables, flagged, 500)
  others = label != TARGET
  by_class = metrics.class_accuracy(
    metrics.confusion(label[others], triggered[others], CLASSES)
  )
  return {
    'asr': metrics.attack_success(label, triggered, TARGET),
    'accuracy': float(np.mean(predicted == label)),
    'target_class': float(np.mean(predicted[~others] == TARGET)),
    'triggered_accuracy': float(np.mean((triggered == label)[others])),
    'triggered_by_class': by_class,
    'agreement': float(np.mean(predicted == original)),
  }


def repair(problem: Problem, candidate: Candidate, key: jax.Array) -> Variables:
  """Repairs by a candidate."""
  size = problem.pool.label.size
  training = Training(
    make_optimizer(candidate.optimizer, candidate.learning_rate),
    candidate.steps,
    min(128, size),
  )
  method = self_tuning.self_tuning(
    problem.network,
    training,
    form=candidate.form,
    labelled=candidate.labelled,
    **candidate.options,
  )
  data = MethodInputs(
    clean_proxy=problem.pool,
    ordinary=information_maximization.wrap_pictures(problem.pool.image),
  )
  return method(key, problem.variables, data)[0]


def repair_safely(
  problem: Problem, labelled: bool, key: jax.Array, original: Any
) -> dict[str, Info]:
  """Repairs by the default of the command: with and without abstention."""
  suffix = '_true_labels' if labelled else ''
  method = safe_tuning.safe_self_tuning(
    problem.network,
    safe_tuning.make_training(problem.pool.label.size // 2),
    labelled=labelled,
  )
  data = MethodInputs(
    clean_proxy=problem.pool,
    ordinary=information_maximization.wrap_pictures(problem.pool.image),
  )
  repaired, info = method(key, problem.variables, data)
  return {
    f'always{suffix}': score(problem, info['tuned'], original),
    f'safe{suffix}': {
      **score(problem, repaired, original),
      'evidence': info['evidence'].record,
    },
  }


def measure(problem: Problem, names: list[str], seed: int) -> Info:
  """Repairs in all ways; returns the scores by name."""
  original = metrics.predict(
    problem.network, problem.variables, problem.test, 500
  )
  rows = {'nothing': score(problem, problem.variables, original)}
  shape = problem.network.inputs.eval(problem.test.image[:1], None).shape[1:]
  pruned, count = pruning.prune_outliers(
    problem.network.model, problem.variables, shape
  )
  rows['prune_outliers'] = {
    **score(problem, pruned, original),
    'pruned': count,
  }
  key = rng.fold_in(seed, 'repair')
  for name in names:
    if name.startswith('safe'):
      labelled = name == 'safe_true_labels'
      rows |= repair_safely(problem, labelled, rng.fold_in(key, name), original)
      continue
    repaired = repair(problem, CANDIDATES[name], rng.fold_in(key, name))
    rows[name] = score(problem, repaired, original)
  return rows


def summarize(cells: dict[str, Info]) -> list[Info]:
  """Averages each repair over attacks that took and seeds, and each attack."""
  groups: dict[tuple[str, str], list[Info]] = {}
  for name, cell in cells.items():
    attack = name.split(',')[0]
    took = attack != 'none' and cell['nothing']['asr'] >= TOOK
    # Beside the repairs, a cell names its commit.
    repairs = {k: v for k, v in cell.items() if isinstance(v, dict)}
    for method, row in repairs.items():
      for group in (attack, *(['all that took'] if took else [])):
        groups.setdefault((group, method), []).append(row)
  rows = []
  for (attack, method), members in groups.items():
    row: Info = {'attack': attack, 'method': method, 'cells': len(members)}
    for column in COLUMNS:
      row[column] = float(np.mean([m[column] for m in members]))
    row['worst_asr'] = max(m['asr'] for m in members)
    rows.append(row)
  return rows


def print_summary(rows: list[Info]) -> None:
  """Prints the summary as a Markdown table."""
  names = ('attack', 'method', 'cells', *COLUMNS.values(), 'worst ASR')
  print(f'| {" | ".join(names)} |')
  print('|---' * len(names) + '|')
  for row in rows:
    numbers = [f'{row[column]:.3f}' for column in (*COLUMNS, 'worst_asr')]
    texts = (row['attack'], row['method'], str(row['cells']), *numbers)
    print(f'| {" | ".join(texts)} |')


def parse_flags() -> argparse.Namespace:
  """Reads the command line."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument(
    '--problem', choices=('digits', 'resnet20'), default='digits'
  )
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--attacks', default=','.join(ATTACKS))
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--count', type=int, default=500, help='pictures')
  parser.add_argument('--weights', help='of the ResNet-20')
  parser.add_argument('--data_dir', help='of CIFAR-10')
  parser.add_argument('--test', type=int, default=2000, help='test images')
  parser.add_argument('--minutes', type=float, default=10)
  parser.add_argument('--out', default='results/backdoor_repair_digits.json')
  return parser.parse_args()


def main() -> None:
  """Runs the missing cells that fit the time; prints the table."""
  flags = parse_flags()

  def compute(name: str) -> Info:
    attack, count, seed = name.split(',')
    make = (
      make_digits
      if flags.problem == 'digits'
      else functools.partial(make_resnet20, flags)
    )
    problem = make(attack, int(count), int(seed))
    return measure(problem, flags.methods.split(','), int(seed))

  def report(cells: dict[str, Info]) -> Info:
    return {
      **cell_runs.describe(('--weights', '--data_dir')),
      'problem': flags.problem,
      'candidates': {k: v._asdict() for k, v in CANDIDATES.items()},
      'table': summarize(cells),
      'by_cell': cells,
    }

  names = [
    f'{attack},{flags.count},{seed}'
    for seed in cell_runs.seeds_of(flags)
    for attack in flags.attacks.split(',')
  ]
  cells = cell_runs.compute_missing(
    pathlib.Path(flags.out), names, compute, report, minutes=flags.minutes
  )
  print_summary(summarize(cells))


if __name__ == '__main__':
  shell.run_script(main)
