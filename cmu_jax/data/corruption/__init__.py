"""Corruptions of a training set, each a pure function of a key.

  noisy = corruption.symmetric(key, label, 0.4, num_classes=10)

`corruption.<kind>(key, label, rate, ...)` draws a corruption of any kind in
KINDS, once and on the host, from concrete labels. One key gives nested sets:
what is corrupted at 10% is also corrupted, in the same way, at 20%. Published
index sets are used exactly through `indices`.

A new kind is one file with a `KIND` and one line in KINDS; proxies, manifests,
checks and experiments read that line.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Corruption
from cmu_jax.data.corruption import (
  class_maps,
  human_labels,
  label_noise,
  poisoning,
  transition_noise,
)
from cmu_jax.data.corruption.kind import Kind

KINDS: dict[str, Kind] = {
  'symmetric': label_noise.SYMMETRIC,
  'asymmetric': label_noise.ASYMMETRIC,
  'transition': transition_noise.TRANSITION,
  'interclass': label_noise.INTERCLASS,
  'constant': label_noise.CONSTANT,
  'human': human_labels.HUMAN,
  'poison': poisoning.POISON,
  'clean_label': poisoning.CLEAN_LABEL,
}

CLASS_MAPS = class_maps.CLASS_MAPS
resolve_class_map = class_maps.resolve_class_map


def __getattr__(name: str) -> Callable[..., Corruption]:
  """`corruption.<kind>` is the function that draws it."""
  if name in KINDS:
    return KINDS[name].draw
  raise AttributeError(
    f'module cmu_jax.data.corruption has no attribute {name!r}'
  )


def __dir__() -> list[str]:
  """What `dir(cmu_jax.data.corruption)` and completion show."""
  return sorted({*globals(), *KINDS})


def find_kind(name: str) -> Kind:
  """The kind of this name.

  Raises:
    UserError: there is none; names the nearest one.
  """
  if name not in KINDS:
    raise errors.unknown_name('corruption', name, KINDS)
  return KINDS[name]


def legacy_indices(
  seed: int, population: int, count: int
) -> Int[np.ndarray, 'count']:
  """`count` of 0..population-1 as NumPy's legacy generator chooses them.

  For index sets that were published as a seed. Seed 0 gives the poisoned
  CIFAR-10 images of arXiv 2402.14015, nested in `count`.
  """
  errors.check(
    0 <= count <= population,
    f'cannot choose {count} of {population} samples; lower the count',
  )
  return np.random.RandomState(seed).choice(population, count, replace=False)


def apply(corruption: Corruption, batch: Batch) -> Batch:
  """The batch as the corruption leaves it: new labels, trigger stamps.

  Pixels are untouched: the input step paints the trigger.

  Raises:
    UserError: the corruption is of a set of another size.
  """
  n = batch.label.shape[0]
  errors.check(
    corruption.label.shape == (n,),
    f'the corruption is of {corruption.label.shape[0]} samples, the batch '
    f'has {n}; draw it from the labels of this batch',
  )
  stamp = batch.has_trigger if corruption.trigger is None else corruption.mask
  return batch._replace(label=corruption.label, has_trigger=stamp)
