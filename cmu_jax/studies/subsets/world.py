"""What all cells of a run share, and what a forget set makes of it.

D is the training set, D_F a random subset that is to be forgotten, D_R the
rest, D_T the test set. Nothing is manipulated: all labels are right.
"""

import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from cmu_jax.core import errors, provenance, rng
from cmu_jax.core.types import (
  Batch,
  Dataset,
  InputStep,
  Method,
  MethodInputs,
  Model,
  Network,
)
from cmu_jax.data import corruption
from cmu_jax.studies.engine import binding, bounds, catalogue
from cmu_jax.studies.subsets import settings
from cmu_jax.training import descent


class Place(NamedTuple):
  """What all cells share.

  Attributes:
    config: every setting.
    folder: the work folder.
    dataset: training and test split.
    pool: both as one, the training images first.
    model: the network.
    inputs: raw pixels to network input.
    methods: by name; the same objects for all cells, so that they compile
      once.
    summed: digest of the data.
    bounded: the layers whose norms trainings bound; empty for none.
  """

  config: ConfigDict
  folder: pathlib.Path
  dataset: Dataset
  pool: Batch
  model: Model
  inputs: InputStep
  methods: dict[str, Method]
  summed: str
  bounded: bounds.Layers = ()


def count(config: ConfigDict, size: int) -> int:
  """|D_F| = round(fraction |D|), halves upwards.

  Raises:
    UserError: nothing is to be forgotten, or everything.
  """
  found = math.floor(config.fraction * size + 0.5)
  errors.check(
    0 < found < size,
    f'config.fraction is {config.fraction}: of {size} training images that '
    f'forgets {found}; at least one must be forgotten and one retained',
  )
  return found


def draw(config: ConfigDict, seed: int, size: int) -> Int[np.ndarray, 'm']:
  """D_F of a seed: positions in D, ascending.

  Args:
    config: `fraction`, and `published_indices` for NumPy's legacy generator,
      which AMUN's released index sets are of (seeds 1, 10, 100).
    seed: of the forget set.
    size: |D|.
  """
  m = count(config, size)
  if config.published_indices:
    return np.sort(corruption.legacy_indices(seed, size, m))
  order = jax.random.permutation(rng.fold_in(seed, 'forget'), size)
  return np.sort(np.asarray(order)[:m])


def give(
  train: Batch,
  forget: Int[np.ndarray, 'm'],
  needs: tuple[str, ...],
  capacity: catalogue.Sizes | None = None,
) -> MethodInputs:
  """What a method that declared `needs` may see.

  Args:
    train: D.
    forget: positions of D_F.
    needs: 'retain' (D_R), 'forget' (D_F), or both.
    capacity: rows of D_R and D_F, at least as many as there are, so that sets
      of several sizes share a compilation; None for just as many.
  """
  rest = np.setdiff1d(np.arange(train.label.shape[0]), forget)
  room = capacity or catalogue.Sizes(rest.size, forget.size)
  parts: dict[str, Any] = {}
  for name, rows, most in (
    ('retain', rest, room.retain),
    ('forget', forget, room.forget),
  ):
    if name in needs:
      known = name == 'forget'
      parts[name] = descent.gather_samples(train, rows, most, known)
  return MethodInputs(**parts)


def load(config: ConfigDict, folder: pathlib.Path) -> Place:
  """Checks the settings, loads the data and binds everything.

  Raises:
    UserError: bad data or settings, in one line.
  """
  settings.check(config)
  dataset = binding.load(config).dataset
  inputs = binding.pixels(config.input, dataset, None)
  model = binding.network(config.model, dataset, inputs)
  size = dataset.train.label.shape[0]
  m = count(config, size)
  sizes = catalogue.Sizes(size - m, m)
  bounded = bounds.layers(
    config, model, inputs.eval(dataset.train.image[:1], None)
  )
  names = dict.fromkeys(('retrain', *config.methods))
  methods = {
    name: catalogue.make(
      config, Network(model, inputs), sizes, name, bounded=bounded
    )
    for name in names
  }
  pool = Batch(
    jnp.concatenate([dataset.train.image, dataset.test.image]),
    jnp.concatenate([dataset.train.label, dataset.test.label]),
  )
  summed = provenance.dataset_digest(dataset)
  return Place(
    config, folder, dataset, pool, model, inputs, methods, summed, bounded
  )
