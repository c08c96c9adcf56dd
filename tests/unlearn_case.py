"""A small network with pictures that it was trained on, as files on a disk."""

import numpy as np
import PIL.Image
import repair_case

from cmu_jax import networks
from cmu_jax.core import rng
from cmu_jax.core.types import Network, Training
from cmu_jax.data import sources, splits
from cmu_jax.training import optimizers, train

STEP = repair_case.STEP


def make(folder, forget=60, keep=300, steps=400, width=64):
  """Weights, side file, and folders of pictures to forget, keep and test."""
  key = rng.fold_in(0, 'unlearn case')
  digits = sources.load('digits')
  part, _ = splits.hold_out(key, digits.train, 0.3, 10)
  model = networks.make('fc', 10, (8, 8, 1), width=width)
  trained = train.fit(
    key,
    Network(model, STEP),
    model.init(key, STEP.eval(part.image[:1], None)),
    part,
    training=Training(
      optimizer=optimizers.adamw(optimizers.constant_schedule(2e-3)),
      steps=steps,
      batch_size=64,
    ),
  ).variables
  repair_case.ship(folder, trained)
  pictures(folder / 'forget', part, range(forget))
  pictures(folder / 'retain', part, range(forget, forget + keep))
  pictures(folder / 'test', digits.test, range(200))


def pictures(folder, batch, rows):
  """Saves rows of a batch in folders of their classes."""
  image, label = np.asarray(batch.image), np.asarray(batch.label)
  for i in rows:
    place = folder / str(label[i])
    place.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image[i, :, :, 0]).save(place / f'{i:04}.png')
