"""The list of suspects, and folders with copies for the other commands."""

import csv
import io
import math
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import PIL.Image

from cmu_jax.commands.find import case
from cmu_jax.commands.find.case import FindCase
from cmu_jax.commands.find.request import FindRequest
from cmu_jax.core import errors, files, progress
from cmu_jax.core.types import Info
from cmu_jax.methods.detection.suspects import Suspects

LIST, FOLDER = 'suspects.csv', 'suspects'
PRODUCTS = (LIST, 'report.html')
COLUMNS = (
  *('kind', 'rank', 'file', 'given label', 'suggested label'),
  *('certainty', 'expected precision', 'copy of'),
)
_UNSAFE = re.compile(r'[^\w.+-]+')


def list_rows(
  samples: FindCase, listed: dict[str, Suspects]
) -> list[dict[str, str]]:
  """Rows of the list: kind by kind, the most certain suspects first."""
  names = samples.class_names
  return [
    {
      'kind': kind,
      'rank': str(rank + 1),
      'file': samples.names[row],
      'given label': names[samples.label[row]],
      'suggested label': '' if suggested < 0 else names[suggested],
      'certainty': f'{certainty:.4f}',
      'expected precision': '' if math.isnan(share) else f'{share:.4f}',
      'copy of': '' if partner < 0 else samples.names[partner],
    }
    for kind, group in listed.items()
    for rank, (row, suggested, certainty, share, partner) in enumerate(
      zip(*group, strict=True)
    )
  ]


def write(
  request: FindRequest,
  samples: FindCase,
  listed: dict[str, Suspects],
  out: pathlib.Path,
) -> Info:
  """Writes suspects.csv and the folders; returns the counts of each kind.

  Args:
    request: with the precision down to which wrong labels are copied.
    samples: labelled.
    listed: kind -> suspects.
    out: folder of results.
  """
  # In memory first: a kill must not leave half of a list.
  text = io.StringIO()
  # Names of files may hold commas and quotes, which csv escapes.
  writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
  writer.writeheader()
  writer.writerows(list_rows(samples, listed))
  files.write_text(out / LIST, text.getvalue())
  record: Info = {'samples': len(samples.label), 'kinds': {}}
  for kind, group in listed.items():
    rows = group.row[: _count_sure(group, request.precision)]
    facts: dict[str, Any] = {
      'listed': len(group.row),
      'expected': float(group.certainty.sum()),
      'copied': 0,
      'precision': _precision_at(group, len(rows)),
      'list_precision': _precision_at(group, len(group.row)),
      'folder': None,
      'per_class': np.bincount(
        samples.label[group.row], minlength=len(samples.class_names)
      ).tolist(),
    }
    # Stored answers have no pictures to copy.
    if samples.image is not None and len(rows):
      facts['copied'] = len(rows)
      facts['folder'] = f'{FOLDER}/{kind.replace(" ", "_")}'
      _copy_all(samples, rows, out / facts['folder'])
    record['kinds'][kind] = facts
  return record


def _count_sure(group: Suspects, precision: float) -> int:
  """Length of the longest list of the expected precision; all if unknown."""
  # Unknown precisions count as good: outliers and copies are few.
  good = np.isnan(group.precision) | (group.precision >= precision)
  return int(np.flatnonzero(good).max(initial=-1)) + 1


def _precision_at(group: Suspects, count: int) -> float | None:
  if not count or math.isnan(group.precision[count - 1]):
    return None
  return float(group.precision[count - 1])


def _copy_all(
  samples: FindCase, rows: np.ndarray, folder: pathlib.Path
) -> None:
  """Copies pictures to <folder>/<given class>/, and removes earlier copies."""
  # Copies of a killed run may be of another number.
  if folder.exists():
    shutil.rmtree(folder)
  with progress.bar('copies', len(rows), 'pictures') as advance:
    for row in rows:
      # Names of classes come from an archive, too, and may be no file names.
      label = _UNSAFE.sub('_', samples.class_names[samples.label[row]])
      target = folder / label
      target.mkdir(parents=True, exist_ok=True)
      _copy(samples, int(row), target)
      advance()


def _copy(samples: FindCase, row: int, folder: pathlib.Path) -> None:
  source = case.source_file(samples.names[row])
  try:
    if source is not None:
      # Pictures of the same name lie in different subfolders of a class.
      shutil.copyfile(source, folder / f'{row:06}_{source.name}')
      return
    assert samples.image is not None
    path = folder / f'{row:06}.png'
    files.write(path, lambda file: save_png(samples.image, row, file))
  except OSError as error:
    raise errors.UserError(
      f'cannot copy {samples.names[row]} to {folder}: {error.strerror}; free '
      'space, or choose another --out'
    ) from error


def save_png(image: Any, row: int, file: Any) -> None:
  """Saves a picture of an array as PNG."""
  pixels = image[row]
  # Pillow knows no pictures of a single channel on an axis of its own.
  grey = pixels.shape[-1] == 1
  PIL.Image.fromarray(pixels[..., 0] if grey else pixels).save(file, 'PNG')
