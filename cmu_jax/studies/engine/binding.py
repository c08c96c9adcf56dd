"""From settings to what all seeds share: data, trigger, input step, network."""

import math
import os
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cmu_jax import networks
from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, Dataset, InputStep, Model, Trigger
from cmu_jax.data import input_step, sources, splits
from cmu_jax.data.corruption import triggers

# Weights as they were and as they are, gradient, momentum: the least that a
# training holds.
_COPIES = 4


class Loaded(NamedTuple):
  """A dataset, shrunk if the config says so.

  Attributes:
    dataset: train and test split.
    position: of each training image in the source.
    shipped: training labels of the whole source.
  """

  dataset: Dataset
  position: np.ndarray
  shipped: np.ndarray


def _limited(
  field: str, batch: Batch, limit: int, names: tuple[str, ...]
) -> np.ndarray:
  """Where `limit` images are, the same share of every class; 0 keeps all."""
  count = batch.label.shape[0]
  if not limit or limit >= count:
    return np.arange(count)
  sizes = np.bincount(np.asarray(batch.label), minlength=len(names))
  fewest = int(sizes.argmin())
  least = math.ceil(count / sizes[fewest])
  errors.check(
    limit >= least,
    f"config.{field} {limit} leaves no image of class '{names[fewest]}'; use "
    f'{least} or more, or 0 for all',
  )
  key = rng.fold_in(0, field)
  return splits.stratified_split(key, batch.label, limit / count, len(names))[0]


def _part(batch: Batch, index: np.ndarray) -> Batch:
  """The images at ascending `index`, without a copy where that is all."""
  whole = index.size == batch.label.shape[0]
  return batch if whole else splits.take(batch, index)


def load(config: ConfigDict) -> Loaded:
  """The dataset that a config names.

  Raises:
    UserError: bad data or settings, in one line.
  """
  dataset = sources.load(
    config.dataset,
    data_dir=config.data_dir,
    download=config.download,
    image_size=config.image_size or None,
  )
  names = dataset.class_names
  shipped = np.asarray(dataset.train.label)
  position = _limited('train_limit', dataset.train, config.train_limit, names)
  tested = _limited('test_limit', dataset.test, config.test_limit, names)
  dataset = dataset._replace(
    train=_part(dataset.train, position), test=_part(dataset.test, tested)
  )
  return Loaded(dataset, position, shipped)


def check_class(field: str, number: int, dataset: Dataset) -> None:
  """Refuses a number that is not a class of the dataset."""
  errors.check(
    0 <= number < dataset.num_classes,
    f'config.{field} is {number}, but {dataset.name} has classes 0 to '
    f'{dataset.num_classes - 1}',
  )


def trigger(
  settings: ConfigDict, pixels: ConfigDict, image: jax.Array
) -> Trigger:
  """The trigger that settings describe, made for these training images.

  Args:
    settings: `trigger` and its options, as in config.corruption.
    pixels: as config.input.
    image: raw training images, [n, h, w, c].
  """
  kind, (height, width) = settings.trigger, image.shape[1:3]
  options = {
    name: settings[f'trigger_{name}'] for name in triggers.KINDS[kind].settings
  }
  if kind == 'corner':
    # Painted last, as published: on what the network sees, the brightest value.
    height, width = (pixels.resize or height), (pixels.resize or width)
    options['value'] = triggers.max_normalized(image, pixels.mean, pixels.std)
  return triggers.make(kind, height, width, **options)


def pixels(
  settings: ConfigDict, dataset: Dataset, painted: Trigger | None
) -> InputStep:
  """The input step of config.input for the images of a dataset."""
  side = settings.resize or min(dataset.train.image.shape[1:3])
  errors.check(
    settings.pad < side,
    f'config.input.pad is {settings.pad}, but the images have a side of {side} '
    'pixels; choose a smaller one',
  )
  return input_step.make(
    tuple(settings.mean),
    tuple(settings.std),
    trigger=painted,
    pad=settings.pad,
    flip=settings.flip,
    resize=(settings.resize, settings.resize) if settings.resize else None,
  )


def _check_size(model: Model, seen: tuple[int, ...]) -> None:
  """Refuses a network that cannot be trained in the memory of this machine.

  Asked for too much, XLA may wait for ever and Linux may end the process.
  """
  image = jax.ShapeDtypeStruct((1, *seen), np.float32)
  shapes = jax.eval_shape(model.init, rng.fold_in(0), image)
  needed = _COPIES * sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes)
  )
  room = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  errors.check(
    jax.default_backend() != 'cpu' or needed <= room,
    f'the network of config.model takes at least {needed / 2**30:,.0f} GiB in '
    f'training, this machine has {room / 2**30:,.0f}: lower config.model.width',
  )


def network(settings: ConfigDict, dataset: Dataset, step: InputStep) -> Model:
  """The network of config.model for what the input step makes of images.

  Raises:
    UserError: settings that no network has, or one that memory cannot hold.
  """
  seen = step.eval(dataset.train.image[:1], None).shape[1:]
  options = dict(settings)
  made = networks.make(
    options.pop('name'), dataset.num_classes, seen, **options
  )
  _check_size(made, seen)
  return made
