r"""Does the diagnosis name the corruption, and is its confidence deserved?

Networks are trained on digits under every family of corruptions, at several
rates and seeds; rate 0 is a network that saw no corruption, shown samples with
wrong labels all the same. From a pool of unseen images, corrupted in full, sets
of several sizes are drawn and diagnosed. `right` shows the pool's true labels,
which a user might give by mistake: there is nothing to find.

  python experiments/diagnosis.py
"""

import argparse
import collections
import itertools
import pathlib
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.commands import shell
from cmu_jax.core import files, progress, provenance, rng
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
OPTIMIZER = optimizers.adamw(optimizers.constant_schedule(2e-3))
MODEL = networks.make('fc', 10, (8, 8, 1), width=WIDTH)


def uneven(key: jax.Array) -> np.ndarray:
  """A transition matrix with a few likely targets a class, diagonal 0."""
  found = np.array(jax.random.dirichlet(key, jnp.full(10, 0.4), (10,)), float)
  np.fill_diagonal(found, 0)
  return found / found.sum(axis=1, keepdims=True)


def arguments(key: jax.Array) -> dict[str, dict]:
  """What each kind needs beyond rate and labels."""
  return {
    'symmetric': {'num_classes': 10},
    'asymmetric': {'class_map': corruption.CLASS_MAPS['digits']},
    'interclass': {'pair': (1, 7)},
    'constant': {'target': 0},
    'poison': {'trigger': TRIGGER, 'target': 0},
    'transition': {'matrix': uneven(rng.fold_in(key, 'matrix'))},
  }


def stamped(batch):
  """The batch with stamps, so that all cases share one compilation."""
  none = jnp.zeros(len(batch.label), bool)
  return batch._replace(
    has_trigger=none if batch.has_trigger is None else batch.has_trigger
  )


def trained(key: jax.Array, batch):
  """A network on one split."""
  start = MODEL.init(rng.fold_in(key, 'init'), STEP.eval(batch.image[:1], None))
  return train.fit(
    rng.fold_in(key, 'train'),
    Network(MODEL, STEP),
    start,
    stamped(batch),
    training=Training(optimizer=OPTIMIZER, steps=STEPS, batch_size=128),
  ).variables


def shown(key, network, kind: str, pool, facts: dict):
  """Probabilities and wrong labels of the pool, corrupted in full."""
  facts = {k: v for k, v in facts.items() if k != 'num_classes'}
  bad = proxy_sets.make_proxy(rng.fold_in(key, 'p'), kind, pool, 1, 10, **facts)
  batch = stamped(proxy_sets.draw_copy(bad, 0))
  return metrics.probabilities(
    Network(MODEL, STEP), network, batch
  ), batch.label


def seen_of(seed: int, advance):
  """Case and rate -> (probabilities, labels), of one seed."""
  key = rng.fold_in(seed, 'diagnosis')
  digits = sources.load('digits').train
  pool, rest = splits.hold_out(rng.fold_in(key, 'hold'), digits, POOL, 10)
  clean, found = trained(key, rest), {}
  for kind, facts in arguments(key).items():
    for rate in CASES[kind]:
      network = clean
      if rate:
        draw = getattr(corruption, kind)
        drawn = draw(rng.fold_in(key, kind), rest.label, rate, **facts)
        network = trained(key, corruption.apply(drawn, rest))
      found[kind, rate] = shown(key, network, kind, pool, facts)
      if kind == 'symmetric':
        images = metrics.probabilities(
          Network(MODEL, STEP), network, stamped(pool)
        )
        found['right', rate] = (images, pool.label)
      advance()
  return found


def cells_of(seed: int, found: dict) -> list[dict]:
  """Diagnoses of every case at every size, of one seed."""
  rows = []
  for (kind, rate), (probability, label) in found.items():
    for size in SIZES:
      key = rng.fold_in(seed, kind, int(100 * rate), size)
      if len(label) < size < max(SIZES):
        continue
      order = jax.random.permutation(rng.fold_in(key, 'take'), len(label))
      which = np.asarray(order)[:size]
      one = diagnosis.diagnose(
        key, probability[which], np.asarray(label)[which]
      )
      names = ('family', 'best', 'confidence', 'agreement', 'chance', 'learnt')
      facts = {name: one.record[name] for name in names}
      facts |= {k: one.record.get(k) for k in ('error_rate', 'error_interval')}
      rows.append(
        {
          'kind': kind,
          'rate': rate,
          'seed': seed,
          'size': 'all' if size == max(SIZES) else size,
          'images': len(which),
          **facts,
        }
      )
  return rows


def confusion(rows: list[dict]) -> dict:
  """Kind and size -> how often each family was said."""
  found: dict = collections.defaultdict(collections.Counter)
  for row in rows:
    found[f'{row["kind"]}, {row["size"]}'][row['family']] += 1
  return {name: dict(counter) for name, counter in found.items()}


def calibration(rows: list[dict]) -> list[dict]:
  """How often the likeliest family is the true one, by stated confidence."""
  told = [row for row in rows if row['kind'] != 'right']
  found = []
  for low, high in itertools.pairwise(BINS):
    inside = [
      row
      for row in told
      if low <= row['confidence'] < high or high == 1 == row['confidence']
    ]
    right = [row['best'] == truth(row) for row in inside]
    found.append(
      {
        'confidence': [low, high],
        'count': len(inside),
        'stated': float(np.mean([row['confidence'] for row in inside])),
        'right': float(np.mean(right)),
      }
    )
  return found


def truth(row: dict) -> str:
  """The family that the diagnosis should name."""
  return TRUTH.get(row['kind'], row['kind'])


def learnt(rows: list[dict]) -> dict:
  """Kind and rate -> how often the corruption is said to be learnt (all)."""
  found: dict = collections.defaultdict(list)
  for row in rows:
    if row['size'] == 'all' and row['learnt'] is not None:
      found[f'{row["kind"]}, {row["rate"]}'].append(row['learnt'])
  return {name: [sum(x), len(x)] for name, x in found.items()}


def report(flags, rows: list[dict]) -> dict:
  """What is kept: how it was made, the tables, every diagnosis."""
  made = provenance.describe_process()
  wrong = [
    row
    for row in rows
    if row['kind'] != 'right' and row['family'] not in ('unclear', truth(row))
  ]
  clear = [row for row in wrong if row['confidence'] >= 0.95]
  return {
    'command': shlex.join(
      ['python', 'experiments/diagnosis.py', *sys.argv[1:]]
    ),
    'commit': made['commit'],
    'versions': made['versions'],
    'device': jax.default_backend(),
    'seeds': flags.seeds,
    'network': f'fc, width {WIDTH}, {STEPS} steps',
    'confusion': confusion(rows),
    'calibration': calibration(rows),
    'learnt': learnt(rows),
    'wrong': len(wrong),
    'wrong_above_95': clear,
    'diagnoses': rows,
  }


def main() -> None:
  """Trains, diagnoses, writes and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--out', default='results/diagnosis_digits.json')
  flags = parser.parse_args()
  seeds = [int(seed) for seed in flags.seeds.split(',')]
  total = len(seeds) * sum(map(len, CASES.values()))
  rows: list[dict] = []
  with progress.bar('networks', total, unit='networks') as advance:
    for seed in seeds:
      rows += cells_of(seed, seen_of(seed, advance))
  found = report(flags, rows)
  files.write_json(pathlib.Path(flags.out), found)
  for name, said in found['confusion'].items():
    print(f'{name:22} {said}')
  for row in found['calibration']:
    print(row)
  print(found['learnt'], len(found['wrong_above_95']))


if __name__ == '__main__':
  shell.run_script(main)
