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
from cmu_jax.methods import task_vectors as tv
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


class World(NamedTuple):
  """Data and network of all seeds; `start` is None without shipped weights."""

  dataset: Dataset
  model: Model
  steps: dict[str, InputStep]
  epochs: int
  start: Variables | None


def load_world(flags) -> World:
  """Loads data, network and input steps, shared by all seeds."""
  settings = SETTINGS[flags.dataset]
  dataset = sources.load(
    flags.source or flags.dataset, data_dir=flags.data_dir or None
  )
  head = lambda batch, n: splits.take(batch, np.arange(len(batch.label))[:n])
  limit = 400 if flags.smoke else settings['limit']
  dataset = dataset._replace(
    train=head(dataset.train, limit), test=head(dataset.test, settings['test'])
  )
  shape = dataset.train.image.shape[1:]
  epochs = 2 if flags.smoke else settings['epochs']
  if flags.weights:
    return load_clip(flags, dataset, epochs)
  model = networks.make(
    'vit_tiny', dataset.num_classes, shape,
    patch=settings['patch'], width=settings['width'], depth=settings['depth'],
    heads=4,
  )  # fmt: skip
  pixels = {'mean': (0.3,) * shape[2], 'std': (0.35,) * shape[2]}
  return World(dataset, model, input_steps(**pixels), epochs, None)


def input_steps(mean, std) -> dict[str, InputStep]:
  """Makes input steps by the names in the ways to fine-tune."""
  make = functools.partial(input_step.make, mean, std)
  return {'none': make(), 'crop': make(pad=1)}


def load_clip(flags, dataset: Dataset, epochs: int) -> World:
  """Loads a CLIP; its head consists of the class names."""
  loaded = clip.load(flags.weights, flags.model)
  names = dataset.class_names
  head = heads.make(loaded, names, prompts.for_dataset(flags.dataset))
  start = zero_shot.variables(loaded.variables, head.kernel)
  base = zero_shot.model(loaded.sizes, len(names))
  grey = lambda x: jnp.repeat(x, 3, -1) if x.shape[-1] == 1 else x
  colour = lambda batch: batch._replace(image=grey(batch.image))
  # The head is no parameter: the simplex consists of image towers.
  with_head = lambda v: v._replace(batch_stats=start.batch_stats)
  model = base._replace(apply=lambda v, x: base.apply(with_head(v), x))
  return World(
    dataset._replace(train=colour(dataset.train), test=colour(dataset.test)),
    model,
    input_steps(*zero_shot.normalisation(loaded.sizes.kind)),
    epochs,
    start,
  )


def split_in_pieces(image, size):
  """Splits images into equal pieces, so that one compilation serves all."""
  fill = [(0, -len(image) % size)] + [(0, 0)] * (image.ndim - 1)
  return jnp.pad(image, fill, 'edge').reshape(-1, size, *image.shape[1:])


# One object for all seeds, so that they share a compilation.
@functools.lru_cache(maxsize=4)
def optimizer(steps):
  """Returns the optimiser of the first training."""
  return optimizers.adamw(
    optimizers.warmup_cosine_schedule(2e-3, steps // 20, 0, steps)
  )


def train_network(world: World, batch: Batch, seed: int) -> Variables:
  """Trains a small vision transformer on all classes."""
  start = jax.jit(world.model.init)(
    rng.fold_in(seed, 'init'), world.steps['none'].eval(batch.image[:1], None)
  )
  count = world.epochs * train.steps_per_epoch(len(batch.label), 64)
  return train.fit(
    rng.fold_in(seed, 'train'),
    Network(world.model, world.steps['crop']),
    start,
    batch,
    Training(optimizer(count), count, 64),
    train.Session(f'seed {seed}'),
  ).variables


def prepare_seed(flags, world: World, seed: int):
  """Returns the network of a seed, task vectors, images, forgotten classes."""
  settings, dataset = SETTINGS[flags.dataset], world.dataset
  forget = np.array([seed % 5, seed % 5 + 5])
  validation, training = splits.hold_out(
    rng.fold_in(seed, 'validation'),
    dataset.train,
    settings['held'],
    dataset.num_classes,
  )
  start = world.start or train_network(world, training, seed)
  rows = np.flatnonzero(np.isin(np.asarray(training.label), forget))
  configs = [
    config._replace(seed=100 * seed + config.seed, lr=flags.rate * config.lr)
    for config in (CONFIGS[:3] if flags.smoke else CONFIGS)
  ]
  taus = tv.diversify(
    world.model,
    start,
    splits.take(training, rows),
    configs,
    world.steps,
    frozen=('head',),
  )
  pieces = lambda batch: split_in_pieces(
    world.steps['none'].eval(batch.image, None), settings['piece']
  )
  test = dataset.test
  sets = Sets(validation, test, pieces(validation), pieces(test))
  return start.params, taus, sets, forget
