r"""One coefficient for the network or one a layer? Accuracies, cell by cell.

A cell is a network, a kind of noise, a rate and a seed. Test accuracy is
measured untouched, at the published alpha, at the best single alpha of the
cross-fitted score, and after climbing from there layer by layer on the same
score: `layers` over the whole grid, `layers_near` over multiples of the single
alpha. `best` is the single alpha that is best on the test labels.

  python experiments/block_alpha.py
"""

import argparse
import pathlib
import shlex
import sys

import jax
import numpy as np

from cmu_jax.commands import shell
from cmu_jax.core import config, files, jit, progress, provenance, rng
from cmu_jax.core.types import Network, Variables
from cmu_jax.methods.cuts import (
  algorithm,
  alpha_rules,
  alpha_search,
  cross_fitting,
  safe_alpha,
)
from cmu_jax.methods.cuts import blocks as blocks_lib
from cmu_jax.studies.cuts import evaluate, scene, stages
from cmu_jax.studies.engine import recipes
from cmu_jax.training import train

NETWORKS = {'fc': ('fc', '512'), 'convnet': ('convnet', '1')}
NOISE = (
  ('symmetric', 0.2),
  ('symmetric', 0.4),
  ('symmetric', 0.6),
  ('asymmetric', 0.4),
)
NEAR = np.array([0, 0.5, 0.75, 1, 1.25, 1.5, 2])
COLUMNS = ('nothing', 'published', 'single', 'layers', 'layers_near', 'best')


def settings(network: str, kind: str, rate: float, seed: int):
  """The config of a cell."""
  name, width = NETWORKS[network]
  spec = f'configs/cuts_digits.py:kind={kind},noise={rate}'
  given = {'model.name': name, 'model.width': width, 'seeds': str(seed)}
  return config.load(spec, given).config


def trained(config, world, place):
  """The corrupted network."""
  image = world.inputs.eval(world.dataset.test.image[:1], None)
  start = jit.compile_cheaply(world.model.init)(
    rng.fold_in(place.key, 'init'), image
  )
  size = place.train.label.shape[0]
  return train.fit(
    rng.fold_in(place.key, 'train'),
    Network(world.model, world.inputs),
    start,
    place.train,
    training=recipes.fit_options(config.train, size, 'train'),
  ).variables


def vectors(config, world, place, mix):
  """The task vector of the whole proxy, folds, and the vectors of the folds."""
  tuned = lambda size: recipes.fit_options(
    config.proxy_train, size, 'proxy_train'
  )
  tau, _ = algorithm.direction(
    rng.fold_in(place.key, 'tau'),
    Network(world.model, world.inputs),
    mix,
    place.proxy,
    training=tuned(place.proxy.label.shape[1]),
  )
  folds = cross_fitting.split(rng.fold_in(place.key, 'folds'), place.proxy, 2)
  fitted = safe_alpha.fit_fold_vectors(
    rng.fold_in(place.key, 'fold'),
    Network(world.model, world.inputs),
    mix,
    folds,
    tuned(folds.proxy.label.shape[1]),
  )
  return tau, folds, fitted.tau


def cell(config, world, seed: int) -> dict:
  """Accuracies of one cell and what the search did."""
  place = scene.draw_scene(config, world, seed)
  test = evaluate.scorer(config, world)
  tested = lambda variables: test(variables).values['test_accuracy']
  mix = trained(config, world, place)
  tau, folds, fold_tau = vectors(config, world, place, mix)
  blocks, grid = blocks_lib.block_names(tau), alpha_rules.noise_grid()
  score = blocks_lib.scorer(
    Network(world.model, world.inputs), mix, folds, fold_tau, blocks
  )
  curve = score(np.repeat(grid[:, None], len(blocks), axis=1))
  start = float(grid[curve.argmax()])
  full = blocks_lib.climb(score, blocks, start, grid)
  near = blocks_lib.climb(score, blocks, start, NEAR * start)
  published, _ = alpha_search.select_alpha(
    Network(world.model, world.inputs),
    mix,
    tau,
    place.proxy,
    selection=stages.selection(config),
  )

  def at(alphas) -> float:
    given = np.broadcast_to(np.asarray(alphas, np.float32), (len(blocks),))
    params = blocks_lib.edit(mix.params, tau, given, blocks)
    return tested(Variables(params, mix.batch_stats))

  return {
    'nothing': tested(mix),
    'published': at(published.alpha),
    'single': at(start),
    'layers': at(full.alphas),
    'layers_near': at(near.alphas),
    'best': max(at(a) for a in grid[::2]),
    'blocks': list(blocks),
    'alpha_single': start,
    'alpha_layers': full.alphas.tolist(),
    'alpha_layers_near': near.alphas.tolist(),
    'J_nothing': float(curve[0]),
    'J_layers': full.J,
    'J_layers_near': near.J,
  }


def summary(cells: dict[str, dict]) -> list[dict]:
  """One row a network and noise, and one a network."""
  groups: dict[str, list[dict]] = {}
  for name, one in cells.items():
    network = name.split(',')[0]
    for group in (name.rsplit(',', 1)[0], f'{network}, all'):
      groups.setdefault(group, []).append(one)
  rows = []
  for name, members in sorted(groups.items()):
    gains = {
      key: [one[key] - one['single'] for one in members]
      for key in ('layers', 'layers_near')
    }
    rows.append(
      {
        'cells': name,
        'count': len(members),
        **{k: float(np.mean([one[k] for one in members])) for k in COLUMNS},
        **{f'{key}_gain': float(np.mean(gain)) for key, gain in gains.items()},
        **{
          f'{key}_gain_error': float(np.std(gain) / np.sqrt(len(gain)))
          for key, gain in gains.items()
        },
        **{
          f'{key}_better_worse': [
            sum(g > 0.01 for g in gain),
            sum(g < -0.01 for g in gain),
          ]
          for key, gain in gains.items()
        },
      }
    )
  return rows


def report(seeds: str, cells: dict[str, dict]) -> dict:
  """What is kept: how it was made, the table, every cell."""
  made = provenance.describe_process()
  return {
    'command': shlex.join(
      ['python', 'experiments/block_alpha.py', *sys.argv[1:]]
    ),
    'commit': made['commit'],
    'versions': made['versions'],
    'device': jax.default_backend(),
    'seeds': seeds,
    'table': summary(cells),
    'by_cell': cells,
  }


def main() -> None:
  """Runs the cells that --out has not; prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--out', default='results/block_alpha_digits.json')
  flags = parser.parse_args()
  path = pathlib.Path(flags.out)
  cells = files.read_json(path)['by_cell'] if path.is_file() else {}
  seeds = [int(seed) for seed in flags.seeds.split(',')]
  wanted = [(n, k, r, s) for n in NETWORKS for s in seeds for k, r in NOISE]
  worlds: dict = {}
  with progress.bar('cells', len(wanted), unit='cells') as advance:
    for network, kind, rate, seed in wanted:
      name = f'{network},{kind},{rate},{seed}'
      if name not in cells:
        config = settings(network, kind, rate, seed)
        if (network, kind) not in worlds:  # Shared, and so the compilations.
          worlds[network, kind] = scene.load_world(config)
        cells[name] = cell(config, worlds[network, kind], seed)
        files.write_json(path, report(flags.seeds, cells))
      advance()
  for row in summary(cells):
    print(
      {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
    )


if __name__ == '__main__':
  shell.run_script(main)
