"""Files of finished groups, each written whole, and what their names say."""

import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import errors, files, manifest

Arrays = dict[str, Any]

_WEIGHTS = 'weights'


def path(folder: pathlib.Path, name: str) -> pathlib.Path:
  """Where a group is kept; `name` is a digest of all that it depends on."""
  return folder / 'shadow' / f'{name[:24]}.npz'


def kept(where: pathlib.Path | None, compute: Callable[[], Arrays]) -> Arrays:
  """The arrays of a group, from its file or computed and written.

  Args:
    where: the file; None for none.
    compute: () -> arrays by name.

  Raises:
    UserError: the file is broken, or cannot be written.
  """
  if where is None:
    return compute()
  if not where.exists():
    found = compute()
    files.write(where, lambda file: np.savez(file, **found))
    return found
  try:
    with where.open('rb') as file, np.load(file, allow_pickle=False) as stored:
      return {name: stored[name] for name in stored.files}
  except (OSError, ValueError, zipfile.BadZipFile) as error:
    raise errors.UserError(
      f'cannot read {where}: {error}; remove it to train its models again'
    ) from error


def flat(statistics: dict[str, Any], part: str, count: int) -> Arrays:
  """Statistics of the first `count` models, by names within a file."""
  return {
    f'{part}/{name}': np.asarray(values)[:count]
    for name, values in statistics.items()
  }


def part(groups: list[Arrays], name: str) -> Arrays:
  """Statistics of all groups by signal; {} where there are none."""
  prefix = f'{name}/'
  return {
    key.removeprefix(prefix): np.concatenate([one[key] for one in groups])
    for key in groups[0]
    if key.startswith(prefix)
  }


def weights(variables: PyTree, count: int) -> Arrays:
  """The weights of the first `count` models, by names within a file."""
  return {
    f'{_WEIGHTS}/{key}': np.asarray(leaf)[:count]
    for key, leaf in manifest.named(variables).items()
  }


def statistics(arrays: Arrays) -> Arrays:
  """All but the weights."""
  return {
    key: value
    for key, value in arrays.items()
    if not key.startswith(f'{_WEIGHTS}/')
  }


def restored(groups: list[Arrays], template: PyTree) -> PyTree:
  """The weights of all groups, stacked, in the structure of one model."""
  found = part(groups, _WEIGHTS)
  values = [found[key] for key in manifest.named(template)]
  return jax.tree.unflatten(jax.tree.structure(template), values)


def padded(values: np.ndarray, size: int) -> np.ndarray:
  """The first axis made `size` long by repeating the last model."""
  index = np.minimum(np.arange(size), len(values) - 1)
  return values[index]


def held(count: int, most: int, block: int) -> int:
  """How many models a group holds: whole blocks, groups as even as they can be.

  Args:
    count: of all models.
    most: that fit into the memory, a block or more.
    block: models of a program.
  """
  blocks = -(-count // block)
  number = -(-blocks // (most // block))
  return -(-blocks // number) * block
