r"""The value of the safe alpha: published against safe, cell by cell.

A cell is a kind of noise, a rate and a seed: a network is trained on corrupted
labels, and its test accuracy is measured at alpha = 0, at the published
alpha_hat, at the cross-fitted alpha, at the safe alpha (which may leave the
model as it is) and at the best of the grid. The same command again continues
with the cells in --out.

  python experiments/safe_alpha.py --minutes 20
  python experiments/safe_alpha.py --data mnist --data_dir DIR --out FILE.json
"""

import argparse
import functools
import pathlib
import statistics

import cell_runs
import numpy as np

from cmu_jax.commands import shell
from cmu_jax.core import config as configs
from cmu_jax.core import rng
from cmu_jax.core.types import MethodInputs, Network
from cmu_jax.methods.cuts import algorithm
from cmu_jax.studies.cuts import evaluate, stages
from cmu_jax.studies.cuts import scene as scenes
from cmu_jax.studies.engine import recipes

RATES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6)
KINDS = ('symmetric', 'asymmetric')
LEVELS = (0.5, 0.8, 0.95)
POINT = 0.01
COLUMNS = ('nothing', 'published', 'cross_fitted', 'best', 'oracle')


def load_config(flags: argparse.Namespace, kind: str, rate: float, seed: int):
  """Loads the config of a cell: that of the data set, with its changes."""
  shape = f'width={flags.width}'
  shape += ',epochs=60' if flags.data == 'mnist' else ''
  spec = f'configs/cuts_{flags.data}.py:{shape},kind={kind},noise={rate}'
  fields = {'seeds': str(seed)}
  fields |= {'data_dir': flags.data_dir} if flags.data_dir else {}
  fields |= {'dataset': flags.dataset} if flags.dataset else {}
  return configs.load(spec, fields).config


def measure(config, world: scenes.World, seed: int) -> dict:
  """Measures the accuracies of a cell, and records the safe rule."""
  scene = scenes.draw_scene(config, world, seed)
  score = evaluate.make_scorer(config, world)
  accuracy = lambda variables: score(variables).values['test_accuracy']
  mix = cell_runs.train_network(config, world, scene, scene.train)
  options = recipes.fit_options(
    config.proxy_train, scene.proxy.label.shape[1], 'proxy_train'
  )
  method = algorithm.cuts(
    Network(world.model, world.inputs),
    options,
    selection=stages.make_selection(config),
  )
  _, info = method(
    rng.fold_in(scene.key, 'unlearn'), mix, MethodInputs(proxy=scene.proxy)
  )
  safe, _ = stages.choose_safe_alpha(
    scenes.Case(config, world, scene, mix, seed)
  )
  accuracy_at = lambda a: accuracy(
    stages.edit_weights(mix, info['tau'], float(a))
  )
  # Without noise the corrupted network is the oracle.
  oracle = (
    cell_runs.train_network(config, world, scene, scene.clean)
    if config.noise_rate
    else mix
  )
  record = {k: v for k, v in safe.record.items() if k != 'J_cf'}
  return {
    'nothing': accuracy(mix),
    'published': accuracy_at(info['alpha']),
    'cross_fitted': accuracy_at(record['alpha_hat']),
    'best': max(accuracy_at(a) for a in info['curve']['alpha'][::2]),
    'oracle': accuracy(oracle),
    'alpha_published': info['alpha'],
    'safe': record,
  }


def takes_step(record: dict, level: float) -> bool:
  """Applies the rule at another confidence."""
  reach = statistics.NormalDist().inv_cdf(level) * record['evidence_deviation']
  return record['alpha_hat'] > 0 and record['evidence'] - reach > 0


def count_outcomes(cells: list[dict], level: float) -> dict:
  """Counts harm and forgone gains of the safe rule at a confidence."""
  accuracies = []
  counts = {'taken': 0, 'harm': 0, 'averted': 0, 'false': 0}
  for cell in cells:
    taken = takes_step(cell['safe'], level)
    safe = cell['cross_fitted'] if taken else cell['nothing']
    published_gain = cell['published'] - cell['nothing']
    safe_gain = safe - cell['nothing']
    accuracies.append(safe)
    counts['taken'] += taken
    counts['harm'] += safe_gain < -POINT
    counts['averted'] += published_gain < -POINT and safe_gain >= -POINT
    counts['false'] += published_gain > POINT and not taken
  return {'safe': float(np.mean(accuracies)), **counts}


def summarize(cells: dict[str, dict]) -> list[dict]:
  """Summarizes the cells of each kind and rate, and all cells."""
  groups: dict[str, list[dict]] = {}
  for name, cell in cells.items():
    groups.setdefault(name.rsplit(',', 1)[0], []).append(cell)
  rows = []
  for name, members in [*groups.items(), ('all', list(cells.values()))]:
    gains = [cell['published'] - cell['nothing'] for cell in members]
    rows.append(
      {
        'cells': name,
        'count': len(members),
        **{
          key: float(np.mean([cell[key] for cell in members]))
          for key in COLUMNS
        },
        'published_harm': sum(gain < -POINT for gain in gains),
        'published_gain': sum(gain > POINT for gain in gains),
        'levels': {
          str(level): count_outcomes(members, level) for level in LEVELS
        },
      }
    )
  return rows


def print_summary(rows: list[dict], level: float) -> None:
  """Prints the summary as a Markdown table."""
  print(f'safe at confidence {level}; harm and gain: by more than a point')
  print(
    '| cells | n | nothing | published | safe | best | oracle | published '
    'harms / gains | safe takes | safe harms | averted | gain forgone |'
  )
  print('|---' * 12 + '|')
  for row in rows:
    safe = row['levels'][str(level)]
    numbers = [row['nothing'], row['published'], safe['safe'], row['best']]
    text = ' | '.join(f'{x:.3f}' for x in [*numbers, row['oracle']])
    print(
      f'| {row["cells"]} | {row["count"]} | {text} | {row["published_harm"]} / '
      f'{row["published_gain"]} | {safe["taken"]} | {safe["harm"]} | '
      f'{safe["averted"]} | {safe["false"]} |'
    )


def main() -> None:
  """Runs the missing cells that fit the time; prints the tables."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument('--data', default='digits', choices=('digits', 'mnist'))
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--dataset', default='', help='npz:FILE of the images')
  parser.add_argument('--width', type=int, default=256)
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--minutes', type=float, default=20)
  parser.add_argument('--out', default='results/safe_alpha_digits.json')
  flags = parser.parse_args()

  # One world for a kind: cells then share their compilations.
  @functools.cache
  def world_of(kind: str) -> scenes.World:
    return scenes.load_world(load_config(flags, kind, RATES[0], 0))

  def compute(name: str) -> dict:
    kind, rate, seed = name.split(',')
    config = load_config(flags, kind, float(rate), int(seed))
    return measure(config, world_of(kind), int(seed))

  def report(cells: dict) -> dict:
    return {
      **cell_runs.describe(('--data_dir', '--dataset')),
      'data': flags.data,
      'width': flags.width,
      'seeds': flags.seeds,
      'table': summarize(cells),
      'by_cell': cells,
    }

  names = [
    f'{kind},{rate},{seed}'
    for seed in cell_runs.seeds_of(flags)
    for kind in KINDS
    for rate in RATES
  ]
  path = pathlib.Path(flags.out)
  cells = cell_runs.compute_missing(
    path, names, compute, report, minutes=flags.minutes
  )
  for level in LEVELS[1:]:
    print_summary(summarize(cells), level)


if __name__ == '__main__':
  shell.run_script(main)
