r"""The effect of pre-training on CUTS: ImageNet weights against none.

Three MobileNetV1-0.25 on a part of CIFAR-10 with wrong labels: with ImageNet
weights (BatchNorm folded into the convolutions), the same folded network from
random weights, and one with BatchNorm from random weights. Images, wrong
labels and proxies of a seed are the same for all. With --cut=LAYER the
pre-trained one keeps all layers before it and trains the rest on features that
are computed once, without augmentation; `random_below` does the same with
random weights. Learning rate and epochs of each are those of its best accuracy
on validation images after a training on clean labels, with a seed of its own;
clean proxies are fine-tuned at that rate, and proxies at each of --tau_rates
times it. Test labels choose nothing but `cuts_best_alpha`.

  python experiments/pretrained_vs_scratch.py --weights=DIR --data_dir=DIR \
    --out=pretrained.json --minutes=60
  ... --side=96 --cut=L23_dw --scratch_side=32        a CPU, in 40 minutes
  ... --noise=human --labels_file=cifar10n.npz      labels by people
  ... --noise=0.2,0.4,0.6 --side=128 --images=45000 --epochs=5,10,20,40   a GPU

Published (arXiv 2511.18660): CUTS recovers 69 % of the loss by noise on CLIP,
26 % on networks from scratch. The JSON keeps finished cells.
"""

import argparse
import pathlib
import sys
import time
from typing import Any, NamedTuple

import cell_runs
import jax
import numpy as np
import pretrained_arms as arms
import pretrained_table as table
from jax import numpy as jnp
from ml_collections import ConfigDict

from cmu_jax.commands import shell
from cmu_jax.core import config as configs
from cmu_jax.core import errors, files, jit, progress, provenance, rng
from cmu_jax.core.types import MethodInputs, Network, Training, Variables
from cmu_jax.methods.cuts import algorithm, alpha_search
from cmu_jax.methods.projection import sap
from cmu_jax.studies.cuts import scene as scenes
from cmu_jax.studies.cuts import stages
from cmu_jax.training import descent, metrics, train

# Data, split and weights that choose the recipe; no reported seed is this one.
TUNING_SEED = 1000
SCALES = (1e3, 1e4, 3e4, 1e5, 3e5, 1e6)
# Flags that a file of cells must have been made with.
SETTINGS = (
  'side', 'cut', 'scratch_side', 'images', 'test', 'epochs', 'tau_epochs',
  'tau_rates',
)  # fmt: skip


def load_config(
  flags: argparse.Namespace, noise: str, seed: int, side: int
) -> ConfigDict:
  """Loads the config of a cell's data, noise and proxy."""
  kind = 'human' if noise == 'human' else 'symmetric'
  rate = 0.4 if noise == 'human' else float(noise)
  fields = {
    'seeds': str(seed),
    'data_dir': flags.data_dir,
    'train_limit': str(flags.images),
    'test_limit': str(flags.test),
    'proxy_fraction': '0.1',
    'input.resize': str(side),
    'input.mean': '(0.5,0.5,0.5)',
    'input.std': '(0.5,0.5,0.5)',
  }
  if kind == 'human':
    fields['corruption.labels_file'] = flags.labels_file
  # The network of the config is not used.
  spec = f'configs/cuts_cifar10.py:kind={kind},noise={rate},model=convnet'
  return configs.load(spec, fields).config


def apply_sap(
  arm: arms.Arm, world: scenes.World, scene: scenes.Scene, mix: Variables
) -> tuple[Variables, float]:
  """Applies SAP on the clean proxy, whose labels choose its scale."""
  size = scene.clean_proxy.label.shape[0]
  method = sap.sap(
    Network(arm.model, world.inputs), samples=size, scales=SCALES
  )
  data = MethodInputs(retain=descent.whole_batch(scene.clean_proxy))
  basis = method.prepare(scene.key, mix, data)
  repaired = [
    method.solve(scene.key, mix, data, basis, hyper)[0] for hyper in method.grid
  ]
  scores = [arms.accuracy(arm, world, v, scene.clean_proxy) for v in repaired]
  best = int(np.argmax(scores))
  return repaired[best], SCALES[best]


def best_alpha(
  arm: arms.Arm, world: scenes.World, mix: Variables, tau: Any, grid: Any
) -> float:
  """Finds the alpha with the best test accuracy: a bound, never a choice."""
  test = world.dataset.test

  def accuracy(features, logits):
    return jnp.mean((jnp.argmax(logits, -1) == test.label).astype(jnp.float32))

  image = jit.compile_cheaply(world.inputs.eval)(test.image, None)
  alphas = jnp.asarray(grid, jnp.float32)
  curve = alpha_search.curve(arm.model, mix, tau, image, alphas, accuracy)
  return float(grid[int(np.argmax(curve))])


def repair_all(
  arm: arms.Arm,
  world: scenes.World,
  scene: scenes.Scene,
  tau_epochs: int,
  tau_rates: tuple[float, ...],
) -> dict[str, tuple[Variables, dict]]:
  """Trains and repairs the networks of a cell; 'cuts x0.1' is at a tenth."""
  start = arm.start(rng.fold_in(scene.key, 'init'))
  fit = lambda name, v, batch, epochs: arms.fit(
    rng.fold_in(scene.key, name), arm, world, v, batch, epochs, name
  )
  mix = fit('corrupted', start, scene.train, arm.epochs)
  proxies = scene.proxy.label.shape[1]
  networks: dict[str, tuple[Variables, dict]] = {'corrupted': (mix, {})}
  steps = tau_epochs * train.steps_per_epoch(proxies, arms.BATCH)
  for factor in tau_rates:
    method = algorithm.cuts(
      Network(arm.model, world.inputs),
      Training(arms.adam(factor * arm.rate), steps, arms.BATCH),
    )
    _, info = method(
      rng.fold_in(scene.key, 'unlearn'), mix, MethodInputs(proxy=scene.proxy)
    )
    grid = np.asarray(info['curve']['alpha'])
    for name, alpha in (
      ('cuts', float(info['alpha'])),
      ('cuts_best_alpha', best_alpha(arm, world, mix, info['tau'], grid)),
    ):
      edited = stages.edit_weights(mix, info['tau'], alpha)
      networks[f'{name} x{factor:g}'] = edited, {'alpha': alpha}
  projected, scale = apply_sap(arm, world, scene, mix)
  tuned = fit('finetune', mix, scene.clean_proxy, tau_epochs)
  return {
    **networks,
    'sap': (projected, {'sap_scale': scale}),
    'finetune_clean_proxy': (tuned, {}),
    'oracle': (fit('oracle', start, scene.clean, arm.epochs), {}),
  }


def measure(
  arm: arms.Arm,
  world: scenes.World,
  scene: scenes.Scene,
  tau_epochs: int,
  tau_rates: tuple[float, ...],
) -> list[dict]:
  """Returns all rows of an arm, noise and seed."""
  networks = repair_all(arm, world, scene, tau_epochs, tau_rates)
  scores = {
    method: arms.accuracy(arm, world, variables, world.dataset.test)
    for method, (variables, _) in networks.items()
  }
  corrupted, oracle = scores['corrupted'], scores['oracle']
  return [
    {
      'method': method,
      'test_accuracy': scores[method],
      'recovery_percent': metrics.recovery_rate(
        scores[method], corrupted, oracle
      ),
      **facts,
    }
    for method, (_, facts) in networks.items()
  ]


def parse_flags() -> argparse.Namespace:
  """Reads the command line."""
  parser = cell_runs.parser(__doc__)
  parser.add_argument('--weights', required=True, help='folder of MobileNets')
  parser.add_argument('--data_dir', required=True, help='of TFDS')
  parser.add_argument('--labels_file', default='', help='CIFAR-10N as .npz')
  parser.add_argument('--noise', default='0.4', help='rates, or human')
  parser.add_argument('--arms', default=','.join(arms.ARMS[:3]))
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--side', type=int, default=64, help='pixels')
  parser.add_argument('--cut', default='', help='first trained layer')
  parser.add_argument('--scratch_side', type=int, default=0, help='0: --side')
  parser.add_argument('--images', type=int, default=2000)
  parser.add_argument('--test', type=int, default=2000)
  parser.add_argument('--epochs', default='5,10,20', help='to choose from')
  parser.add_argument('--tau_epochs', type=int, default=20)
  parser.add_argument('--tau_rates', default='1,0.1', help='times the rate')
  parser.add_argument('--minutes', type=float, default=30.0)
  parser.add_argument('--out', required=True)
  return parser.parse_args()


class Results(NamedTuple):
  """The content of the JSON: settings, recipe of each arm, rows."""

  settings: dict[str, Any]
  recipes: dict[str, Any]
  rows: list[dict]


def load(flags: argparse.Namespace) -> Results:
  """Reads the results of earlier runs with the same settings."""
  path = pathlib.Path(flags.out)
  settings = {name: getattr(flags, name) for name in SETTINGS}
  if not path.exists():
    return Results(settings, {}, [])
  stored = files.read_json(path)
  errors.check(
    stored['settings'] == settings,
    f'--out {path} was made with {stored["settings"]}; give the same, or '
    'another file',
  )
  return Results(settings, stored['recipes'], stored['rows'])


def save(flags: argparse.Namespace, results: Results) -> None:
  """Writes all results so far, with their origin."""
  about = {
    'command': 'python experiments/pretrained_vs_scratch.py --weights=DIR '
    f'--data_dir=DIR --noise={flags.noise} --seeds={flags.seeds} '
    f'--arms={flags.arms} --side={flags.side} --cut={flags.cut} '
    f'--scratch_side={flags.scratch_side} --images={flags.images} '
    f'--epochs={flags.epochs} --tau_rates={flags.tau_rates} --out=FILE',
    'commit': provenance.git_commit(cell_runs.ROOT),
    'device': jax.devices()[0].device_kind,
  }
  content = {
    'about': about,
    **results._asdict(),
    'summary': table.summarize(results.rows),
  }
  files.write_json(pathlib.Path(flags.out), content)


def run_cell(
  flags: argparse.Namespace, results: Results, noise: str, seed: int, name: str
) -> None:
  """Runs a cell, after the choice of its arm's recipe if it is the first."""
  side = flags.side if name in arms.CUT else flags.scratch_side or flags.side
  arm = arms.make_arm(name, pathlib.Path(flags.weights), side, flags.cut)

  def load_data(noise: str, seed: int) -> tuple[scenes.World, scenes.Scene]:
    config = load_config(flags, noise, seed, side)
    world = scenes.load_world(config)
    scene = scenes.draw_scene(config, world, seed)
    return arms.precompute_features(arm, world, scene)

  if name not in results.recipes:
    epochs = tuple(map(int, flags.epochs.split(',')))
    results.recipes[name] = arms.tune(
      arm, *load_data('0.4', TUNING_SEED), epochs
    )
    save(flags, results)
  recipe = results.recipes[name]
  arm = arm._replace(rate=recipe['rate'], epochs=recipe['epochs'])
  about = {'noise': noise, 'seed': seed, 'arm': name}
  tau_rates = tuple(map(float, flags.tau_rates.split(',')))
  rows = measure(arm, *load_data(noise, seed), flags.tau_epochs, tau_rates)
  results.rows.extend(about | row for row in rows)
  save(flags, results)


def main() -> None:
  """Runs the cells that the JSON lacks, until the time is up."""
  flags = parse_flags()
  deadline = time.monotonic() + 60 * flags.minutes
  results = load(flags)
  cells = [
    (noise, seed, name)
    for noise in flags.noise.split(',')
    for seed in cell_runs.seeds_of(flags)
    for name in flags.arms.split(',')
  ]
  with progress.bar('cells', len(cells), unit='cells') as advance:
    for cell in cells:
      done = {(row['noise'], row['seed'], row['arm']) for row in results.rows}
      if cell not in done:
        if time.monotonic() > deadline:
          print('the time is up: the same command continues', file=sys.stderr)
          return
        run_cell(flags, results, *cell)
      advance(1)
  table.print_table(table.summarize(results.rows))


if __name__ == '__main__':
  shell.run_script(main)
