"""The three networks of pretrained_vs_scratch.py, and how they are trained."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp

from cmu_jax import (
  jitting,
  metrics,
  models,
  optimizers,
  rng,
  scene,
  schedules,
  splits,
  train,
)
from cmu_jax.models import folded, folded_spec
from cmu_jax.types import Batch, Model, Variables

ARMS = ('pretrained', 'folded_scratch', 'norm_scratch')
RATES = (3e-4, 1e-3, 3e-3)
BATCH = 64


class Arm(NamedTuple):
  """A network, how it starts and how it is trained.

  Attributes:
    model: the network.
    start: key -> variables.
    rate: learning rate of AdamW.
    epochs: of the training on CIFAR-10.
  """

  model: Model
  start: Any
  rate: float = 0.0
  epochs: int = 0


def arm(name: str, folder: pathlib.Path, side: int) -> Arm:
  """One of the three networks, untuned."""
  image = jnp.zeros((1, side, side, 3))
  if name == 'norm_scratch':
    model = models.make('mobilenet_v1', 10, (side, side, 3), width=0.25)
    return Arm(model, lambda key: jitting.once(model.init)(key, image))
  spec = folder / 'mobilenet_v1_025_imagenet.spec.json'
  _, stored = folded.from_spec(spec, folder / 'mobilenet_v1_025_imagenet.npz')
  model = models.bind(folded.network(folded_spec.read(spec), 10))

  def start(key: jax.Array) -> Variables:
    drawn = jitting.once(model.init)(key, image)
    if name == 'folded_scratch':
      return drawn
    return drawn._replace(params=drawn.params | {'body': stored.params['body']})

  return Arm(model, start)


@functools.cache
def adam(rate: float) -> optax.GradientTransformation:
  """One object a rate, so that trainings share their compilations."""
  return optimizers.adamw(schedules.constant(rate))


def fitted(
  key: jax.Array,
  one: Arm,
  world: scene.Stage,
  start: Variables,
  batch: Batch,
  epochs: int,
  title: str,
) -> Variables:
  """AdamW at the arm's rate."""
  steps = epochs * train.steps_per_epoch(batch.label.shape[0], BATCH)
  return train.fit(
    key,
    one.model,
    start,
    batch,
    optimizer=adam(one.rate),
    steps=steps,
    batch_size=BATCH,
    inputs=world.inputs,
    title=title,
  ).variables


def accuracy(one: Arm, world: scene.Stage, v: Variables, batch: Batch) -> float:
  """On a split, without augmentation."""
  seen = metrics.predict(one.model, world.inputs, v, batch, 256)
  return float(np.mean(seen == np.asarray(batch.label)))


def tuned(one: Arm, world: scene.Stage, place: scene.Scene, epochs) -> dict:
  """Rate and epochs with the best accuracy on a tenth of the clean images."""
  key = rng.named(place.key, 'tuning')
  held, rest = splits.hold_out(key, place.clean, 0.1, 10)
  found = []
  for rate in RATES:
    v, before, this = one.start(key), 0, one._replace(rate=rate)
    for until in epochs:
      title = f'tuning: rate {rate:g}, epochs {before} to {until}'
      turn = rng.named(key, str(until))
      v = fitted(turn, this, world, v, rest, until - before, title)
      score = accuracy(this, world, v, held)
      found.append({'rate': rate, 'epochs': until, 'validation': score})
      before = until
  best = max(found, key=lambda row: row['validation'])
  return {**best, 'tried': found}
