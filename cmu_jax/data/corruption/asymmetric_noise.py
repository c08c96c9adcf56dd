"""Asymmetric label noise: to the class that a class is mistaken for."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, Info, PRNGKey
from cmu_jax.data import class_maps, splits
from cmu_jax.data.corruption import kind
from cmu_jax.data.corruption.kind import Kind, Known
from cmu_jax.data.splits import Indices, Labels


def asymmetric(
  key: PRNGKey,
  label: Labels,
  rate: float,
  class_map: Mapping,
  indices: Indices | None = None,
  num_classes: int | None = None,
) -> Corruption:
  """Moves floor(rate * n_c) labels of each source class c to class_map[c].

  Args:
    key: decides which samples.
    label: true labels [n].
    rate: share of each source class, 0 to 1.
    class_map: source class to target class, see `class_maps.class_map`.
    indices: the samples to corrupt instead of drawn ones; `rate` is unused.
    num_classes: k, to check the labels and the map against.

  Raises:
    UserError: the rate, a label, a class or an index is out of range, or an
      index is of a class that the map does not move.

  References:
    CUTS, arXiv 2511.18660, section 4.
  """
  splits.check_rate(rate)
  names = [str(c) for c in range(num_classes or 0)]
  pairs = class_maps.class_map(class_map, names)
  largest = max(*pairs, *pairs.values(), np.max(label, initial=0))
  top = num_classes or int(largest) + 1
  host = splits.check_labels(label, top)
  moved = np.arange(top)
  moved[list(pairs)] = list(pairs.values())
  source = moved[host] != host
  if indices is None:
    mask = source & kind.share_of_classes(key, host, rate, top)
  else:
    mask = kind.chosen(indices, host.size)
    errors.check(
      source[mask].all(),
      'indices has samples of a class that class_map does not move; '
      'add the class to class_map or drop them',
    )
  return kind.result(np.where(mask, moved[host], host), mask)


def _proxy(
  key: PRNGKey,
  label: Labels,
  num_classes: int,
  class_map: Mapping | None = None,
) -> Corruption:
  pairs = kind.needed(class_map, 'asymmetric', 'a class_map')
  return asymmetric(key, label, 1.0, pairs, num_classes=num_classes)


def _arguments(settings: ConfigDict, known: Known) -> Info:
  names = known.class_names
  return {'class_map': class_maps.from_text(settings.class_map, names)}


def _affected(
  label: Labels, class_map: Mapping | None = None
) -> Bool[np.ndarray, 'n']:
  """The images of the source classes."""
  pairs = kind.needed(class_map, 'asymmetric', 'a class_map')
  return np.isin(label, list(class_maps.class_map(pairs)))


KIND = Kind(asymmetric, _proxy, _arguments, _affected)
