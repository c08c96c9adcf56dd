"""Data, networks and task vectors of `simplex_unlearning.py`."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import networks
from cmu_jax.core import rng
from cmu_jax.core.types import (
  Batch,
  Dataset,
  InputStep,
  Model,
  Network,
  Training,
  Variables,
)
from cmu_jax.data import input_step, sources, splits
from cmu_jax.methods import task_vectors
from cmu_jax.methods.task_vectors import FineTuneConfig
from cmu_jax.networks import clip
from cmu_jax.networks.clip import heads, prompts, zero_shot
from cmu_jax.training import optimizers, train

CONFIGS = (
  FineTuneConfig(1e-3, 0.0, 4, 0.0, 'none', 1),
  FineTuneConfig(5e-4, 0.1, 8, 0.1, 'none', 2),
  FineTuneConfig(2e-3, 0.0, 2, 0.0, 'crop', 3),
  FineTuneConfig(1e-3, 0.1, 8, 0.05, 'crop', 4),
  FineTuneConfig(5e-4, 0.0, 4, 0.0, 'crop', 5),
  FineTuneConfig(2e-3, 0.1, 4, 0.1, 'none', 6),
  FineTuneConfig(1e-3, 0.01, 2, 0.05, 'none', 7),
  FineTuneConfig(3e-3, 0.0, 2, 0.1, 'crop', 8),
)
# Network, epochs, and images for training and validation and for test (None:
# all); validation takes a quarter of the first, or `held`.
SETTINGS = {
  'digits': {
    'patch': 4, 'width': 32, 'depth': 2, 'epochs': 40, 'limit': None,
    'test': None, 'held': 0.25, 'piece': 360,
  },
  'mnist': {
    'patch': 7, 'width': 32, 'depth': 2, 'epochs': 15, 'limit': 8000,
    'test': 2000, 'held': 0.0625, 'piece': 500,
  },
  'cifar10': {
    'patch': 4, 'width': 96, 'depth': 4, 'epochs': 30, 'limit': 20000,
    'test': 2000, 'held': 0.1, 'piece': 1000,
  },
  # For a CPU, with --source cifar10.
  'cifar10_small': {
    'patch': 8, 'width': 48, 'depth': 2, 'epochs': 20, 'limit': 6000,
    'test': 2000, 'held': 0.1, 'piece': 600,
  },
}  # fmt: skip


class Sets(NamedTuple):
  """Images by purpose, and their network input in pieces of one size."""

  val: Batch
  test: Batch
  val_image: Any
  test_image: Any


class Place(NamedTuple):
  """What all seeds share; `start` is None where a network is trained here."""

  found: Dataset
  model: Model
  steps: dict[str, InputStep]
  epochs: int
  start: Variables | None


def world(flags) -> Place:
  """Data, network and input steps, shared by all seeds."""
  chosen = SETTINGS[flags.dataset]
  source = flags.source or flags.dataset
  found = sources.load(source, data_dir=flags.data_dir or None)
  some = lambda batch, n: splits.take(batch, np.arange(len(batch.label))[:n])
  limit = 400 if flags.smoke else chosen['limit']
  found = found._replace(
    train=some(found.train, limit), test=some(found.test, chosen['test'])
  )
  shape = found.train.image.shape[1:]
  epochs = 2 if flags.smoke else chosen['epochs']
  if flags.weights:
    return shipped(flags, found, epochs)
  model = networks.make(
    'vit_tiny', found.num_classes, shape,
    patch=chosen['patch'], width=chosen['width'], depth=chosen['depth'],
    heads=4,
  )  # fmt: skip
  pixels = {'mean': (0.3,) * shape[2], 'std': (0.35,) * shape[2]}
  return Place(found, model, input_steps(**pixels), epochs, None)


def input_steps(mean, std) -> dict[str, InputStep]:
  """Input steps by the names that the ways to fine-tune use."""
  make = functools.partial(input_step.make, mean, std)
  return {'none': make(), 'crop': make(pad=1)}


def shipped(flags, found: Dataset, epochs: int) -> Place:
  """A CLIP of somebody's, its head made of the class names."""
  clip_ = clip.load(flags.weights, flags.model)
  names = found.class_names
  head = heads.make(clip_, names, prompts.for_dataset(flags.dataset))
  both = zero_shot.variables(clip_.variables, head.kernel)
  base = zero_shot.model(clip_.sizes, len(names))
  grey = lambda x: jnp.repeat(x, 3, -1) if x.shape[-1] == 1 else x
  colour = lambda batch: batch._replace(image=grey(batch.image))
  # The head is no parameter: what is averaged are image towers.
  whole = lambda v: v._replace(batch_stats=both.batch_stats)
  model = base._replace(apply=lambda v, x: base.apply(whole(v), x))
  return Place(
    found._replace(train=colour(found.train), test=colour(found.test)),
    model,
    input_steps(*zero_shot.normalisation(clip_.sizes.kind)),
    epochs,
    both,
  )


def pieces(image, chosen):
  """Images in pieces of one size, so that one compilation serves them all."""
  size = chosen['piece']
  fill = [(0, -len(image) % size)] + [(0, 0)] * (image.ndim - 1)
  return jnp.pad(image, fill, 'edge').reshape(-1, size, *image.shape[1:])


@functools.lru_cache(maxsize=4)
def recipe(steps):
  """The optimiser of the first training, one object for all seeds."""
  return optimizers.adamw(
    optimizers.warmup_cosine_schedule(2e-3, steps // 20, 0, steps)
  )


def trained(place: Place, kept: Batch, seed: int) -> Variables:
  """A small vision transformer that knows all classes."""
  steps = place.steps
  start = jax.jit(place.model.init)(
    rng.fold_in(seed, 'init'), steps['none'].eval(kept.image[:1], None)
  )
  count = place.epochs * train.steps_per_epoch(len(kept.label), 64)
  return train.fit(
    rng.fold_in(seed, 'train'),
    Network(place.model, steps['crop']),
    start,
    kept,
    training=Training(optimizer=recipe(count), steps=count, batch_size=64),
    title=f'seed {seed}',
  ).variables


def vectors(flags, place, seed):
  """What a seed starts from: the network, task vectors, images by purpose."""
  found, model, steps = place.found, place.model, place.steps
  classes, chosen = found.num_classes, SETTINGS[flags.dataset]
  forget = np.array([seed % 5, seed % 5 + 5])
  held, kept = splits.hold_out(
    rng.fold_in(seed, 'validation'), found.train, chosen['held'], classes
  )
  before = place.start or trained(place, kept, seed)
  gone = np.flatnonzero(np.isin(np.asarray(kept.label), forget))
  configs = [
    one._replace(seed=100 * seed + one.seed, lr=flags.rate * one.lr)
    for one in (CONFIGS[:3] if flags.smoke else CONFIGS)
  ]
  taus = task_vectors.diversify(
    model,
    before,
    splits.take(kept, gone),
    configs,
    steps,
    frozen=('head',),
  )
  cut = lambda batch: pieces(steps['none'].eval(batch.image, None), chosen)
  sets = Sets(held, found.test, cut(held), cut(found.test))
  return before.params, taus, sets, forget
