"""The data, the network and the methods that all cells of a run share.

D is the training set without the validation images V, D_F all images of one
class of D, D_R the rest of D, and T the test set. Hyperparameters are chosen on
V and on classes of their own. T is only reported on.
"""

import pathlib

import jax
import numpy as np
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, provenance, rng
from cmu_jax.core.types import Batch, Dataset, MethodInputs
from cmu_jax.data import splits
from cmu_jax.studies.classes import settings
from cmu_jax.studies.engine import binding, pool
from cmu_jax.studies.engine.catalogue import Sizes
from cmu_jax.studies.engine.pool import World


def _check_classes(
  config: ConfigDict, dataset: Dataset, validation: Batch
) -> None:
  """Refuses classes that do not exist or have too few unseen images."""
  for field in ('forget_classes', 'tuning_classes'):
    for number in config[field]:
      binding.check_class(field, number, dataset)
  folds = config.evaluate.folds
  for name, batch, remedy in (
    ('validation', validation, 'config.validation'),
    ('test', dataset.test, 'config.test_limit'),
  ):
    counts = np.bincount(batch.label, minlength=dataset.num_classes)
    least = int(counts.argmin())
    errors.check(
      counts[least] >= folds,
      f'class {dataset.class_names[least]!r} has {counts[least]} {name} images '
      f'for {folds} folds of MIA-NN; raise {remedy} or lower '
      'config.evaluate.folds',
    )


def load(config: ConfigDict, folder: pathlib.Path) -> World:
  """Loads the data, and binds network and methods to it.

  Returns:
    The world, whose pool is D, then T, then V.

  Raises:
    UserError: bad data or settings.
  """
  del folder
  source = binding.load(config).dataset
  validation, train = splits.hold_out(
    rng.fold_in(0, 'validation'),
    source.train,
    config.validation,
    source.num_classes,
  )
  _check_classes(config, source, validation)
  # From here on V is no training data, for any method.
  dataset = source._replace(train=train)
  network = binding.make_network(config, dataset)
  # Epochs are of an average class, equal for all classes.
  sizes = average_sizes(dataset)
  methods = settings.make_methods(config, network, sizes)
  # Of the source, because V depends on the share alone.
  digest = config_lib.fingerprint(
    {'data': provenance.dataset_digest(source), 'validation': config.validation}
  )
  images = pool.join_batches(train, source.test, validation)
  return World(dataset, images, network, methods, digest)


def average_sizes(dataset: Dataset) -> Sizes:
  """Returns the sizes of D_R and D_F for a class of average size."""
  size = dataset.train.label.size
  share = size // dataset.num_classes
  return Sizes(size - share, share)


def select_class(
  world: World, forget_class: int, needs: tuple[str, ...]
) -> MethodInputs:
  """Selects the inputs of a method, in a single shape for all classes."""
  train = world.dataset.train
  label = np.asarray(train.label)
  # Padded to the largest sets, so that all classes share a compilation.
  counts = np.bincount(label, minlength=world.dataset.num_classes)
  capacity = Sizes(int(counts.sum() - counts.min()), int(counts.max()))
  index = np.flatnonzero(label == forget_class)
  return pool.select_inputs(train, index, needs, capacity)


def unseen_images(world: World, validation: bool) -> Bool[np.ndarray, 'n']:
  """Selects V, or else T, in the pool."""
  positions = np.arange(world.pool.label.shape[0])
  test = world.dataset.train.label.shape[0]
  end = test + world.dataset.test.label.shape[0]
  if validation:
    return positions >= end
  return (positions >= test) & (positions < end)


def training_images(world: World) -> Bool[np.ndarray, 'n']:
  """Selects D in the pool."""
  size = world.dataset.train.label.shape[0]
  return np.arange(world.pool.label.shape[0]) < size


def pool_labels(world: World) -> Int[np.ndarray, 'n']:
  """Returns the labels of the pool."""
  return np.asarray(jax.device_get(world.pool.label))
