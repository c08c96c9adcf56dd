"""The networks of pretrained_vs_scratch.py, and their training."""

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
from cmu_jax.studies.cuts import scene as scenes
from cmu_jax.training import metrics, optimizers, train

ARMS = ('pretrained', 'folded_scratch', 'norm_scratch', 'random_below')
# With --cut only the layers from it on are trained, in these arms.
CUT = ('pretrained', 'random_below')
RATES = (3e-4, 1e-3, 3e-3)
BATCH = 64
IDENTITY_STEP = InputStep(
  lambda key, image, has_trigger: image, lambda image, has_trigger: image
)


class Arm(NamedTuple):
  """A network, its start and its training.

  Attributes:
    model: the network.
    start: key -> variables.
    rate: learning rate of AdamW.
    epochs: of the training on CIFAR-10.
    below: key -> function of normalised images, the layers that stay as they
      are; None if the whole network is trained.
  """

  model: Model
  start: Any
  rate: float = 0.0
  epochs: int = 0
  below: Any = None


@functools.cache
def make_arm(name: str, folder: pathlib.Path, side: int, cut: str) -> Arm:
  """Makes a network, without its rate and epochs."""
  image = jnp.zeros((1, side, side, 3))
  if name == 'norm_scratch':
    model = networks.make('mobilenet_v1', 10, (side, side, 3), width=0.25)
    return Arm(model, lambda key: jit.compile_cheaply(model.init)(key, image))
  path = folder / 'mobilenet_v1_025_imagenet.spec.json'
  spec = folded.read_spec(path)
  _, stored = folded.load(path, folder / 'mobilenet_v1_025_imagenet.npz')
  if cut and name in CUT:
    return _cut_arm(name, spec, stored, side, cut)
  model = networks.bind(folded.build(spec, 10))

  def start(key: jax.Array) -> Variables:
    random = jit.compile_cheaply(model.init)(key, image)
    if name != 'pretrained':
      return random
    return random._replace(
      params=random.params | {'body': stored.params['body']}
    )

  return Arm(model, start)


def _cut_arm(
  name: str, spec: Any, stored: Variables, side: int, cut: str
) -> Arm:
  """The layers from `cut` on as a network, and the layers before it."""
  names = [layer.name for layer in spec.body]
  errors.check(cut in names, f'--cut {cut} is no layer; give one of {names}')
  position, pretrained = names.index(cut), name == 'pretrained'
  lower, upper = map(
    folded.FoldedBody, (spec.body[:position], spec.body[position:])
  )
  model = networks.bind(classifier.Classifier(upper, 10))
  image = jnp.zeros((1, side, side, 3))
  stored_layers = lambda names: {n: stored.params['body'][n] for n in names}

  def below(key: jax.Array) -> Any:
    params = jit.compile_cheaply(lower.init)(key, image, False)['params']
    params = stored_layers(params) if pretrained else params
    return lambda x: lower.apply({'params': params}, x, False)

  def start(key: jax.Array) -> Variables:
    features = jax.eval_shape(below(key), image)
    random = jit.compile_cheaply(model.init)(key, jnp.zeros(features.shape))
    if not pretrained:
      return random
    body = stored_layers(random.params['body'])
    return random._replace(params=random.params | {'body': body})

  return Arm(model, start, below=below)


def precompute_features(
  arm: Arm, world: scenes.World, scene: scenes.Scene
) -> tuple[scenes.World, scenes.Scene]:
  """Replaces images by the output of the layers that stay as they are."""
  if arm.below is None:
    return world, scene
  run = arm.below(rng.fold_in(scene.key, 'below'))
  step = jax.jit(lambda raw: run(world.inputs.eval(raw, None)))

  def with_features(batch: Any) -> Any:
    raw, size = batch.image, 200
    chunks = [step(raw[i : i + size]) for i in range(0, len(raw), size)]
    return batch._replace(image=jnp.concatenate(chunks))

  dataset = world.dataset
  return world._replace(
    dataset=dataset._replace(test=with_features(dataset.test)),
    model=arm.model,
    inputs=IDENTITY_STEP,
  ), scene._replace(
    train=with_features(scene.train),
    clean=with_features(scene.clean),
    proxy=with_features(scene.proxy),
    clean_proxy=with_features(scene.clean_proxy),
  )


# Cached, so that trainings at a rate share their compilations.
@functools.cache
def adam(rate: float) -> optax.GradientTransformation:
  """Returns AdamW at a constant rate."""
  return optimizers.adamw(optimizers.constant_schedule(rate))


def fit(
  key: jax.Array,
  arm: Arm,
  world: scenes.World,
  start: Variables,
  batch: Batch,
  epochs: int,
  title: str,
) -> Variables:
  """Trains by AdamW at the arm's rate."""
  steps = epochs * train.steps_per_epoch(batch.label.shape[0], BATCH)
  return train.fit(
    key,
    Network(arm.model, world.inputs),
    start,
    batch,
    Training(adam(arm.rate), steps, BATCH),
    train.Session(title),
  ).variables


def accuracy(
  arm: Arm, world: scenes.World, variables: Variables, batch: Batch
) -> float:
  """Computes the accuracy on a split, without augmentation."""
  predicted = metrics.predict(
    Network(arm.model, world.inputs), variables, batch, 256
  )
  return float(np.mean(predicted == np.asarray(batch.label)))


def tune(
  arm: Arm, world: scenes.World, scene: scenes.Scene, epochs: tuple[int, ...]
) -> dict:
  """Finds the rate and epochs with the best accuracy on held-out images."""
  key = rng.fold_in(scene.key, 'tuning')
  held_out, clean = splits.hold_out(key, scene.clean, 0.1, 10)
  trials = []
  for rate in RATES:
    variables, start, tuned = arm.start(key), 0, arm._replace(rate=rate)
    # A constant rate: a longer training continues the shorter one.
    for end in epochs:
      title = f'tuning: rate {rate:g}, epochs {start} to {end}'
      variables = fit(
        rng.fold_in(key, str(end)),
        tuned,
        world,
        variables,
        clean,
        end - start,
        title,
      )
      score = accuracy(tuned, world, variables, held_out)
      trials.append({'rate': rate, 'epochs': end, 'validation': score})
      start = end
  best = max(trials, key=lambda row: row['validation'])
  return {**best, 'tried': trials}
