"""A small network with pictures that it was trained on, as files on a disk."""

import json

import jax
import numpy as np
import PIL.Image

from cmu_jax import (
  data,
  inputs,
  models,
  optimizers,
  rng,
  schedules,
  splits,
  train,
  weights,
)

STEP = inputs.make((0.5,), (0.5,))


def make(folder, forget=60, keep=300, steps=400, width=64):
  """Weights, side file, and folders of pictures to forget, keep and test."""
  key = rng.named(0, 'unlearn case')
  digits = data.load('digits')
  part, _ = splits.hold_out(key, digits.train, 0.3, 10)
  model = models.make('fc', 10, (8, 8, 1), width=width)
  trained = train.fit(
    key,
    model,
    model.init(key, STEP.eval(part.image[:1], None)),
    part,
    optimizer=optimizers.adamw(schedules.constant(2e-3)),
    steps=steps,
    batch_size=64,
    inputs=STEP,
  ).variables
  flat = jax.tree_util.tree_flatten_with_path(trained)[0]
  arrays = {
    '/'.join(str(getattr(k, 'key', getattr(k, 'name', k))) for k in path): (
      np.asarray(leaf)
    )
    for path, leaf in flat
  }
  weights.write(folder / 'w.npz', weights.Stored(arrays, {}, '.npz'))
  (folder / 'w.npz.json').write_text(json.dumps({'mean': [0.5], 'std': [0.5]}))
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
