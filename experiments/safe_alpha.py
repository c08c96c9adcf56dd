r"""When is a chosen alpha worth taking? Published against safe, cell by cell.

A cell is one kind of noise, one rate and one seed: a network is trained on
corrupted labels, and its test accuracy is measured at alpha = 0, at the
published alpha_hat, at the cross-fitted one, at the safe one (which may leave
the model as it is) and at the best of the grid. Finished cells are in --out and
are not run again.

  python experiments/safe_alpha.py --minutes 20
  python experiments/safe_alpha.py --data mnist --data_dir DIR --out FILE.json
"""

import argparse
import pathlib
import shlex
import statistics
import sys
import time

import jax
import numpy as np

from cmu_jax.commands import shell
from cmu_jax.core import config, files, jit, progress, provenance, rng
from cmu_jax.core.types import Network
from cmu_jax.methods.cuts import algorithm
from cmu_jax.studies.cuts import evaluate, scene, stages
from cmu_jax.studies.engine import recipes
from cmu_jax.training import train

RATES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6)
KINDS = ('symmetric', 'asymmetric')
LEVELS = (0.5, 0.8, 0.95)
POINT = 0.01


def settings(flags: argparse.Namespace, kind: str, rate: float, seed: int):
  """The config of a cell: that of the data set, with what the cell changes."""
  shape = f'width={flags.width}'
  shape += ',epochs=60' if flags.data == 'mnist' else ''
  spec = f'configs/cuts_{flags.data}.py:{shape},kind={kind},noise={rate}'
  given = {'data_dir': flags.data_dir} if flags.data_dir else {}
  given |= {'dataset': flags.dataset} if flags.dataset else {}
  return config.load(spec, {'seeds': str(seed), **given}).config


def trained(config, world, place, batch):
  """One network on one split, without checkpoints."""
  image = world.inputs.eval(world.dataset.test.image[:1], None)
  start = jit.compile_cheaply(world.model.init)(
    rng.fold_in(place.key, 'init'), image
  )
  options = recipes.fit_options(config.train, batch.label.shape[0], 'train')
  key = rng.fold_in(place.key, 'train')
  fitted = train.fit(
    key, Network(world.model, world.inputs), start, batch, training=options
  )
  return fitted.variables


def cell(config, world, seed: int) -> dict:
  """Accuracies of one cell, and what the safe rule saw."""
  place = scene.draw_scene(config, world, seed)
  score = evaluate.scorer(config, world)
  tested = lambda variables: score(variables).values['test_accuracy']
  mix = trained(config, world, place, place.train)
  proxies = place.proxy.label.shape[1]
  options = recipes.fit_options(config.proxy_train, proxies, 'proxy_train')
  unlearn = algorithm.cuts(
    Network(world.model, world.inputs),
    selection=stages.selection(config),
    training=options,
  )
  _, info = unlearn(rng.fold_in(place.key, 'unlearn'), mix, place.proxy)
  safe, _ = stages.safe_alpha(config, world, place, mix, None, seed)
  at = lambda a: tested(stages.edited(mix, info['tau'], float(a)))
  clean = config.noise_rate == 0
  oracle = mix if clean else trained(config, world, place, place.clean)
  record = {k: v for k, v in safe.record.items() if k != 'J_cf'}
  return {
    'nothing': tested(mix),
    'published': at(info['alpha']),
    'cross_fitted': at(record['alpha_hat']),
    'best': max(at(a) for a in info['curve']['alpha'][::2]),
    'oracle': tested(oracle),
    'alpha_published': info['alpha'],
    'safe': record,
  }


def selected(record: dict, level: float) -> bool:
  """Whether the rule takes the step at another confidence."""
  reach = statistics.NormalDist().inv_cdf(level) * record['evidence_deviation']
  return record['alpha_hat'] > 0 and record['evidence'] - reach > 0


def counts(cells: list[dict], level: float) -> dict:
  """Accuracy, harm and forgone gains of the safe rule at one confidence."""
  found = {'safe': [], 'taken': 0, 'harm': 0, 'averted': 0, 'false': 0}
  for one in cells:
    taken = selected(one['safe'], level)
    safe = one['cross_fitted'] if taken else one['nothing']
    gain, kept = one['published'] - one['nothing'], safe - one['nothing']
    found['safe'].append(safe)
    found['taken'] += taken
    found['harm'] += kept < -POINT
    found['averted'] += gain < -POINT and kept >= -POINT
    found['false'] += gain > POINT and not taken
  return {**found, 'safe': float(np.mean(found['safe']))}


def summary(cells: dict[str, dict]) -> list[dict]:
  """One row a kind and rate, and one for all cells."""
  groups = {name.rsplit(',', 1)[0]: [] for name in cells}
  for name, one in cells.items():
    groups[name.rsplit(',', 1)[0]].append(one)
  rows = []
  for name, members in [*groups.items(), ('all', list(cells.values()))]:
    mean = lambda key, m=members: float(np.mean([one[key] for one in m]))
    columns = ('nothing', 'published', 'cross_fitted', 'best', 'oracle')
    gains = [one['published'] - one['nothing'] for one in members]
    rows.append(
      {
        'cells': name,
        'count': len(members),
        **{key: mean(key) for key in columns},
        'published_harm': sum(gain < -POINT for gain in gains),
        'published_gain': sum(gain > POINT for gain in gains),
        'levels': {str(level): counts(members, level) for level in LEVELS},
      }
    )
  return rows


def show(rows: list[dict], level: float) -> None:
  """Prints the summary as a Markdown table."""
  print(f'safe at confidence {level}; harm and gain: by more than a point')
  print(
    '| cells | n | nothing | published | safe | best | oracle | published '
    'harms / gains | safe takes | safe harms | averted | gain forgone |'
  )
  print('|---' * 12 + '|')
  for row in rows:
    at = row['levels'][str(level)]
    numbers = [row['nothing'], row['published'], at['safe'], row['best']]
    text = ' | '.join(f'{x:.3f}' for x in [*numbers, row['oracle']])
    print(
      f'| {row["cells"]} | {row["count"]} | {text} | {row["published_harm"]} / '
      f'{row["published_gain"]} | {at["taken"]} | {at["harm"]} | '
      f'{at["averted"]} | {at["false"]} |'
    )


def main() -> None:
  """Runs what is missing and fits the time; prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', default='digits', choices=('digits', 'mnist'))
  parser.add_argument('--data_dir', default='')
  parser.add_argument('--dataset', default='', help='npz:FILE of the images')
  parser.add_argument('--width', type=int, default=256)
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--minutes', type=float, default=20)
  parser.add_argument('--out', default='results/safe_alpha_digits.json')
  flags = parser.parse_args()
  path, began = pathlib.Path(flags.out), time.monotonic()
  cells = files.read_json(path)['by_cell'] if path.is_file() else {}
  seeds = [int(seed) for seed in flags.seeds.split(',')]
  wanted = [(k, r, s) for s in seeds for k in KINDS for r in RATES]
  worlds: dict = {}
  with progress.bar('cells', len(wanted), unit='cells') as advance:
    for kind, rate, seed in wanted:
      name = f'{kind},{rate},{seed}'
      late = time.monotonic() - began > 60 * flags.minutes
      if name not in cells and not late:
        config = settings(flags, kind, rate, seed)
        if kind not in worlds:  # Shared, and with it the compilations.
          worlds[kind] = scene.load_world(config)
        cells[name] = cell(config, worlds[kind], seed)
        files.write_json(path, report(flags, config, cells))
      advance()
  for level in LEVELS[1:]:
    show(summary(cells), level)


def report(flags: argparse.Namespace, config, cells: dict) -> dict:
  """What is kept: how it was made, every cell, and the table."""
  made = provenance.describe_run(config)
  hidden = {'--data_dir', '--dataset'}
  words, arguments = [], iter(sys.argv[1:])
  for word in arguments:
    words += [word, 'PATH'] if word in hidden else [word]
    _ = next(arguments) if word in hidden else None
  return {
    'command': f'python experiments/safe_alpha.py {shlex.join(words)}'.strip(),
    'commit': made['commit'],
    'versions': made['versions'],
    'device': jax.default_backend(),
    'data': flags.data,
    'width': flags.width,
    'seeds': flags.seeds,
    'table': summary(cells),
    'by_cell': cells,
  }


if __name__ == '__main__':
  shell.run_script(main)
