"""Corruptions of a training set, each a pure function of a key.

  noisy = corruption.symmetric(key, label, 0.4, num_classes=10)

`corruption.<kind>(key, label, rate, ...)` draws a corruption of any kind in
KINDS, once and on the host, from concrete labels. The same key gives nested
sets: the corruption at 20% contains the corruption at 10%. Published index sets
are used exactly through `indices`.

A new kind is a `Kind` in a file of this package and an entry in KINDS; proxies,
records, checks and experiments read that entry.
"""

import numpy as np
from jaxtyping import Int

from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import Batch, Corruption
from cmu_jax.data.corruption.class_maps import CLASS_MAPS, resolve_class_map
from cmu_jax.data.corruption.human_labels import HUMAN, human
from cmu_jax.data.corruption.kind import Kind
from cmu_jax.data.corruption.label_noise import (
  ASYMMETRIC,
  CONSTANT,
  INTERCLASS,
  SYMMETRIC,
  asymmetric,
  constant,
  interclass,
  symmetric,
)
from cmu_jax.data.corruption.poisoning import (
  CLEAN_LABEL,
  POISON,
  clean_label,
  poison,
)
from cmu_jax.data.corruption.transition_noise import TRANSITION, transition

__all__ = [
  'CLASS_MAPS',
  'KINDS',
  'Kind',
  'apply',
  'asymmetric',
  'clean_label',
  'constant',
  'find_kind',
  'human',
  'interclass',
  'legacy_indices',
  'poison',
  'resolve_class_map',
  'symmetric',
  'transition',
]

# The names are those of config.corruption.kind and of records in run folders.
KINDS: dict[str, Kind] = {
  'symmetric': SYMMETRIC,
  'asymmetric': ASYMMETRIC,
  'transition': TRANSITION,
  'interclass': INTERCLASS,
  'constant': CONSTANT,
  'human': HUMAN,
  'poison': POISON,
  'clean_label': CLEAN_LABEL,
}


def find_kind(name: str) -> Kind:
  """Finds the kind of this name.

  Raises:
    UserError: an unknown name; the message has the closest match.
  """
  if name not in KINDS:
    raise errors.unknown_name('corruption', name, KINDS)
  return KINDS[name]


def legacy_indices(
  seed: int, population: int, count: int
) -> Int[np.ndarray, 'count']:
  """Draws `count` of 0..population-1 with NumPy's legacy generator.

  For index sets that were published as a seed. Seed 0 gives the poisoned
  CIFAR-10 images of arXiv 2402.14015, nested in `count`.
  """
  errors.check(
    0 <= count <= population,
    f'cannot choose {count} of {population} samples; lower the count',
  )
  # Not default_rng: the published sets were drawn with the legacy generator.
  return np.random.RandomState(seed).choice(population, count, replace=False)


def apply(corruption: Corruption, batch: Batch) -> Batch:
  """Applies a corruption to a batch: new labels and trigger flags.

  Pixels are untouched: the input step paints the trigger.

  Raises:
    UserError: the corruption is of a set of another size.
  """
  array_checks.check_type('batch', batch, Batch)
  array_checks.check_type('corruption', corruption, Corruption)
  n = batch.label.shape[0]
  errors.check(
    corruption.label.shape == (n,),
    f'the corruption is of {corruption.label.shape[0]} samples, the batch '
    f'has {n}; draw it from the labels of this batch',
  )
  # A corruption without trigger leaves the flags of an earlier one in place.
  flags = batch.has_trigger if corruption.trigger is None else corruption.mask
  return batch._replace(label=corruption.label, has_trigger=flags)
