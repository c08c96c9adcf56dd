"""Constant relabelling: random samples of all classes get one label."""

import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, Info, PRNGKey
from cmu_jax.data import splits
from cmu_jax.data.corruption import kind
from cmu_jax.data.corruption.kind import Kind, Known
from cmu_jax.data.splits import Labels


def constant(
  key: PRNGKey, label: Labels, rate: float, target: int = 0
) -> Corruption:
  """Labels floor(rate * n) samples of other classes as the target class.

  They are drawn from the other classes only, so that every one really changes.

  Args:
    key: decides which samples.
    label: true labels [n].
    rate: share of all n samples.
    target: the class that they are labelled as.

  Raises:
    UserError: the rate, the target or a label is out of range, or the other
      classes have too few samples.

  References:
    CUTS, arXiv 2511.18660, released code, which draws from all classes.
  """
  splits.check_rate(rate)
  errors.check(target >= 0, f'relabelling target {target} is not a class')
  host = splits.check_labels(
    label, 1 + max(target, int(np.max(label, initial=0)))
  )
  other = host != target
  count = splits.floor_share(rate, host.size)
  errors.check(
    count <= other.sum(),
    f'cannot relabel {count} samples: {other.sum()} are not of the target '
    f'class {target}; lower the rate',
  )
  mask = kind.first(key, other, count)
  return kind.result(np.where(mask, target, host), mask)


def _proxy(
  key: PRNGKey, label: Labels, num_classes: int, target: int = 0
) -> Corruption:
  """Every image that is not of the target class."""
  other = np.asarray(label) != target
  return kind.result(np.where(other, target, label), other)


def _arguments(settings: ConfigDict, known: Known) -> Info:
  return {'target': settings.target}


KIND = Kind(constant, _proxy, _arguments)
