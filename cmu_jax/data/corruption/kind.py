"""What a kind of corruption is, and what several kinds share.

Arrays from .npz files that a config names.
"""

import pathlib
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.types import Corruption, Info, PRNGKey, Trigger
from cmu_jax.data import splits
from cmu_jax.data.splits import Indices


class DatasetFacts(NamedTuple):
  """What an experiment knows when it asks a kind for its arguments.

  Attributes:
    label: the true training labels in the order of the source, before any
      split.
    class_names: one name a class, in label order.
    trigger: the backdoor trigger, or None.
  """

  label: np.ndarray
  class_names: tuple[str, ...]
  trigger: Trigger | None = None


class Kind(NamedTuple):
  """A kind of corruption: a line in `cmu_jax.data.corruption.KINDS`.

  Attributes:
    draw: (key, label, rate, ...) -> Corruption. With one key, what is
      corrupted at a rate is corrupted in the same way at higher ones.
    proxy: (key, label, num_classes, ...) -> Corruption of a proxy pool in
      full, whatever the rate was; its mask is what the proxy keeps.
    arguments: (config.corruption, Known) -> the arguments of `draw`, and of
      `proxy` and `affected`, that go beyond key, label and rate.
    affected: (label, ...) -> the images of the pool that the baseline with
      clean proxy labels sees; None where it sees all.
    per_sample: names of arguments with one entry an image of `Known.label`.
    task: the experiments that it belongs to, 'label_noise' or 'poison'.
  """

  draw: Callable[..., Corruption]
  proxy: Callable[..., Corruption]
  arguments: Callable[[ConfigDict, DatasetFacts], Info]
  affected_mask: Callable[..., Bool[np.ndarray, 'n']] | None = None
  per_sample: tuple[str, ...] = ()
  task: str = 'label_noise'


def index_mask(indices: Indices, size: int) -> Bool[np.ndarray, 'n']:
  """The mask of a given index set.

  Raises:
    UserError: an index is out of range or given twice.
  """
  host = np.asarray(indices)
  errors.check(
    host.size == 0 or (host.min() >= 0 and host.max() < size),
    f'indices run outside 0..{size - 1}; are they for another dataset?',
  )
  errors.check(
    np.unique(host).size == host.size, 'indices has duplicates; remove them'
  )
  mask = np.zeros(size, bool)
  mask[host] = True
  return mask


def random_mask(
  key: PRNGKey, eligible: Bool[np.ndarray, 'n'], count: int
) -> Bool[np.ndarray, 'n']:
  """A mask of `count` random samples among the eligible ones."""
  rank = splits.shuffled_rank(key, (~eligible).astype(np.int32))
  return eligible & (rank < count)


def class_share_mask(
  key: PRNGKey, label: np.ndarray, rate: float, num_classes: int
) -> Bool[np.ndarray, 'n']:
  """A mask of floor(rate * n_c) random samples of every class c."""
  size = np.bincount(label, minlength=num_classes).tolist()
  quota = np.array([splits.floor_share(rate, count) for count in size])
  return splits.shuffled_rank(key, label) < quota[label]


def make_corruption(
  label: np.ndarray, mask: np.ndarray, trigger: Trigger | None = None
) -> Corruption:
  """A corruption from host arrays."""
  return Corruption(jnp.asarray(label, jnp.int32), jnp.asarray(mask), trigger)


def require(value: Any, kind: str, what: str) -> Any:
  """The value, or UserError where a proxy of this kind lacks it."""
  if value is None:
    raise errors.UserError(f"a '{kind}' proxy needs {what}")
  return value


_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def read_arrays(
  path: str, names: dict[str, bool], field: str
) -> dict[str, Any]:
  """Arrays of an .npz file by name.

  Args:
    path: of the file.
    names: name -> whether it has to be there.
    field: config.corruption.<field> gave the path, for error messages.

  Raises:
    UserError: no path, no such file, no archive of plain arrays, or a name
      that it lacks (with the nearest one it has).
  """
  where = f'config.corruption.{field}'
  errors.check(path, f'{where} is empty; give the path of an .npz file')
  file = pathlib.Path(path).expanduser()
  errors.check(file.is_file(), f'{where}: the file {file} does not exist')
  try:
    # Opened here, since np.load leaves the file open if it is cut short.
    with file.open('rb') as opened:
      archive: Any = np.load(opened, allow_pickle=False)
      # A single .npy is an array, of which no name can be asked.
      there = getattr(archive, 'files', None)
      found = {n: archive[n] for n in names if n in (there or ())}
  except _BROKEN as error:
    raise errors.UserError(
      f'{where}: {file} is not a readable .npz of plain arrays '
      f'({errors.first_line(error)}); save it with np.savez'
    ) from error
  if there is None:
    raise errors.UserError(
      f'{where}: {file} is one array, not an .npz; save it with np.savez'
    )
  for name, required in names.items():
    if required and name not in found:
      raise errors.unknown_name(f'array in {file}', name, there)
  return found
