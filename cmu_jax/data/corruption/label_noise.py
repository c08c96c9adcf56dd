"""Label noise of four kinds: symmetric, asymmetric, constant, interclass."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from cmu_jax.core import array_checks, errors
from cmu_jax.core.types import Corruption, Info, PRNGKey
from cmu_jax.data import splits
from cmu_jax.data.corruption import class_maps, kind
from cmu_jax.data.corruption.kind import DatasetFacts, Kind
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
    key: determines the samples and their new classes.
    label: true labels [n].
    rate: share of all n samples, 0 to 1.
    num_classes: k, at least 2.
    indices: the samples to corrupt instead of random ones; `rate` is unused.

  Raises:
    UserError: the rate, a label or an index is out of range.

  References:
    CUTS, arXiv 2511.18660, section 4.
  """
  splits.check_rate(rate)
  errors.check(num_classes >= 2, 'label noise needs at least 2 classes')
  host = splits.check_labels(label, num_classes)
  array_checks.check_key(key)
  sample_key, class_key = jax.random.split(key)
  everyone = np.ones(host.size, bool)
  if indices is None:
    count = splits.floor_share(rate, host.size)
    mask = kind.random_mask(sample_key, everyone, count)
  else:
    mask = kind.index_mask(indices, everyone, '')
  # A step for every sample, corrupted or not: a higher rate then moves the same
  # samples to the same classes.
  step = np.asarray(jax.random.randint(class_key, host.shape, 1, num_classes))
  moved = (host + step) % num_classes
  return kind.make_corruption(np.where(mask, moved, host), mask)


SYMMETRIC = Kind(
  symmetric,
  proxy=lambda key, label, num_classes: symmetric(key, label, 1.0, num_classes),
  arguments=lambda settings, facts: {'num_classes': len(facts.class_names)},
)


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
    key: determines the samples.
    label: true labels [n].
    rate: share of each source class, 0 to 1.
    class_map: source class to target class, see `class_maps`.
    indices: the samples to corrupt instead of random ones; `rate` is unused.
    num_classes: k, to check the labels and the map against.

  Raises:
    UserError: the rate, a label, a class or an index is out of range, or an
      index is of a class that the map does not move.

  References:
    CUTS, arXiv 2511.18660, section 4.
  """
  splits.check_rate(rate)
  # Without num_classes the largest class in sight is taken for the last one.
  names = [str(c) for c in range(num_classes or 0)]
  pairs = class_maps.resolve_class_map(class_map, names)
  largest = max(*pairs, *pairs.values(), np.max(label, initial=0))
  k = num_classes or int(largest) + 1
  host = splits.check_labels(label, k)
  target_of = np.arange(k)
  target_of[list(pairs)] = list(pairs.values())
  moved = target_of[host]
  source = moved != host
  if indices is None:
    # A share of every class, of which only source classes count.
    mask = source & kind.class_share_mask(key, host, rate, k)
  else:
    mask = kind.index_mask(
      indices,
      source,
      'indices has samples of a class that class_map does not move; '
      'add the class to class_map or drop them',
    )
  return kind.make_corruption(np.where(mask, moved, host), mask)


def _asymmetric_proxy(
  key: PRNGKey,
  label: Labels,
  num_classes: int,
  class_map: Mapping | None = None,
) -> Corruption:
  pairs = kind.require(class_map, 'asymmetric', 'a class_map')
  return asymmetric(key, label, 1.0, pairs, num_classes=num_classes)


def _asymmetric_arguments(settings: ConfigDict, facts: DatasetFacts) -> Info:
  names = facts.class_names
  return {'class_map': class_maps.parse_class_map(settings.class_map, names)}


def _asymmetric_affected(
  label: Labels, class_map: Mapping | None = None
) -> Bool[np.ndarray, 'n']:
  """Marks the images of the source classes."""
  pairs = kind.require(class_map, 'asymmetric', 'a class_map')
  return np.isin(label, list(class_maps.resolve_class_map(pairs)))


ASYMMETRIC = Kind(
  asymmetric, _asymmetric_proxy, _asymmetric_arguments, _asymmetric_affected
)


def constant(
  key: PRNGKey, label: Labels, rate: float, target: int = 0
) -> Corruption:
  """Gives floor(rate * n) samples of other classes the target label.

  Args:
    key: determines the samples.
    label: true labels [n].
    rate: share of all n samples.
    target: their new class.

  Raises:
    UserError: the rate, the target or a label is out of range, or the other
      classes have too few samples.

  References:
    CUTS, arXiv 2511.18660, released code, which draws from all classes.
  """
  splits.check_rate(rate)
  host = kind.check_target(label, target, 'relabelling')
  # Without the target class, so that every drawn label really changes.
  eligible = host != target
  count = splits.floor_share(rate, host.size)
  errors.check(
    count <= eligible.sum(),
    f'cannot relabel {count} samples: {eligible.sum()} are not of the target '
    f'class {target}; lower the rate',
  )
  mask = kind.random_mask(key, eligible, count)
  return kind.make_corruption(np.where(mask, target, host), mask)


def _constant_proxy(
  key: PRNGKey, label: Labels, num_classes: int, target: int = 0
) -> Corruption:
  """Relabels every image outside the target class."""
  # No draw: every image that can change does.
  eligible = np.asarray(label) != target
  return kind.make_corruption(np.where(eligible, target, label), eligible)


CONSTANT = Kind(
  constant,
  _constant_proxy,
  arguments=lambda settings, facts: {'target': settings.target},
)


def first_of_each(
  label: Labels, pair: Sequence[int], count: int
) -> Int[np.ndarray, 'm']:
  """Selects the first `count` samples of both classes of a pair.

  The published interclass confusion of 2 * count samples uses these: CIFAR-10
  cat and dog with count=2500, for example.

  Raises:
    UserError: a class has fewer samples.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, released code.
  """
  members = [np.flatnonzero(np.asarray(label) == c) for c in pair]
  fewest = min(map(len, members))
  errors.check(
    0 <= count <= fewest,
    f'cannot take {count} samples of each of the classes {tuple(pair)}: one '
    f'has {fewest}; lower the count',
  )
  return np.concatenate([positions[:count] for positions in members])


def interclass(
  key: PRNGKey,
  label: Labels,
  rate: float,
  pair: Sequence[int],
  indices: Indices | None = None,
) -> Corruption:
  """Exchanges labels between the classes a and b.

  min(floor(rate * n_a), floor(rate * n_b)) samples of a get label b, and as
  many of b get label a.

  Args:
    key: determines the samples.
    label: true labels [n].
    rate: share of each of the two classes, 0 to 1.
    pair: the classes a and b.
    indices: the samples to corrupt instead of random ones; `rate` is unused.

  Raises:
    UserError: the rate or an index is out of range, the pair is not of two
      classes, or an index is of a third class.

  References:
    CUTS, arXiv 2511.18660, released code; with `first_of_each`, Corrective
    Machine Unlearning, arXiv 2402.14015, section 4.
  """
  splits.check_rate(rate)
  errors.check(
    len(pair) == 2 and pair[0] != pair[1] and min(pair) >= 0,
    f'interclass confusion is of two different classes, not of {tuple(pair)}',
  )
  host = kind.check_target(label, max(pair), 'interclass')
  in_pair = np.isin(host, pair)
  if indices is None:
    # As many of each class, so the sizes of the classes stay the same.
    fewest = min(int((host == c).sum()) for c in pair)
    count = splits.floor_share(rate, fewest)
    mask = in_pair & (splits.shuffled_rank(key, host) < count)
  else:
    mask = kind.index_mask(
      indices,
      in_pair,
      f'indices has samples of other classes than {tuple(pair)}; drop them',
    )
  # a + b - label is the other class of the pair.
  return kind.make_corruption(np.where(mask, sum(pair) - host, host), mask)


def _interclass_proxy(
  key: PRNGKey,
  label: Labels,
  num_classes: int,
  pair: Sequence[int] | None = None,
) -> Corruption:
  """Exchanges as many labels as possible."""
  # Rate 1 exchanges all labels of the smaller class, and as many of the other.
  classes = kind.require(pair, 'interclass', 'a pair of classes')
  return interclass(key, label, 1.0, classes)


def _interclass_arguments(settings: ConfigDict, facts: DatasetFacts) -> Info:
  names = facts.class_names
  return {'pair': class_maps.parse_class_pair(settings.class_map, names)}


def _interclass_affected(
  label: Labels, pair: Sequence[int] | None = None
) -> Bool[np.ndarray, 'n']:
  """Marks the images of both classes."""
  return np.isin(label, kind.require(pair, 'interclass', 'a pair of classes'))


INTERCLASS = Kind(
  interclass, _interclass_proxy, _interclass_arguments, _interclass_affected
)
