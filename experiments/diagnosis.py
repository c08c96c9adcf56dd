r"""The diagnosis of known corruptions: its families and its confidence.

Networks are trained on digits under every family of corruptions, at several
rates and seeds. Rate 0 is a network that saw no corruption, but is shown
samples with wrong labels. From a pool of unseen images, corrupted in full, sets
of several sizes are drawn and diagnosed. `right` shows the pool's true labels,
which a user might give by mistake: there is nothing to find.

  python experiments/diagnosis.py
"""

import collections
import itertools
import pathlib

import cell_runs
import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import files, progress, rng
from cmu_jax.core.types import Network, Training
from cmu_jax.data import corruption, input_step, proxy_sets, sources, splits
from cmu_jax.data.corruption import triggers
from cmu_jax.methods import diagnosis
from cmu_jax.training import metrics, optimizers, train

CASES = {
  'symmetric': (0.0, 0.1, 0.2, 0.4, 0.6, 0.8),
  'asymmetric': (0.0, 0.1, 0.2, 0.4, 0.6),
  'interclass': (0.0, 0.1, 0.2, 0.4, 0.6, 0.9),
  'constant': (0.0, 0.1, 0.2, 0.4),
  'poison': (0.0, 0.02, 0.1),
  'transition': (0.0, 0.2, 0.4, 0.6),
}
TRUTH = {'constant': 'one_target', 'poison': 'one_target'}
SIZES = (10, 20, 50, 100, 1000)
BINS = (0.0, 0.5, 0.65, 0.8, 0.95, 1.0)
STEPS, WIDTH, POOL = 2000, 256, 0.25
TRIGGER = triggers.badnet(8, 8, percent=0.03, margin=(0, 0))
STEP = input_step.make((0.3,), (0.35,), trigger=TRIGGER)
TRAINING = Training(
  optimizers.adamw(optimizers.constant_schedule(2e-3)), STEPS, 128
)
MODEL = networks.make('fc', 10, (8, 8, 1), width=WIDTH)
NETWORK = Network(MODEL, STEP)


def draw_matrix(key: jax.Array) -> np.ndarray:
  """Draws a transition matrix with a few likely targets a class."""
  matrix = np.array(jax.random.dirichlet(key, jnp.full(10, 0.4), (10,)), float)
  np.fill_diagonal(matrix, 0)
  return matrix / matrix.sum(axis=1, keepdims=True)


def arguments(key: jax.Array) -> dict[str, dict]:
  """Returns the arguments of each kind beyond rate and labels."""
  return {
    'symmetric': {'num_classes': 10},
    'asymmetric': {'class_map': corruption.CLASS_MAPS['digits']},
    'interclass': {'pair': (1, 7)},
    'constant': {'target': 0},
    'poison': {'trigger': TRIGGER, 'target': 0},
    'transition': {'matrix': draw_matrix(rng.fold_in(key, 'matrix'))},
  }


def with_flags(batch):
  """Adds trigger flags to a batch, so that all cases share a compilation."""
  if batch.has_trigger is not None:
    return batch
  return batch._replace(has_trigger=jnp.zeros(len(batch.label), bool))


def train_network(key: jax.Array, batch):
  """Trains a network on a split."""
  start = MODEL.init(rng.fold_in(key, 'init'), STEP.eval(batch.image[:1], None))
  return train.fit(
    rng.fold_in(key, 'train'),
    NETWORK,
    start,
    with_flags(batch),
    TRAINING,
  ).variables


def predict_corrupted(key, variables, kind: str, pool, facts: dict):
  """Returns probabilities and wrong labels of the pool, corrupted in full."""
  facts = {k: v for k, v in facts.items() if k != 'num_classes'}
  proxies = proxy_sets.make_proxy(
    rng.fold_in(key, 'p'), kind, pool, 1, 10, **facts
  )
  batch = with_flags(proxy_sets.draw_copy(proxies, 0))
  return metrics.probabilities(NETWORK, variables, batch), batch.label


def predict_cases(seed: int, advance) -> dict:
  """Returns (probabilities, labels) by case and rate, of a seed."""
  key = rng.fold_in(seed, 'diagnosis')
  digits = sources.load('digits').train
  pool, remaining = splits.hold_out(rng.fold_in(key, 'hold'), digits, POOL, 10)
  clean, predictions = train_network(key, remaining), {}
  for kind, facts in arguments(key).items():
    for rate in CASES[kind]:
      variables = clean
      if rate:
        draw = getattr(corruption, kind)
        drawn = draw(rng.fold_in(key, kind), remaining.label, rate, **facts)
        variables = train_network(key, corruption.apply(drawn, remaining))
      predictions[kind, rate] = predict_corrupted(
        key, variables, kind, pool, facts
      )
      if kind == 'symmetric':
        images = metrics.probabilities(NETWORK, variables, with_flags(pool))
        predictions['right', rate] = (images, pool.label)
      advance()
  return predictions


def diagnose_cases(seed: int, predictions: dict) -> list[dict]:
  """Diagnoses every case at every size, of a seed."""
  names = ('family', 'best', 'confidence', 'agreement', 'chance', 'learnt')
  rows = []
  for (kind, rate), (probability, label) in predictions.items():
    for size in SIZES:
      key = rng.fold_in(seed, kind, int(100 * rate), size)
      if len(label) < size < max(SIZES):
        continue
      order = jax.random.permutation(rng.fold_in(key, 'take'), len(label))
      index = np.asarray(order)[:size]
      record = diagnosis.diagnose(
        key, probability[index], np.asarray(label)[index]
      ).record
      rows.append(
        {
          'kind': kind,
          'rate': rate,
          'seed': seed,
          'size': 'all' if size == max(SIZES) else size,
          'images': len(index),
          **{name: record[name] for name in names},
          **{k: record.get(k) for k in ('error_rate', 'error_interval')},
        }
      )
  return rows


def true_family(row: dict) -> str:
  """Returns the family that the diagnosis should name."""
  return TRUTH.get(row['kind'], row['kind'])


def confusion(rows: list[dict]) -> dict:
  """Counts the diagnosed families by kind and size."""
  counts: dict = collections.defaultdict(collections.Counter)
  for row in rows:
    counts[f'{row["kind"]}, {row["size"]}'][row['family']] += 1
  return {name: dict(counter) for name, counter in counts.items()}


def calibration(rows: list[dict]) -> list[dict]:
  """Compares the stated confidence with the share of correct families."""
  rows = [row for row in rows if row['kind'] != 'right']
  bins = []
  for low, high in itertools.pairwise(BINS):
    members = [
      row
      for row in rows
      # The last bin includes its upper end.
      if low <= row['confidence'] < high or high == 1 == row['confidence']
    ]
    correct = [row['best'] == true_family(row) for row in members]
    bins.append(
      {
        'confidence': [low, high],
        'count': len(members),
        'stated': float(np.mean([row['confidence'] for row in members])),
        'right': float(np.mean(correct)),
      }
    )
  return bins


def count_learnt(rows: list[dict]) -> dict:
  """Counts by kind and rate the corruptions that are said to be learnt."""
  learnt: dict = collections.defaultdict(list)
  for row in rows:
    if row['size'] == 'all' and row['learnt'] is not None:
      learnt[f'{row["kind"]}, {row["rate"]}'].append(row['learnt'])
  return {name: [sum(x), len(x)] for name, x in learnt.items()}


def report(seeds: str, rows: list[dict]) -> dict:
  """Builds the JSON: origin, tables, every diagnosis."""
  wrong = [
    row
    for row in rows
    if row['kind'] != 'right'
    and row['family'] not in ('unclear', true_family(row))
  ]
  return {
    **cell_runs.describe(),
    'seeds': seeds,
    'network': f'fc, width {WIDTH}, {STEPS} steps',
    'confusion': confusion(rows),
    'calibration': calibration(rows),
    'learnt': count_learnt(rows),
    'wrong': len(wrong),
    'wrong_above_95': [row for row in wrong if row['confidence'] >= 0.95],
    'diagnoses': rows,
  }


def main() -> None:
  """Trains, diagnoses, writes and prints the tables."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--out', default='results/diagnosis_digits.json')
  flags = parser.parse_args()
  seeds = cell_runs.seeds_of(flags)
  total = len(seeds) * sum(map(len, CASES.values()))
  rows: list[dict] = []
  with progress.bar('networks', total, unit='networks') as advance:
    for seed in seeds:
      rows += diagnose_cases(seed, predict_cases(seed, advance))
  results = report(flags.seeds, rows)
  files.write_json(pathlib.Path(flags.out), results)
  for name, counts in results['confusion'].items():
    print(f'{name:22} {counts}')
  for row in results['calibration']:
    print(row)
  print(results['learnt'], len(results['wrong_above_95']))


if __name__ == '__main__':
  shell.run_script(main)
