"""Reads what a run left behind, and refuses what the report cannot show."""

import math
import pathlib
import zipfile
from typing import Any

import numpy as np

from cmu_jax.core import errors, files

Results = dict[str, Any]
Arrays = dict[str, np.ndarray]

SCHEMA = 1
_REQUIRED = {
  'name': str,
  'task': str,
  'smoke': bool,
  'provenance': dict,
  'config': dict,
  'class_names': list,
  'rows': list,
  'per_class': list,
  'curves': list,
}


def _check_rows(path: pathlib.Path, rows: list, finished: bool) -> None:
  """Every row names its method and seed, and every number is finite."""
  for i, row in enumerate(rows):
    errors.check(
      isinstance(row, dict) and {'method', 'seed'} <= row.keys(),
      f'{path}: rows[{i}] has no method or no seed; run again to rewrite it',
    )
    # Python reads NaN from JSON, and a NaN would spoil every mean.
    for key, value in row.items():
      errors.check(
        not isinstance(value, float) or math.isfinite(value),
        f'{path}: rows[{i}].{key} is not finite; write null where a number '
        'does not apply',
      )
  # A run that was stopped early has no rows at all.
  for method in ('corrupted', 'cuts') if rows or finished else ():
    errors.check(
      any(row['method'] == method for row in rows),
      f"{path}: rows hold no method '{method}', so there is nothing to "
      'compare; let the run finish',
    )


def results(workdir: pathlib.Path) -> Results:
  """The contents of results.json.

  Raises:
    UserError: the file is missing, broken, of another schema, or was not
      written by a run of this package.
  """
  path = workdir / 'results.json'
  errors.check(
    path.is_file(),
    f'{path} does not exist; give the work folder of a finished run',
  )
  value = files.read_json(path)
  errors.check(
    isinstance(value, dict) and 'schema' in value,
    f'{path} was not written by cmu_jax: it has no field schema; give the '
    'work folder of a finished run',
  )
  errors.check(
    # Another schema may give the same fields another meaning.
    value['schema'] == SCHEMA,
    f'{path}: schema is {value["schema"]!r}, this version reads {SCHEMA}; '
    'report with the version that ran it, or run again',
  )
  for key, kind in _REQUIRED.items():
    errors.check(
      isinstance(value.get(key), kind),
      f'{path}: field {key} is missing or not a {kind.__name__}; run again '
      'to rewrite it',
    )
  if value['task'] not in ('label_noise', 'poison'):
    raise errors.unknown_name('task', value['task'], ('label_noise', 'poison'))
  _check_rows(path, value['rows'], value.get('finished', True))
  return value


def _check_shapes(path: pathlib.Path, contents: Arrays, classes: int) -> None:
  for name in ('confusion_corrupted', 'confusion_cuts'):
    if name in contents:
      shape = contents[name].shape
      errors.check(
        len(shape) == 3 and shape[1:] == (classes, classes),
        f'{path}: {name} has shape {shape}, expected [seeds, {classes}, '
        f'{classes}]; run again to rewrite it',
      )
  # The figure indexes the three arrays together, so their shapes must agree.
  if 'feature_path' in contents:
    shape = contents['feature_path'].shape
    alphas = contents.get('feature_path_alpha', np.empty(0)).shape
    labels = contents.get('feature_path_label', np.empty(0)).shape
    errors.check(
      len(shape) == 3 and shape == (*alphas, *labels, 2),
      f'{path}: feature_path {shape} does not fit feature_path_alpha '
      f'{alphas} and feature_path_label {labels}; run again to rewrite it',
    )


def arrays(workdir: pathlib.Path, classes: int) -> Arrays:
  """The arrays of arrays.npz; none where the run wrote no such file.

  Args:
    workdir: work folder of a run.
    classes: number of classes, which the confusion matrices must have.

  Raises:
    UserError: the file is not an npz archive of plain arrays, or the arrays
      do not fit together.
  """
  path = workdir / 'arrays.npz'
  # An unfinished run has no arrays, but its table is still of use.
  if not path.is_file():
    return {}
  try:
    # Pickled arrays could run code, so they are refused.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
      contents = {name: archive[name] for name in archive.files}
  except (
    EOFError,
    OSError,
    TypeError,  # a lone .npy array is no archive to open
    ValueError,
    zipfile.BadZipFile,
  ) as error:
    raise errors.UserError(
      f'{path} is not an archive of plain arrays; run again to rewrite it'
    ) from error
  _check_shapes(path, contents, classes)
  return contents
