"""Protocol of a kind of corruption, and helpers that several kinds share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from cmu_jax.core import errors, files
from cmu_jax.core.types import Corruption, Info, PRNGKey, Trigger
from cmu_jax.data import splits
from cmu_jax.data.sources import npz
from cmu_jax.data.splits import Indices, Labels


class DatasetFacts(NamedTuple):
  """Facts of a dataset from which a kind derives its arguments.

  Attributes:
    label: the true training labels in the order of the source, before any
      split.
    class_names: name of each class, in label order.
    trigger: the backdoor trigger, or None.
  """

  label: np.ndarray
  class_names: tuple[str, ...]
  trigger: Trigger | None = None


class Kind(NamedTuple):
  """A kind of corruption: an entry of `cmu_jax.data.corruption.KINDS`.

  Attributes:
    draw: (key, label, rate, ...) -> Corruption. With the same key, a higher
      rate corrupts the same samples in the same way, and more.
    proxy: (key, label, num_classes, ...) -> Corruption of a proxy pool in full,
      whatever the rate was; the proxy consists of its masked images.
    arguments: (config.corruption, DatasetFacts) -> the arguments of `draw`,
      `proxy` and `affected_mask` beyond key, label and rate.
    affected_mask: (label, ...) -> the images of the pool for the baseline with
      clean proxy labels; None for all of them.
    per_sample: names of arguments with an entry for each image.
    task: the experiments of this kind, 'label_noise' or 'poison'.
  """

  draw: Callable[..., Corruption]
  proxy: Callable[..., Corruption]
  arguments: Callable[[ConfigDict, DatasetFacts], Info]
  affected_mask: Callable[..., Bool[np.ndarray, 'n']] | None = None
  per_sample: tuple[str, ...] = ()
  task: str = 'label_noise'


def check_target(label: Labels, target: int, name: str) -> np.ndarray:
  """Returns the labels on the host, if they and the target are classes.

  The number of classes is unknown here: the largest label bounds it.
  """
  errors.check(target >= 0, f'{name} target {target} is not a class')
  largest = max(target, int(np.max(label, initial=0)))
  return splits.check_labels(label, 1 + largest)


def index_mask(
  indices: Indices, eligible: Bool[np.ndarray, 'n'], message: str
) -> Bool[np.ndarray, 'n']:
  """Computes the mask of a published index set.

  Args:
    indices: the samples.
    eligible: marks the samples that this corruption may change.
    message: of the error for an index that is not eligible.

  Raises:
    UserError: an index is out of range, repeated or not eligible.
  """
  host = np.asarray(indices)
  size = eligible.size
  errors.check(
    host.size == 0 or (host.min() >= 0 and host.max() < size),
    f'indices run outside 0..{size - 1}; are they for another dataset?',
  )
  # With duplicates the set would be smaller than its publication says.
  errors.check(
    np.unique(host).size == host.size, 'indices has duplicates; remove them'
  )
  mask = np.zeros(size, bool)
  mask[host] = True
  errors.check(eligible[mask].all(), message)
  return mask


def random_mask(
  key: PRNGKey, eligible: Bool[np.ndarray, 'n'], count: int
) -> Bool[np.ndarray, 'n']:
  """Draws a mask of `count` random samples among the eligible ones."""
  # Eligible samples are class 0 here, so they are ranked among themselves.
  rank = splits.shuffled_rank(key, (~eligible).astype(np.int32))
  return eligible & (rank < count)


def class_share_mask(
  key: PRNGKey, label: np.ndarray, rate: float, num_classes: int
) -> Bool[np.ndarray, 'n']:
  """Draws a mask of floor(rate * n_c) random samples of every class c."""
  sizes = np.bincount(label, minlength=num_classes).tolist()
  # Exact for each class; a draw over all samples would vary by class.
  quota = np.array([splits.floor_share(rate, size) for size in sizes])
  return splits.shuffled_rank(key, label) < quota[label]


def make_corruption(
  label: np.ndarray, mask: np.ndarray, trigger: Trigger | None = None
) -> Corruption:
  """Builds a corruption from host arrays."""
  return Corruption(jnp.asarray(label, jnp.int32), jnp.asarray(mask), trigger)


def require(value: Any, kind: str, name: str) -> Any:
  """Returns the value; UserError if a proxy of this kind lacks it."""
  if value is None:
    raise errors.UserError(f"a '{kind}' proxy needs {name}")
  return value


def read_arrays(
  path: str, names: dict[str, bool], field: str
) -> dict[str, Any]:
  """Reads arrays of an .npz file by name.

  Args:
    path: of the file.
    names: name -> whether it is required.
    field: config.corruption.<field> gave the path, for error messages.

  Raises:
    UserError: no path, no such file, no archive of plain arrays, or a required
      name is absent (with the closest name in the file).
  """
  setting = f'config.corruption.{field}'
  errors.check(path, f'{setting} is empty; give the path of an .npz file')
  file = files.expand(path)
  errors.check(file.is_file(), f'{setting}: the file {file} does not exist')
  try:
    arrays = npz.read_arrays(file, 'save it with np.savez')
  except errors.UserError as error:
    raise errors.UserError(f'{setting}: {error}') from error
  for name, required in names.items():
    if required and name not in arrays:
      raise errors.unknown_name(f'array in {file}', name, arrays)
  return {name: arrays[name] for name in names if name in arrays}
