"""What cells of a run found, each a file named by what it depends on."""

import hashlib
import pathlib
from typing import Any

import numpy as np

from cmu_jax.core import errors, files
from cmu_jax.core.types import Dataset, Info


def data_sum(dataset: Dataset) -> str:
  """SHA-256 of all images and labels: two folders of one name may differ."""
  digest = hashlib.sha256()
  for batch in (dataset.train, dataset.test):
    digest.update(np.ascontiguousarray(batch.image).data)
    digest.update(np.ascontiguousarray(batch.label).data)
  return digest.hexdigest()


def _path(folder: pathlib.Path, name: str) -> pathlib.Path:
  return folder / 'cells' / f'{name[:24]}.json'


def read(folder: pathlib.Path, name: str) -> Info | None:
  """What a cell found, or None if it is still to be done."""
  path = _path(folder, name)
  if not path.exists():
    return None
  record: Any = files.read_json(path)
  errors.check(
    isinstance(record, dict) and record.get('address') == name,
    f'{path} is not a cell of this sweep: remove it',
  )
  return record


def write(folder: pathlib.Path, name: str, record: Info) -> None:
  """Keeps what a cell found."""
  files.write_json(_path(folder, name), {'address': name, **record})
