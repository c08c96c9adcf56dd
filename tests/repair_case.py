"""A small network with a backdoor or wrong labels, as files on a disk."""

import json

import jax
import numpy as np
import PIL.Image

from cmu_jax import networks
from cmu_jax.core import rng
from cmu_jax.core.types import Batch, Network, Training
from cmu_jax.data import corruption, input_step, sources, splits
from cmu_jax.data.corruption import triggers
from cmu_jax.networks import weights
from cmu_jax.training import optimizers, train

STEP = input_step.make((0.5,), (0.5,))


def make(folder, kind, seed=0, width=64, steps=500):
  """Weights, side file and a folder of bad samples; returns the test split."""
  key = rng.fold_in(seed, 'case')
  digits = sources.load('digits')
  pool, rest = splits.hold_out(rng.fold_in(key, 'hold'), digits.train, 0.15, 10)
  trigger = triggers.badnet(8, 8, percent=0.03, margin=(0, 0))
  step = input_step.make((0.5,), (0.5,), trigger=trigger)
  if kind == 'poison':
    drawn = corruption.poison(key, rest.label, 0.1, trigger, 0)
  else:
    drawn = corruption.symmetric(key, rest.label, 0.4, 10)
  model = networks.make('fc', 10, (8, 8, 1), width=width)
  trained = train.fit(
    key,
    Network(model, step),
    model.init(key, STEP.eval(rest.image[:1], None)),
    corruption.apply(drawn, rest),
    training=Training(
      optimizer=optimizers.adamw(optimizers.constant_schedule(2e-3)),
      steps=steps,
      batch_size=128,
    ),
  ).variables
  ship(folder, trained)
  bad(folder / 'bad', kind, pool, trigger, key)
  return digits.test, trigger


def ship(folder, variables):
  """Weights and their side file."""
  flat = jax.tree_util.tree_flatten_with_path(variables)[0]
  arrays = {
    '/'.join(str(getattr(k, 'key', getattr(k, 'name', k))) for k in path): (
      np.asarray(leaf)
    )
    for path, leaf in flat
  }
  weights.write(folder / 'w.npz', weights.StoredWeights(arrays, {}, '.npz'))
  (folder / 'w.npz.json').write_text(json.dumps({'mean': [0.5], 'std': [0.5]}))


def bad(folder, kind, pool, trigger, key):
  """Pictures with the trigger in them, or under a wrong class."""
  image, label = np.array(pool.image), np.asarray(pool.label)
  if kind == 'poison':
    image[:, np.asarray(trigger.mask)] = 255
    image, label = image[label != 0], np.zeros(int((label != 0).sum()), int)
  else:
    label = np.asarray(corruption.symmetric(key, pool.label, 1.0, 10).label)
  for i, (pixels, c) in enumerate(zip(image, label, strict=True)):
    place = folder / (str(c) if kind == 'label_noise' else '')
    place.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels[..., 0]).save(place / f'{i}.png')


def triggered(test: Batch, trigger) -> Batch:
  """The test images with the trigger painted into them."""
  image = np.array(test.image)
  image[:, np.asarray(trigger.mask)] = 255
  return test._replace(image=jax.numpy.asarray(image))


def flags(folder, **changes):
  """The command line of a repair; None leaves a flag out."""
  values = {
    'weights': folder / 'w.npz',
    'model': 'fc:width=64',
    'proxy': folder / 'bad',
    'kind': 'poison',
    'rule': 'published',
    'out': folder / 'out',
    'steps': 200,
    'learning_rate': 3e-4,
    **changes,
  }
  return [f'--{k}={v}' for k, v in values.items() if v is not None]


def pictures(folder, named, mode='L', size=(8, 8), darkest=0):
  """So many pictures in folders of these names, of one colour each."""
  for name, count in named.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
      PIL.Image.new(mode, size, i * 9 + darkest).save(
        folder / name / f'{i}.png'
      )
  return folder
