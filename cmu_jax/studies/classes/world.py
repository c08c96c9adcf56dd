"""What all cells of a run share, and what forgetting a class makes of it.

D is the training set without the validation images V, D_F all of one class of
it, D_R the rest, T the test set. Hyperparameters are chosen on V and on classes
of their own; T is only reported on.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, provenance, rng
from cmu_jax.core.types import Batch, Dataset, MethodInputs, Network
from cmu_jax.data import splits
from cmu_jax.studies.classes import roster, settings
from cmu_jax.studies.engine import binding
from cmu_jax.studies.engine.catalogue import Sizes
from cmu_jax.studies.subsets import world
from cmu_jax.studies.subsets.world import Place


def _classes(config: ConfigDict) -> tuple[int, ...]:
  return (*config.forget_classes, *config.tuning_classes)


def _enough(config: ConfigDict, dataset: Dataset, held: Batch) -> None:
  """Refuses classes that do not exist or have too few unseen images."""
  for field in ('forget_classes', 'tuning_classes'):
    for number in config[field]:
      binding.check_class(field, number, dataset)
  folds = config.evaluate.folds
  for name, part, remedy in (
    ('validation', held, 'config.validation'),
    ('test', dataset.test, 'config.test_limit'),
  ):
    counts = np.bincount(part.label, minlength=dataset.num_classes)
    least = int(counts.argmin())
    errors.check(
      counts[least] >= folds,
      f'class {dataset.class_names[least]!r} has {counts[least]} {name} images '
      f'for {folds} folds of MIA-NN; raise {remedy} or lower '
      'config.evaluate.folds',
    )


def index(place: Place, forgotten: int) -> Int[np.ndarray, 'm']:
  """D_F: positions of a class in D."""
  return np.flatnonzero(np.asarray(place.dataset.train.label) == forgotten)


def _sizes(place: Place) -> np.ndarray:
  label = np.asarray(place.dataset.train.label)
  return np.bincount(label, minlength=place.dataset.num_classes)


def give(place: Place, forgotten: int, needs: tuple[str, ...]) -> MethodInputs:
  """What a method may see of a class; of one shape for all classes."""
  counts = _sizes(place)
  room = Sizes(int(counts.sum() - counts.min()), int(counts.max()))
  rows = index(place, forgotten)
  return world.give(place.dataset.train, rows, needs, room)


def load(config: ConfigDict, folder: pathlib.Path) -> Place:
  """Checks the settings, loads the data and binds everything.

  Returns:
    The pool of it is D, then T, then V.

  Raises:
    UserError: bad data or settings, in one line.
  """
  settings.check(config)
  whole = binding.load(config).dataset
  key = rng.fold_in(0, 'validation')
  held, kept = splits.hold_out(
    key, whole.train, config.validation, whole.num_classes
  )
  _enough(config, whole, held)
  dataset = whole._replace(train=kept)
  inputs = binding.pixels(config.input, dataset, None)
  model = binding.network(config.model, dataset, inputs)
  size = kept.label.shape[0]
  share = size // whole.num_classes
  methods = roster.make(
    config, Network(model, inputs), Sizes(size - share, share)
  )
  pool = Batch(
    jnp.concatenate([part.image for part in (kept, whole.test, held)]),
    jnp.concatenate([part.label for part in (kept, whole.test, held)]),
  )
  summed = config_lib.fingerprint(
    {'data': provenance.dataset_digest(whole), 'validation': config.validation}
  )
  return Place(config, folder, dataset, pool, model, inputs, methods, summed)


def unseen(place: Place, validation: bool) -> np.ndarray:
  """Which of the pool are of V, or else of T, [n]."""
  at = np.arange(place.pool.label.shape[0])
  first = place.dataset.train.label.shape[0]
  second = first + place.dataset.test.label.shape[0]
  return at >= second if validation else (at >= first) & (at < second)


def trained(place: Place) -> np.ndarray:
  """Which of the pool are of D, [n]."""
  size = place.dataset.train.label.shape[0]
  return np.arange(place.pool.label.shape[0]) < size


def labels(place: Place) -> Int[np.ndarray, 'n']:
  """Of the pool."""
  return np.asarray(jax.device_get(place.pool.label))
