"""The networks of pretrained_vs_scratch.py, and how they are trained."""

import functools
import pathlib
from typing import Any, NamedTuple

import folded
import jax
import numpy as np
import optax
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core import errors, jit, rng
from cmu_jax.core.types import (
  Batch,
  InputStep,
  Model,
  Network,
  Training,
  Variables,
)
from cmu_jax.data import splits
from cmu_jax.networks import classifier
from cmu_jax.studies.cuts import scene
from cmu_jax.training import metrics, optimizers, train

ARMS = ('pretrained', 'folded_scratch', 'norm_scratch', 'random_below')
# Of these only what comes after --cut is trained, if that is given.
CUT = ('pretrained', 'random_below')
RATES = (3e-4, 1e-3, 3e-3)
BATCH = 64
AS_IT_IS = InputStep(lambda key, image, stamp: image, lambda image, _: image)


class Arm(NamedTuple):
  """A network, how it starts and how it is trained.

  Attributes:
    model: the network.
    start: key -> variables.
    rate: learning rate of AdamW.
    epochs: of the training on CIFAR-10.
    below: key -> function of normalised images that stays as it is; None where
      the whole network is trained.
  """

  model: Model
  start: Any
  rate: float = 0.0
  epochs: int = 0
  below: Any = None


@functools.cache
def arm(name: str, folder: pathlib.Path, side: int, cut: str) -> Arm:
  """One of the networks, untuned."""
  image = jnp.zeros((1, side, side, 3))
  if name == 'norm_scratch':
    model = networks.make('mobilenet_v1', 10, (side, side, 3), width=0.25)
    return Arm(model, lambda key: jit.compile_cheaply(model.init)(key, image))
  path = folder / 'mobilenet_v1_025_imagenet.spec.json'
  spec = folded.read_spec(path)
  _, stored = folded.load(path, folder / 'mobilenet_v1_025_imagenet.npz')
  if cut and name in CUT:
    return _cut(name, spec, stored, side, cut)
  model = networks.bind(folded.build(spec, 10))

  def start(key: jax.Array) -> Variables:
    drawn = jit.compile_cheaply(model.init)(key, image)
    if name != 'pretrained':
      return drawn
    return drawn._replace(params=drawn.params | {'body': stored.params['body']})

  return Arm(model, start)


def _cut(
  name: str, spec: folded.NetworkSpec, stored: Variables, side: int, cut: str
) -> Arm:
  """The layers from `cut` on as a network, and those before it."""
  names = [layer.name for layer in spec.body]
  errors.check(cut in names, f'--cut {cut} is no layer; give one of {names}')
  at, real = names.index(cut), name == 'pretrained'
  lower, upper = map(folded.FoldedBody, (spec.body[:at], spec.body[at:]))
  model = networks.bind(classifier.Classifier(upper, 10))
  image = jnp.zeros((1, side, side, 3))

  def below(key: jax.Array) -> Any:
    drawn = jit.compile_cheaply(lower.init)(key, image, False)['params']
    params = {n: stored.params['body'][n] for n in drawn} if real else drawn
    return lambda x: lower.apply({'params': params}, x, False)

  def start(key: jax.Array) -> Variables:
    seen = jax.eval_shape(below(key), image)
    drawn = jit.compile_cheaply(model.init)(key, jnp.zeros(seen.shape))
    if not real:
      return drawn
    body = {n: stored.params['body'][n] for n in drawn.params['body']}
    return drawn._replace(params=drawn.params | {'body': body})

  return Arm(model, start, below=below)


def lowered(
  one: Arm, world: scene.World, place: scene.Scene
) -> tuple[scene.World, scene.Scene]:
  """The same data as the trained layers see them: computed once, and kept."""
  if one.below is None:
    return world, place
  run = one.below(rng.fold_in(place.key, 'below'))
  step = jax.jit(lambda raw: run(world.inputs.eval(raw, None)))

  def seen(batch: Any) -> Any:
    raw, size = batch.image, 200
    parts = [step(raw[at : at + size]) for at in range(0, len(raw), size)]
    return batch._replace(image=jnp.concatenate(parts))

  whole = world.dataset
  return world._replace(
    dataset=whole._replace(test=seen(whole.test)),
    model=one.model,
    inputs=AS_IT_IS,
  ), place._replace(
    train=seen(place.train),
    clean=seen(place.clean),
    proxy=seen(place.proxy),
    clean_proxy=seen(place.clean_proxy),
  )


@functools.cache
def adam(rate: float) -> optax.GradientTransformation:
  """One object a rate, so that trainings share their compilations."""
  return optimizers.adamw(optimizers.constant_schedule(rate))


def fitted(
  key: jax.Array,
  one: Arm,
  world: scene.World,
  start: Variables,
  batch: Batch,
  epochs: int,
  title: str,
) -> Variables:
  """AdamW at the arm's rate."""
  steps = epochs * train.steps_per_epoch(batch.label.shape[0], BATCH)
  return train.fit(
    key,
    Network(one.model, world.inputs),
    start,
    batch,
    training=Training(optimizer=adam(one.rate), steps=steps, batch_size=BATCH),
    title=title,
  ).variables


def accuracy(one: Arm, world: scene.World, v: Variables, batch: Batch) -> float:
  """On a split, without augmentation."""
  seen = metrics.predict(Network(one.model, world.inputs), v, batch, 256)
  return float(np.mean(seen == np.asarray(batch.label)))


def tuned(one: Arm, world: scene.World, place: scene.Scene, epochs) -> dict:
  """Rate and epochs with the best accuracy on a tenth of the clean images."""
  key = rng.fold_in(place.key, 'tuning')
  held, rest = splits.hold_out(key, place.clean, 0.1, 10)
  found = []
  for rate in RATES:
    v, before, this = one.start(key), 0, one._replace(rate=rate)
    for until in epochs:
      title = f'tuning: rate {rate:g}, epochs {before} to {until}'
      turn = rng.fold_in(key, str(until))
      v = fitted(turn, this, world, v, rest, until - before, title)
      score = accuracy(this, world, v, held)
      found.append({'rate': rate, 'epochs': until, 'validation': score})
      before = until
  best = max(found, key=lambda row: row['validation'])
  return {**best, 'tried': found}
