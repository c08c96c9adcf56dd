"""A trained CIFAR-10 ResNet-20 of someone else: corrupted here, then repaired.

For each kind and seed: the shipped weights are fine-tuned on a part of CIFAR-10
that is mislabelled (40 % symmetric) or backdoored (10 %, the trigger of CUTS);
the result and a folder of bad samples from other images go through
`cmu_jax.commands.repair`, as files; the test split is looked at before and
after.

  python experiments/repair_resnet20.py --weights=FILE --data_dir=DIR \
    --out=repair_resnet20.json --minutes=30

Finished cells are kept in the JSON: the same command again continues.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
import PIL.Image
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.commands import repair, shell
from cmu_jax.core import files, provenance, rng
from cmu_jax.core.types import Batch, Network, Training, Variables
from cmu_jax.data import corruption, input_step, sources, splits
from cmu_jax.data.corruption import triggers
from cmu_jax.networks import weights
from cmu_jax.training import metrics, optimizers, train

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TARGET = 0


def corrupted(
  key: jax.Array, kind: str, rest: Batch, start: Variables, steps: int
) -> Variables:
  """The network fine-tuned on a corrupted part of the training split."""
  trigger = triggers.badnet(32, 32, percent=0.03, margin=(10, 6))
  if kind == 'poison':
    drawn = corruption.poison(key, rest.label, 0.1, trigger, TARGET)
  else:
    drawn = corruption.symmetric(key, rest.label, 0.4, 10)
  return train.fit(
    key,
    Network(
      MODEL, input_step.make(MEAN, STD, trigger=trigger, pad=4, flip=True)
    ),
    start,
    corruption.apply(drawn, rest),
    training=Training(
      optimizer=optimizers.adamw(optimizers.constant_schedule(1e-3)),
      steps=steps,
      batch_size=128,
    ),
    title=f'corrupting: {kind}',
  ).variables


def bad_samples(
  key: jax.Array, kind: str, pool: Batch, folder: pathlib.Path
) -> None:
  """Pictures with the trigger in them, or in the folders of wrong classes."""
  image, label = np.array(pool.image), np.asarray(pool.label)
  if kind == 'poison':
    image = stamped(image)[label != TARGET]
    where = [''] * len(image)
  else:
    wrong = corruption.symmetric(key, pool.label, 1.0, 10).label
    where = [str(c) for c in np.asarray(wrong)]
  pictures(image, where, folder)


def pictures(image: np.ndarray, where: list[str], folder: pathlib.Path) -> None:
  """Saves images to the folders named in `where`."""
  for i, (pixels, name) in enumerate(zip(image, where, strict=True)):
    (folder / name).mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(folder / name / f'{i:05}.png')


def repaired(
  folder: pathlib.Path,
  kind: str,
  out: str,
  flags: argparse.Namespace,
  **more: str,
) -> tuple[Variables, float | None, float]:
  """The repair of the files in a folder: network, alpha, seconds."""
  began = time.monotonic()
  results = repair.repair(
    weights=str(folder / 'w.npz'),
    model='resnet20',
    proxy=str(folder / 'bad'),
    kind=kind,
    out=str(folder / out),
    steps=flags.repair_steps,
    **more,
  )
  after = weights.read(folder / out / results['weights']).arrays
  fixed = weights.fit(after, TEMPLATE, NAMES, 'repaired')[0]
  return fixed, results['alpha'], round(time.monotonic() - began, 1)


def stamped(image: np.ndarray) -> np.ndarray:
  """All images with the trigger of CUTS painted in."""
  trigger = triggers.badnet(32, 32, percent=0.03, margin=(10, 6))
  painted = image.copy()
  painted[:, np.asarray(trigger.mask)] = 255
  return painted


def score(variables: Variables, test: Batch, kind: str) -> dict[str, Any]:
  """Accuracy, of the target class too, and attack success on the test split."""
  label = np.asarray(test.label)
  seen = metrics.predict(Network(MODEL, STEP), variables, test, 500)
  counts = metrics.confusion(label, seen, 10)
  found = {
    'test_accuracy': metrics.accuracy(counts),
    'target_class_accuracy': None,
    'attack_success_rate': None,
  }
  if kind == 'poison':
    triggered = Batch(jnp.asarray(stamped(np.asarray(test.image))), test.label)
    hit = metrics.predict(Network(MODEL, STEP), variables, triggered, 500)
    found['target_class_accuracy'] = metrics.class_accuracy(counts)[TARGET]
    found['attack_success_rate'] = metrics.attack_success(label, hit, TARGET)
  return found


def repairs(
  key: jax.Array,
  kind: str,
  broken: Variables,
  pool: Batch,
  ordinary: Batch,
  flags: argparse.Namespace,
) -> dict[str, tuple[Variables, float | None, float]]:
  """All repairs of a network, each through files."""
  stored = weights.read(flags.weights)
  layout = weights.fit(stored.arrays, TEMPLATE, NAMES, 'weights')[1]
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    arrays = weights.put_back(broken, stored.arrays, layout)
    weights.write(folder / 'w.npz', stored._replace(arrays=arrays))
    side = {'mean': MEAN, 'std': STD}
    files.write_json(folder / 'w.npz.json', side)
    bad_samples(rng.fold_in(key, 'b'), kind, pool, folder / 'bad')
    made = {'repair': repaired(folder, kind, 'out', flags)}
    if kind == 'poison':
      pictures(
        np.asarray(ordinary.image),
        [''] * ordinary.label.shape[0],
        folder / 'ordinary',
      )
      made['repair_ordinary'] = repaired(
        folder, kind, 'out2', flags, ordinary=str(folder / 'ordinary')
      )
    else:
      made['repair_published'] = repaired(
        folder, kind, 'out2', flags, rule='published'
      )
  return made


def cell(kind: str, seed: int, flags: argparse.Namespace) -> list[dict]:
  """All rows of one kind and seed."""
  key = rng.fold_in(seed, 'repair_resnet20', kind)
  cifar = sources.load('cifar10', data_dir=flags.data_dir)
  pool, rest = splits.hold_out(
    rng.fold_in(key, 'pool'), cifar.train, flags.samples / 50_000, 10
  )
  part, _ = splits.hold_out(
    rng.fold_in(key, 'part'), rest, flags.part / rest.label.shape[0], 10
  )
  test = splits.take(cifar.test, np.arange(flags.test))
  stored = weights.read(flags.weights)
  start, _ = weights.fit(stored.arrays, TEMPLATE, NAMES, 'weights')
  broken = corrupted(rng.fold_in(key, 'c'), kind, part, start, flags.steps)
  # Pictures without the trigger, of which nothing else is known.
  ordinary, _ = splits.hold_out(
    rng.fold_in(key, 'o'), rest, flags.samples / rest.label.shape[0], 10
  )
  tuned = train.fit(
    rng.fold_in(key, 'f'),
    Network(MODEL, STEP),
    broken,
    pool,
    training=Training(
      optimizer=optimizers.adamw(optimizers.constant_schedule(1e-4)),
      steps=flags.repair_steps or 200,
      batch_size=128,
    ),
    title='fine-tuning on clean labels',
  ).variables
  made = repairs(key, kind, broken, pool, ordinary, flags)
  every = {
    'as_shipped': start,
    'corrupted': broken,
    **{name: one[0] for name, one in made.items()},
    'finetune_clean_proxy': tuned,
  }
  rows = []
  for method, variables in every.items():
    row = {'kind': kind, 'seed': seed, 'method': method}
    _, row['alpha'], row['seconds'] = made.get(method, (None, None, None))
    rows.append({**row, **score(variables, test, kind)})
  return rows


MODEL = networks.make('resnet20', 10, (32, 32, 3))
TEMPLATE = jax.eval_shape(
  MODEL.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
)
NAMES = networks.REGISTRY['resnet20'].torch_name
STEP = input_step.make(MEAN, STD)


def _flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--weights', required=True)
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--kinds', default='poison,label_noise')
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--part', type=int, default=4000)
  parser.add_argument('--samples', type=int, default=500)
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument(
    '--repair_steps', type=int, help='default: those of repair'
  )
  parser.add_argument('--test', type=int, default=10_000, help='test images')
  parser.add_argument('--minutes', type=float, default=30.0)
  parser.add_argument('--out', required=True)
  return parser.parse_args()


def main() -> int:
  """Runs the cells that are not in the JSON yet, until the time is up."""
  flags = _flags()
  deadline = time.monotonic() + 60 * flags.minutes
  path = pathlib.Path(flags.out)
  settings = {
    k: getattr(flags, k) for k in ('part', 'samples', 'steps', 'repair_steps')
  }
  rows = files.read_json(path)['rows'] if path.exists() else []
  for kind in flags.kinds.split(','):
    for seed in map(int, flags.seeds.split(',')):
      if any((r['kind'], r['seed']) == (kind, seed) for r in rows):
        continue
      if time.monotonic() > deadline:
        print('the time is up: the same command continues', file=sys.stderr)
        return 0
      rows += cell(kind, seed, flags)
      commit = provenance.git_commit(
        pathlib.Path(__file__).resolve().parents[1]
      )
      about = {
        'command': 'python experiments/repair_resnet20.py --weights=FILE '
        '--data_dir=DIR --out=FILE',
        'commit': commit,
        'test_images': flags.test,
        **settings,
      }
      files.write_json(path, {'about': about, 'rows': rows})
      print(json.dumps(rows[-4:], indent=1))
  return 0


if __name__ == '__main__':
  shell.run_script(main)
