"""Data of one seed of an experiment: training set, corruption, proxy.

Everything is drawn here, once and before any training; afterwards no stage
touches the dataset again. The proxy is held out before the corruption.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from cmu_jax.core import errors, rng, store
from cmu_jax.core.types import (
  Batch,
  Corruption,
  Dataset,
  Info,
  InputStep,
  Model,
  PRNGKey,
  Proxy,
  Trigger,
  Variables,
)
from cmu_jax.data import corruption, proxy_sets, splits
from cmu_jax.data.corruption import record
from cmu_jax.data.corruption.kind import DatasetFacts
from cmu_jax.studies.cuts import settings
from cmu_jax.studies.engine import binding, clip_start


class World(NamedTuple):
  """Values that all seeds share."""

  dataset: Dataset
  model: Model
  inputs: InputStep
  trigger: Trigger | None
  position: np.ndarray  # of each training image in the source, before any split
  arguments: Info  # of the corruption, beyond its rate


class Scene(NamedTuple):
  """Data of one seed."""

  key: PRNGKey
  train: Batch  # what the model is trained on: corrupted labels, stamps
  clean: Batch  # its uncorrupted part, for the oracle
  proxy: Proxy
  clean_proxy: Batch  # the same images with true labels, for fine-tuning
  record: Info  # a small manifest that reproduces the corruption
  # Labels of `train` before the corruption, for metrics only.
  truth: Int[Array, 'n']


class Case(NamedTuple):
  """A corrupted network, and all that its repairs need."""

  config: ConfigDict
  world: World
  data: Scene
  corrupted: Variables  # the network, theta_mix
  seed: int
  # Stage -> its checkpoint, or None for none.
  checkpoint: Callable[[str], store.Checkpoint | None] = lambda stage: None


def load_world(config: ConfigDict) -> World:
  """Loads the data and binds the network.

  Raises:
    UserError: bad data or settings.
  """
  # Bad settings should fail before the data is read.
  settings.check(config)
  loaded = binding.load(config)
  dataset = loaded.dataset
  binding.check_class('corruption.target', config.corruption.target, dataset)
  trigger = None
  if config.task == 'poison':
    image = dataset.train.image
    trigger = binding.make_trigger(config.corruption, config.input, image)
  pixels = binding.make_inputs(config.input, dataset, trigger)
  arguments = corruption.find_kind(config.corruption.kind).arguments(
    config.corruption,
    DatasetFacts(loaded.shipped, dataset.class_names, trigger),
  )
  if clip_start.is_clip(config):
    model = clip_start.make_model(config, loaded)
  else:
    model = binding.make_model(config.model, dataset, pixels)
  return World(dataset, model, pixels, trigger, loaded.position, arguments)


def find_smallest_fraction(label: np.ndarray, classes: int) -> float:
  """The smallest proxy fraction that holds out at least 2 images a class."""
  sizes = np.bincount(label, minlength=classes)
  candidates = np.unique(
    np.concatenate([np.arange(1, 2 * classes + 1) / n for n in sizes if n])
  )
  # The number of images changes only at these fractions, so no other fraction
  # can be the smallest.
  for fraction in candidates[candidates <= 1]:
    # Rounding up keeps the advice short and still sufficient.
    share = float(np.ceil(fraction * 1e4) / 1e4)
    if sum(splits.floor_share(share, int(n)) for n in sizes) >= 2 * classes:
      return share
  return 1.0


def _check_proxy(config: ConfigDict, label: np.ndarray, classes: int) -> None:
  images = sum(
    splits.floor_share(config.proxy_fraction, int(n))
    for n in np.bincount(label, minlength=classes)
  )
  if images >= 2 * classes:
    return
  least = find_smallest_fraction(label, classes)
  remedy = (
    f'use --config.proxy_fraction={least:g} or more'
    if least < 1
    else f'the {label.size} training images are too few'
  )
  raise errors.UserError(
    f'config.proxy_fraction {config.proxy_fraction} holds out {images} images '
    f'for {classes} classes; at least {2 * classes} are needed: {remedy}'
  )


def _arguments(config: ConfigDict, world: World, index: np.ndarray) -> Info:
  """The corruption's arguments for the training images at `index`."""
  apart = corruption.find_kind(config.corruption.kind).per_sample
  source_index = world.position[index]
  return {
    name: value[source_index] if name in apart else value
    for name, value in world.arguments.items()
  }


def _corrupt(
  config: ConfigDict, key: PRNGKey, batch: Batch, arguments: Info
) -> tuple[Corruption, Info]:
  """The corruption of the training split and its manifest."""
  kind = config.corruption.kind
  facts = {'rate': config.noise_rate, **arguments}
  drawn = corruption.find_kind(kind).draw(key, batch.label, **facts)
  errors.check(
    # Without poison the run would report the repair of nothing.
    drawn.mask.any() or not config.noise_rate or config.task != 'poison',
    f'config.noise_rate {config.noise_rate} poisons none of the '
    f'{batch.label.size} training images; use {1 / batch.label.size:.2g} or '
    'more, or 0 for a run without poison',
  )
  return drawn, record.make_record(drawn, kind, key, **facts)


def _proxies(
  config: ConfigDict, key: PRNGKey, pool: Batch, classes: int, arguments: Info
) -> tuple[Proxy, Batch]:
  """The pool corrupted in full, and with its true labels."""
  kind = config.corruption.kind
  # The proxy is corrupted in full, so it takes no rate.
  facts = {
    n: v for n, v in arguments.items() if n not in ('rate', 'num_classes')
  }
  corrupted = proxy_sets.make_proxy(
    key, kind, pool, config.proxy_draws, classes, **facts
  )
  return corrupted, proxy_sets.make_clean_proxy(kind, pool, **facts)


def draw_scene(config: ConfigDict, world: World, seed: int) -> Scene:
  """Draws hold-out, corruption and proxy of one seed.

  Raises:
    UserError: a proxy of fewer than two images a class; names the smallest
      fraction that works.
  """
  key = rng.fold_in(seed)
  train, classes = world.dataset.train, world.dataset.num_classes
  _check_proxy(config, np.asarray(train.label), classes)
  # The split precedes the corruption, so that CUTS never sees an image of the
  # training set.
  pool, remaining = splits.stratified_split(
    rng.fold_in(key, 'hold_out'), train.label, config.proxy_fraction, classes
  )
  training = splits.take(train, remaining)
  drawn, record = _corrupt(
    config,
    rng.fold_in(key, 'corrupt'),
    training,
    _arguments(config, world, remaining),
  )
  proxies = _proxies(
    config,
    rng.fold_in(key, 'proxy'),
    splits.take(train, pool),
    classes,
    _arguments(config, world, pool),
  )
  clean = splits.take(training, jnp.flatnonzero(~drawn.mask))
  corrupted = corruption.apply(drawn, training)
  return Scene(key, corrupted, clean, *proxies, record, training.label)
