"""From settings to what all seeds share: data, trigger, input step, network."""

import math
import os
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from cmu_jax import networks
from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Batch,
  Dataset,
  InputStep,
  Model,
  Network,
  Trigger,
)
from cmu_jax.data import input_step, normalisation, sources, splits
from cmu_jax.data.corruption import class_maps, triggers
from cmu_jax.studies.engine import recipes

# Weights as they were and as they are, gradient, momentum: the least that a
# training holds.
_COPIES = 4
# A limit is exceeded by at most so many images a class for the proxy.
_MOST_KEPT = 64


class Loaded(NamedTuple):
  """A dataset, shrunk if the config says so."""

  dataset: Dataset
  position: np.ndarray  # of each training image in the source
  shipped: np.ndarray  # training labels of the whole source


def _select_images(
  field: str,
  batch: Batch,
  limit: int,
  names: tuple[str, ...],
  least: Int[np.ndarray, 'k'],
) -> np.ndarray:
  """Selects `limit` images, the same share of every class, and says so.

  Args:
    field: of the limit, in the config.
    batch: of a split.
    limit: the number; 0 selects all.
    names: of the classes.
    least: images of each class that are kept where there are so many, even
      beyond the limit.
  """
  label = np.asarray(batch.label)
  count = label.size
  if not limit or limit >= count:
    return np.arange(count)
  sizes = np.bincount(label, minlength=least.size)
  errors.check(
    limit >= least.size,
    f'config.{field} {limit} leaves no image of class '
    f"'{names[int(sizes.argmin())]}'; use {least.size} or more, or 0 for all",
  )
  shares = [splits.floor_share(limit / count, size) for size in sizes.tolist()]
  quota = np.minimum(sizes, np.maximum(shares, least))
  raised = int((quota > shares).sum())
  rank = splits.shuffled_rank(rng.fold_in(0, field), label)
  index = np.flatnonzero(rank < quota[label])
  surplus = f', more of {raised} rare classes' if raised else ''
  errors.remark(
    f'{index.size} of {count} images are used (config.{field}={limit}): the '
    f'same share of every class{surplus}.'
  )
  return index


def _least_images(
  config: ConfigDict, names: tuple[str, ...]
) -> Int[np.ndarray, 'k']:
  """Training images of each class without which a smoke run would stop."""
  least = np.ones(len(names), int)
  # A limit of the user counts; that of a smoke run must not stop it.
  if not config.smoke:
    return least
  share = config.get('proxy_fraction', 0)
  # Two images of each class in the proxy. Tiny shares are of huge sets.
  if share:
    least[:] = min(_MOST_KEPT, math.ceil(2 / share))
  if 'interclass' in config.get('manipulations', ()):
    settings = config.interclass
    pair = class_maps.parse_class_pair(settings.pair, names, 'interclass.pair')
    # Half of the manipulated images are of each class, after a fifth of the
    # images was held out for validation.
    half = math.ceil(max(settings.sizes) / 2 / 0.8)
    least[list(pair)] = np.maximum(least[list(pair)], half)
  return least


def _take(batch: Batch, index: np.ndarray) -> Batch:
  # All images need no copy, which would double the memory.
  is_all = index.size == batch.label.shape[0]
  return batch if is_all else splits.take(batch, index)


def load(config: ConfigDict) -> Loaded:
  """Loads the dataset of a config.

  Raises:
    UserError: bad data or settings.
  """
  dataset = sources.load(
    config.dataset,
    data_dir=config.data_dir,
    download=config.download,
    image_size=config.image_size or None,
  )
  names = dataset.class_names
  shipped = np.asarray(dataset.train.label)
  few = np.ones(len(names), int)
  position, test = (
    _select_images(
      f'{split}_limit', batch, config[f'{split}_limit'], names, least
    )
    for split, batch, least in (
      ('train', dataset.train, _least_images(config, names)),
      ('test', dataset.test, few),
    )
  )
  dataset = dataset._replace(
    train=_take(dataset.train, position), test=_take(dataset.test, test)
  )
  return Loaded(dataset, position, shipped)


def check_class(field: str, number: int, dataset: Dataset) -> None:
  """Refuses a number that is not a class of the dataset."""
  errors.check(
    0 <= number < dataset.num_classes,
    f'config.{field} is {number}, but {dataset.name} has classes 0 to '
    f'{dataset.num_classes - 1}',
  )


def make_trigger(
  settings: ConfigDict, pixels: ConfigDict, image: jax.Array
) -> Trigger:
  """Makes the trigger of some settings for these training images.

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


def make_inputs(
  settings: ConfigDict, dataset: Dataset, trigger: Trigger | None = None
) -> InputStep:
  """Makes the input step of config.input, which paints the trigger."""
  n, height, width, c = dataset.train.image.shape
  sides = settings.resize or height, settings.resize or width
  input_step.check_pad('config.input.pad', settings.pad, (n, *sides, c))
  if settings.flip and dataset.name.startswith(('folder:', 'npz:')):
    errors.remark(
      'Half of the training images are mirrored, which makes other signs, '
      'digits or words of them: --config.input.flip=false leaves them as they '
      'are.'
    )
  normalisation.check_exchange(
    settings.mean, settings.std, dataset.train.image, recipes.NORMALISATION
  )
  return input_step.make(
    tuple(settings.mean),
    tuple(settings.std),
    trigger=trigger,
    pad=settings.pad,
    flip=settings.flip,
    resize=(settings.resize, settings.resize) if settings.resize else None,
  )


def _check_size(model: Model, shape: tuple[int, ...]) -> None:
  """Refuses a network that cannot be trained in the memory of this machine.

  XLA may wait for ever for memory, and Linux may end the process.
  """
  image = jax.ShapeDtypeStruct((1, *shape), np.float32)
  shapes = jax.eval_shape(model.init, rng.fold_in(0), image)
  least = _COPIES * sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes)
  )
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  errors.check(
    jax.default_backend() != 'cpu' or least <= memory,
    f'the network of config.model takes at least {least / 2**30:,.0f} GiB in '
    f'training, this machine has {memory / 2**30:,.0f}: lower '
    'config.model.width',
  )


def make_model(
  settings: ConfigDict, dataset: Dataset, inputs: InputStep
) -> Model:
  """Makes the network of config.model for the output of an input step.

  Raises:
    UserError: settings that no network has, or one that memory cannot hold.
  """
  shape = inputs.eval(dataset.train.image[:1], None).shape[1:]
  options = dict(settings)
  name, classes = options.pop('name'), dataset.num_classes
  model = networks.make(name, classes, shape, **options)
  _check_size(model, shape)
  return model


def make_network(config: ConfigDict, dataset: Dataset) -> Network:
  """Makes the network of a config and its input step, without a trigger."""
  inputs = make_inputs(config.input, dataset)
  return Network(make_model(config.model, dataset, inputs), inputs)
