r"""Is it the pre-training that CUTS needs? ImageNet weights against none.

Three MobileNetV1-0.25 on a part of CIFAR-10 with wrong labels: with ImageNet
weights (BatchNorm folded into the convolutions), the same folded network from
random weights, and one with BatchNorm from random weights. Images, wrong
labels and proxies of a seed are the same for all. With --cut=LAYER the
pre-trained one keeps all layers before it and trains the rest on features that
are computed once, without augmentation; `random_below` does the same with
random weights. Learning rate and epochs of each are those of its best accuracy
on validation images when it is trained on clean labels, with a seed of its own;
clean proxies are fine-tuned at that rate, and proxies at each of --tau_rates
times it. Nothing is chosen by test labels but `cuts_best_alpha`.

  python experiments/pretrained_vs_scratch.py --weights=DIR --data_dir=DIR \
    --out=pretrained.json --minutes=60
  ... --side=96 --cut=L23_dw --scratch_side=32        a CPU, in 40 minutes
  ... --noise=human --labels_file=cifar10n.npz      labels that people gave
  ... --noise=0.2,0.4,0.6 --side=128 --images=45000 --epochs=5,10,20,40   a GPU

Published (arXiv 2511.18660): CUTS recovers 69 % of what the noise costs on
CLIP, 26 % on networks from scratch. Finished cells are kept in the JSON.
"""

import argparse
import pathlib
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import pretrained_arms as arms
import pretrained_table as table
from jax import numpy as jnp
from ml_collections import ConfigDict

from cmu_jax.commands import shell
from cmu_jax.core import config, errors, files, jit, progress, provenance, rng
from cmu_jax.core.types import MethodInputs, Network, Training, Variables
from cmu_jax.methods.cuts import algorithm, alpha_search
from cmu_jax.methods.projection import sap
from cmu_jax.studies.cuts import scene, stages
from cmu_jax.training import descent, metrics, train

# Data, split and weights that choose the recipe; no reported seed is this one.
TUNING_SEED = 1000
SCALES = (1e3, 1e4, 3e4, 1e5, 3e5, 1e6)


def settings(
  flags: argparse.Namespace, noise: str, seed: int, side: int
) -> ConfigDict:
  """The config whose data, noise and proxy a cell takes."""
  kind = 'human' if noise == 'human' else 'symmetric'
  rate = 0.4 if noise == 'human' else float(noise)
  given = {
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
    given['corruption.labels_file'] = flags.labels_file
  # Its network is not looked at.
  spec = f'configs/cuts_cifar10.py:kind={kind},noise={rate},model=convnet'
  return config.load(spec, given).config


def projected(
  one: arms.Arm, world: scene.World, place: scene.Scene, mix: Variables
) -> tuple[Variables, float]:
  """SAP on the clean proxy, its scale chosen by the labels of the proxy."""
  size = place.clean_proxy.label.shape[0]
  method = sap.sap(
    Network(one.model, world.inputs), samples=size, scales=SCALES
  )
  given = MethodInputs(retain=descent.whole_batch(place.clean_proxy))
  basis = method.prepare(place.key, mix, given)
  made = [
    method.solve(place.key, mix, given, basis, hyper)[0]
    for hyper in method.grid
  ]
  scores = [arms.accuracy(one, world, v, place.clean_proxy) for v in made]
  best = int(np.argmax(scores))
  return made[best], SCALES[best]


def best_alpha(
  one: arms.Arm, world: scene.World, mix: Variables, tau: Any, grid: Any
) -> float:
  """The alpha with the best test accuracy: a diagnosis, never a choice."""
  test = world.dataset.test

  def hits(features, logits):
    return jnp.mean((jnp.argmax(logits, -1) == test.label).astype(jnp.float32))

  image = jit.compile_cheaply(world.inputs.eval)(test.image, None)
  alphas = jnp.asarray(grid, jnp.float32)
  found = alpha_search.curve(one.model, mix, tau, image, alphas, hits)
  return float(grid[int(np.argmax(found))])


def cell(
  one: arms.Arm,
  world: scene.World,
  place: scene.Scene,
  tau_epochs: int,
  tau_rates: tuple[float, ...],
) -> list[dict]:
  """All rows of one arm, noise and seed; 'cuts x0.1' is CUTS at a tenth."""
  start = one.start(rng.fold_in(place.key, 'init'))
  fit = lambda name, v, batch, epochs: arms.fitted(
    rng.fold_in(place.key, name), one, world, v, batch, epochs, name
  )
  mix = fit('corrupted', start, place.train, one.epochs)
  proxies = place.proxy.label.shape[1]
  every: dict[str, tuple[Variables, dict]] = {'corrupted': (mix, {})}
  for factor in tau_rates:
    unlearn = algorithm.cuts(
      Network(one.model, world.inputs),
      training=Training(
        optimizer=arms.adam(factor * one.rate),
        steps=tau_epochs * train.steps_per_epoch(proxies, arms.BATCH),
        batch_size=arms.BATCH,
      ),
    )
    _, info = unlearn(rng.fold_in(place.key, 'unlearn'), mix, place.proxy)
    found = {
      'cuts': float(info['alpha']),
      'cuts_best_alpha': best_alpha(
        one, world, mix, info['tau'], np.asarray(info['curve']['alpha'])
      ),
    }
    for name, a in found.items():
      edited = stages.edited(mix, info['tau'], a)
      every[f'{name} x{factor:g}'] = edited, {'alpha': a}
  verified, scale = projected(one, world, place, mix)
  every |= {
    'sap': (verified, {'sap_scale': scale}),
    'finetune_clean_proxy': (
      fit('finetune', mix, place.clean_proxy, tau_epochs),
      {},
    ),
    'oracle': (fit('oracle', start, place.clean, one.epochs), {}),
  }
  test = world.dataset.test
  scores = {
    m: arms.accuracy(one, world, v, test) for m, (v, _) in every.items()
  }
  mixed, oracle = scores['corrupted'], scores['oracle']
  return [
    {
      'method': method,
      'test_accuracy': scores[method],
      'recovery_percent': metrics.recovery_rate(scores[method], mixed, oracle),
      **facts,
    }
    for method, (_, facts) in every.items()
  ]


def _flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--weights', required=True, help='folder of MobileNets')
  parser.add_argument('--data_dir', required=True, help='of TFDS')
  parser.add_argument('--labels_file', default='', help='CIFAR-10N as .npz')
  parser.add_argument('--noise', default='0.4', help='rates, or human')
  parser.add_argument('--arms', default=','.join(arms.ARMS[:3]))
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--side', type=int, default=64, help='pixels')
  parser.add_argument('--cut', default='', help='first layer that is trained')
  parser.add_argument('--scratch_side', type=int, default=0, help='0: --side')
  parser.add_argument('--images', type=int, default=2000)
  parser.add_argument('--test', type=int, default=2000)
  parser.add_argument('--epochs', default='5,10,20', help='to choose from')
  parser.add_argument('--tau_epochs', type=int, default=20)
  parser.add_argument('--tau_rates', default='1,0.1', help='times the rate')
  parser.add_argument('--minutes', type=float, default=30.0)
  parser.add_argument('--out', required=True)
  return parser.parse_args()


class Kept(NamedTuple):
  """What the JSON holds: settings, recipe of each arm, rows."""

  settings: dict[str, Any]
  recipes: dict[str, Any]
  rows: list[dict]


def load(flags: argparse.Namespace) -> Kept:
  """What earlier runs left, of the same settings."""
  path = pathlib.Path(flags.out)
  names = (
    *('side', 'cut', 'scratch_side'),
    *('images', 'test', 'epochs', 'tau_epochs', 'tau_rates'),
  )
  asked = {name: getattr(flags, name) for name in names}
  if not path.exists():
    return Kept(asked, {}, [])
  kept = files.read_json(path)
  errors.check(
    kept['settings'] == asked,
    f'--out {path} was made with {kept["settings"]}; give the same, or another '
    'file',
  )
  return Kept(asked, kept['recipes'], kept['rows'])


def save(flags: argparse.Namespace, kept: Kept) -> None:
  """Everything so far, with where it comes from."""
  about = {
    'command': 'python experiments/pretrained_vs_scratch.py --weights=DIR '
    f'--data_dir=DIR --noise={flags.noise} --seeds={flags.seeds} '
    f'--arms={flags.arms} --side={flags.side} --cut={flags.cut} '
    f'--scratch_side={flags.scratch_side} --images={flags.images} '
    f'--epochs={flags.epochs} --tau_rates={flags.tau_rates} --out=FILE',
    'commit': provenance.git_commit(
      pathlib.Path(__file__).resolve().parents[1]
    ),
    'device': jax.devices()[0].device_kind,
  }
  whole = {
    'about': about,
    **kept._asdict(),
    'summary': table.summary(kept.rows),
  }
  files.write_json(pathlib.Path(flags.out), whole)


def work(
  flags: argparse.Namespace, kept: Kept, noise: str, seed: int, name: str
) -> None:
  """One cell, after the choice of its arm's recipe if it is the first."""
  side = flags.side if name in arms.CUT else flags.scratch_side or flags.side
  one = arms.arm(name, pathlib.Path(flags.weights), side, flags.cut)

  def seen(noise: str, seed: int) -> tuple[scene.World, scene.Scene]:
    config = settings(flags, noise, seed, side)
    world = scene.load_world(config)
    return arms.lowered(one, world, scene.draw_scene(config, world, seed))

  if name not in kept.recipes:
    world, place = seen('0.4', TUNING_SEED)
    epochs = tuple(map(int, flags.epochs.split(',')))
    kept.recipes[name] = arms.tuned(one, world, place, epochs)
    save(flags, kept)
  recipe = kept.recipes[name]
  one = one._replace(rate=recipe['rate'], epochs=recipe['epochs'])
  world, place = seen(noise, seed)
  about = {'noise': noise, 'seed': seed, 'arm': name}
  rates = tuple(map(float, flags.tau_rates.split(',')))
  found = cell(one, world, place, flags.tau_epochs, rates)
  kept.rows.extend(about | row for row in found)
  save(flags, kept)


def main() -> int:
  """Runs the cells that are not in the JSON yet, until the time is up."""
  flags = _flags()
  deadline = time.monotonic() + 60 * flags.minutes
  kept = load(flags)
  wanted = [
    (noise, seed, name)
    for noise in flags.noise.split(',')
    for seed in map(int, flags.seeds.split(','))
    for name in flags.arms.split(',')
  ]
  with progress.bar('cells', len(wanted), unit='cells') as advance:
    for noise, seed, name in wanted:
      done = {(row['noise'], row['seed'], row['arm']) for row in kept.rows}
      if (noise, seed, name) not in done:
        if time.monotonic() > deadline:
          print('the time is up: the same command continues', file=sys.stderr)
          return 0
        work(flags, kept, noise, seed, name)
      advance(1)
  table.show(table.summary(kept.rows))
  return 0


if __name__ == '__main__':
  shell.run_script(main)
