"""Symmetric label noise: to a uniformly drawn other class."""

import jax
import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, Info, PRNGKey
from cmu_jax.data import splits
from cmu_jax.data.corruption import kind
from cmu_jax.data.corruption.kind import Kind, Known
from cmu_jax.data.splits import Indices, Labels


def symmetric(
  key: PRNGKey,
  label: Labels,
  rate: float,
  num_classes: int,
  indices: Indices | None = None,
) -> Corruption:
  """Moves floor(rate * n) labels, each to a uniformly drawn other class.

  Args:
    key: decides which samples and which classes.
    label: true labels [n].
    rate: share of all n samples, 0 to 1.
    num_classes: k, at least 2.
    indices: the samples to corrupt instead of drawn ones; `rate` is unused.

  Raises:
    UserError: the rate, a label or an index is out of range.

  References:
    CUTS, arXiv 2511.18660, section 4.
  """
  splits.check_rate(rate)
  errors.check(num_classes >= 2, 'label noise needs at least 2 classes')
  host = splits.check_labels(label, num_classes)
  which, where = jax.random.split(key)
  if indices is None:
    count = splits.floor_share(rate, host.size)
    mask = kind.first(which, np.ones(host.size, bool), count)
  else:
    mask = kind.chosen(indices, host.size)
  step = np.asarray(jax.random.randint(where, host.shape, 1, num_classes))
  return kind.result(np.where(mask, (host + step) % num_classes, host), mask)


def _proxy(key: PRNGKey, label: Labels, num_classes: int) -> Corruption:
  return symmetric(key, label, 1.0, num_classes)


def _arguments(settings: ConfigDict, known: Known) -> Info:
  return {'num_classes': len(known.class_names)}


KIND = Kind(symmetric, _proxy, _arguments)
