"""Interclass confusion: labels of two classes are exchanged."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, Info, PRNGKey
from cmu_jax.data import class_maps, splits
from cmu_jax.data.corruption import kind
from cmu_jax.data.corruption.kind import Kind, Known
from cmu_jax.data.splits import Indices, Labels


def first_of_each(
  label: Labels, pair: Sequence[int], count: int
) -> Int[np.ndarray, 'm']:
  """The first `count` samples of both classes of a pair, in data order.

  Interclass confusion of 2 * count samples was published with these: CIFAR-10
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
  return np.concatenate([where[:count] for where in members])


def interclass(
  key: PRNGKey,
  label: Labels,
  rate: float,
  pair: Sequence[int],
  indices: Indices | None = None,
) -> Corruption:
  """Gives min(floor(rate * n_a), floor(rate * n_b)) of a label b, and back.

  Args:
    key: decides which samples.
    label: true labels [n].
    rate: share of each of the two classes, 0 to 1.
    pair: the classes a and b.
    indices: the samples to corrupt instead of drawn ones; `rate` is unused.

  Raises:
    UserError: the rate or an index is out of range, the pair is not of two
      classes, or an index is of neither.

  References:
    CUTS, arXiv 2511.18660, released code; with `first_of_each`, Corrective
    Machine Unlearning, arXiv 2402.14015, section 4.
  """
  splits.check_rate(rate)
  errors.check(
    len(pair) == 2 and pair[0] != pair[1] and min(pair) >= 0,
    f'interclass confusion is of two different classes, not of {tuple(pair)}',
  )
  host = splits.check_labels(
    label, 1 + max(*pair, int(np.max(label, initial=0)))
  )
  of_pair = np.isin(host, pair)
  if indices is None:
    fewest = min(int((host == c).sum()) for c in pair)
    count = splits.floor_share(rate, fewest)
    mask = of_pair & (splits.shuffled_rank(key, host) < count)
  else:
    mask = kind.chosen(indices, host.size)
    errors.check(
      of_pair[mask].all(),
      f'indices has samples of other classes than {tuple(pair)}; drop them',
    )
  return kind.result(np.where(mask, sum(pair) - host, host), mask)


def _proxy(
  key: PRNGKey,
  label: Labels,
  num_classes: int,
  pair: Sequence[int] | None = None,
) -> Corruption:
  """The images whose labels were exchanged: as many of each class."""
  both = kind.needed(pair, 'interclass', 'a pair of classes')
  return interclass(key, label, 1.0, both)


def _arguments(settings: ConfigDict, known: Known) -> Info:
  names = known.class_names
  return {'pair': class_maps.pair_from_text(settings.class_map, names)}


def _affected(
  label: Labels, pair: Sequence[int] | None = None
) -> Bool[np.ndarray, 'n']:
  """The images of both classes."""
  return np.isin(label, kind.needed(pair, 'interclass', 'a pair of classes'))


KIND = Kind(interclass, _proxy, _arguments, _affected)
