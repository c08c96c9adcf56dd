"""The data, the network and the methods that all cells of a run share.

D is the training set, D_F a random subset to forget, D_R the rest of D, and D_T
the test set. All labels are right.
"""

import math
import pathlib

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from cmu_jax.core import errors, provenance, rng
from cmu_jax.data import corruption
from cmu_jax.studies.engine import binding, bounds, catalogue, pool
from cmu_jax.studies.engine.pool import World


def forget_count(config: ConfigDict, size: int) -> int:
  """Computes |D_F| = round(fraction |D|), halves upwards.

  Raises:
    UserError: D_F or D_R is empty.
  """
  count = math.floor(config.fraction * size + 0.5)
  errors.check(
    0 < count < size,
    f'config.fraction is {config.fraction}: of {size} training images that '
    f'forgets {count}; at least one must be forgotten and one retained',
  )
  return count


def draw_forget_set(
  config: ConfigDict, seed: int, size: int
) -> Int[np.ndarray, 'm']:
  """Draws D_F: positions in D, ascending.

  NumPy's legacy generator (`published_indices`) drew the released index sets of
  AMUN (seeds 1, 10, 100).
  """
  count = forget_count(config, size)
  if config.published_indices:
    return np.sort(corruption.legacy_indices(seed, size, count))
  order = jax.random.permutation(rng.fold_in(seed, 'forget'), size)
  # Ascending, so that equal sets are equal arrays.
  return np.sort(np.asarray(order)[:count])


def load(config: ConfigDict, folder: pathlib.Path) -> World:
  """Loads the data, and binds network and methods to it.

  Raises:
    UserError: bad data or settings.
  """
  del folder
  dataset = binding.load(config).dataset
  network = binding.make_network(config, dataset)
  size = dataset.train.label.shape[0]
  count = forget_count(config, size)
  sizes = catalogue.Sizes(size - count, count)
  image = network.inputs.eval(dataset.train.image[:1], None)
  bounded = bounds.find_layers(config, network.model, image)
  # Retrain is there even if config.methods leaves it out.
  methods = {
    name: catalogue.make(config, network, sizes, name, bounded=bounded)
    for name in dict.fromkeys(('retrain', *config.methods))
  }
  return World(
    dataset,
    pool.join_batches(dataset.train, dataset.test),
    network,
    methods,
    provenance.dataset_digest(dataset),
    bounded,
  )
