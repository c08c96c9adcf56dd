"""A shipped CIFAR-10 ResNet-20: corrupted here, then repaired through files.

For each kind and seed: the shipped weights are fine-tuned on a part of CIFAR-10
that is mislabelled (40 % symmetric) or backdoored (10 %, the trigger of CUTS).
The result and a folder of bad samples from other images go through
`cmu_jax.repair`, as files; all networks are scored on the test split.

  python experiments/repair_resnet20.py --weights=FILE --data_dir=DIR \
    --out=repair_resnet20.json --minutes=30

The JSON keeps finished cells: the same command again continues.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time
from typing import Any, NamedTuple

import cell_runs
import jax
import numpy as np
import PIL.Image
from clip_resnet20 import MEAN, MODEL, NAMES, STD, STEP, TEMPLATE, load_shipped
from jax import numpy as jnp

from cmu_jax.commands import repair, shell
from cmu_jax.core import files, provenance, rng
from cmu_jax.core.types import Batch, InputStep, Network, Training, Variables
from cmu_jax.data import corruption, input_step, sources, splits
from cmu_jax.data.corruption import triggers
from cmu_jax.networks import weights
from cmu_jax.training import metrics, optimizers, train

TARGET = 0
TRIGGER = triggers.badnet(32, 32, percent=0.03, margin=(10, 6))


class Repair(NamedTuple):
  """A repaired network, the chosen alpha and the seconds it took."""

  variables: Variables
  alpha: float | None
  seconds: float


class Images(NamedTuple):
  """Disjoint training images of a cell.

  Attributes:
    part: for the corruption.
    pool: for the bad samples.
    ordinary: without the trigger, for repairs that take such a folder.
  """

  part: Batch
  pool: Batch
  ordinary: Batch


def fine_tune(
  key: jax.Array,
  inputs: InputStep,
  variables: Variables,
  batch: Batch,
  rate: float,
  steps: int,
  title: str,
) -> Variables:
  """Fine-tunes a network by AdamW at a constant rate."""
  optimizer = optimizers.adamw(optimizers.constant_schedule(rate))
  return train.fit(
    key,
    Network(MODEL, inputs),
    variables,
    batch,
    Training(optimizer, steps, 128),
    train.Session(title),
  ).variables


def corrupt(
  key: jax.Array, kind: str, batch: Batch, start: Variables, steps: int
) -> Variables:
  """Fine-tunes the network on a corrupted part of the training split."""
  if kind == 'poison':
    drawn = corruption.poison(key, batch.label, 0.1, TRIGGER, TARGET)
  else:
    drawn = corruption.symmetric(key, batch.label, 0.4, 10)
  return fine_tune(
    key,
    input_step.make(MEAN, STD, trigger=TRIGGER, pad=4, flip=True),
    start,
    corruption.apply(drawn, batch),
    1e-3,
    steps,
    f'corrupting: {kind}',
  )


def paint_trigger(image: np.ndarray) -> np.ndarray:
  """Paints the trigger of CUTS into all images."""
  painted = image.copy()
  painted[:, np.asarray(TRIGGER.mask)] = 255
  return painted


def write_pictures(
  image: np.ndarray, folders: list[str], root: pathlib.Path
) -> None:
  """Saves each image to its folder under `root`."""
  for i, (pixels, name) in enumerate(zip(image, folders, strict=True)):
    (root / name).mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(root / name / f'{i:05}.png')


def write_bad_samples(
  key: jax.Array, kind: str, pool: Batch, root: pathlib.Path
) -> None:
  """Saves pictures with the trigger, or in the folders of wrong classes."""
  image, label = np.array(pool.image), np.asarray(pool.label)
  if kind == 'poison':
    image = paint_trigger(image)[label != TARGET]
    folders = [''] * len(image)
  else:
    wrong = corruption.symmetric(key, pool.label, 1.0, 10).label
    folders = [str(c) for c in np.asarray(wrong)]
  write_pictures(image, folders, root)


def repair_files(
  root: pathlib.Path, kind: str, out: str, flags: Any, **options: str
) -> Repair:
  """Repairs the files in a folder."""
  began = time.monotonic()
  results = repair.repair(
    weights=str(root / 'w.npz'),
    model='resnet20',
    proxy=str(root / 'bad'),
    kind=kind,
    out=str(root / out),
    steps=flags.repair_steps,
    **options,
  )
  variables = load_shipped(str(root / out / results['weights']))
  seconds = round(time.monotonic() - began, 1)
  return Repair(variables, results['alpha'], seconds)


def repair_all(
  key: jax.Array, kind: str, broken: Variables, images: Images, flags: Any
) -> dict[str, Repair]:
  """Repairs a network in all ways, each through files."""
  stored = weights.read(flags.weights)
  layout = weights.fit(stored.arrays, TEMPLATE, NAMES, 'weights')[1]
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    arrays = weights.put_back(broken, stored.arrays, layout)
    weights.write(root / 'w.npz', stored._replace(arrays=arrays))
    files.write_json(root / 'w.npz.json', {'mean': MEAN, 'std': STD})
    write_bad_samples(rng.fold_in(key, 'b'), kind, images.pool, root / 'bad')
    repairs = {'repair': repair_files(root, kind, 'out', flags)}
    if kind == 'poison':
      ordinary = np.asarray(images.ordinary.image)
      write_pictures(ordinary, [''] * len(ordinary), root / 'ordinary')
      repairs['repair_ordinary'] = repair_files(
        root, kind, 'out2', flags, ordinary=str(root / 'ordinary')
      )
    else:
      repairs['repair_published'] = repair_files(
        root, kind, 'out2', flags, rule='published'
      )
  return repairs


def score(variables: Variables, test: Batch, kind: str) -> dict[str, Any]:
  """Computes accuracy, that of the target class, and attack success."""
  label = np.asarray(test.label)
  predicted = metrics.predict(Network(MODEL, STEP), variables, test, 500)
  counts = metrics.confusion(label, predicted, 10)
  scores = {
    'test_accuracy': metrics.accuracy(counts),
    'target_class_accuracy': None,
    'attack_success_rate': None,
  }
  if kind == 'poison':
    image = jnp.asarray(paint_trigger(np.asarray(test.image)))
    hit = metrics.predict(
      Network(MODEL, STEP), variables, Batch(image, test.label), 500
    )
    scores['target_class_accuracy'] = metrics.class_accuracy(counts)[TARGET]
    scores['attack_success_rate'] = metrics.attack_success(label, hit, TARGET)
  return scores


def measure(kind: str, seed: int, flags: argparse.Namespace) -> list[dict]:
  """Returns all rows of a kind and seed."""
  key = rng.fold_in(seed, 'repair_resnet20', kind)
  cifar = sources.load('cifar10', data_dir=flags.data_dir)
  hold_out = lambda name, batch, count: splits.hold_out(
    rng.fold_in(key, name), batch, count / batch.label.shape[0], 10
  )
  pool, remaining = splits.hold_out(
    rng.fold_in(key, 'pool'), cifar.train, flags.samples / 50_000, 10
  )
  images = Images(
    hold_out('part', remaining, flags.part)[0],
    pool,
    hold_out('o', remaining, flags.samples)[0],
  )
  test = splits.take(cifar.test, np.arange(flags.test))
  start = load_shipped(flags.weights)
  broken = corrupt(rng.fold_in(key, 'c'), kind, images.part, start, flags.steps)
  tuned = fine_tune(
    rng.fold_in(key, 'f'),
    STEP,
    broken,
    pool,
    1e-4,
    flags.repair_steps or 200,
    'fine-tuning on clean labels',
  )
  repairs = repair_all(key, kind, broken, images, flags)
  networks = {
    'as_shipped': start,
    'corrupted': broken,
    **{name: repaired.variables for name, repaired in repairs.items()},
    'finetune_clean_proxy': tuned,
  }
  rows = []
  for method, variables in networks.items():
    _, alpha, seconds = repairs.get(method, (None, None, None))
    rows.append(
      {
        'kind': kind,
        'seed': seed,
        'method': method,
        'alpha': alpha,
        'seconds': seconds,
        **score(variables, test, kind),
      }
    )
  return rows


def parse_flags() -> argparse.Namespace:
  """Reads the command line."""
  parser = cell_runs.parser(__doc__)
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


def main() -> None:
  """Runs the cells that the JSON lacks, until the time is up."""
  flags = parse_flags()
  deadline = time.monotonic() + 60 * flags.minutes
  path = pathlib.Path(flags.out)
  about = {
    'command': 'python experiments/repair_resnet20.py --weights=FILE '
    '--data_dir=DIR --out=FILE',
    'commit': provenance.git_commit(cell_runs.ROOT),
    'test_images': flags.test,
    'part': flags.part,
    'samples': flags.samples,
    'steps': flags.steps,
    'repair_steps': flags.repair_steps,
  }
  rows = files.read_json(path)['rows'] if path.exists() else []
  for kind in flags.kinds.split(','):
    for seed in cell_runs.seeds_of(flags):
      if any((row['kind'], row['seed']) == (kind, seed) for row in rows):
        continue
      if time.monotonic() > deadline:
        print('the time is up: the same command continues', file=sys.stderr)
        return
      rows += measure(kind, seed, flags)
      files.write_json(path, {'about': about, 'rows': rows})
      print(json.dumps(rows[-4:], indent=1))


if __name__ == '__main__':
  shell.run_script(main)
