"""The side file of somebody's weights: what it may say, and of which kind."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from cmu_jax.core import errors
from cmu_jax.networks.weights import files

FIELDS = ('mean', 'std', 'image_size', 'class_names', 'target')
_OTHERS = ('model', 'notes')


def _number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(value: Any) -> bool:
  return isinstance(value, list) and bool(value) and all(map(_number, value))


def _pixels(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _class(value: Any) -> bool:
  return isinstance(value, str | int) and not isinstance(value, bool)


def _names(value: Any) -> bool:
  return isinstance(value, list) and all(map(_class, value))


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
  'mean': (_numbers, 'a list of numbers, one a channel'),
  'std': (_numbers, 'a list of numbers, one a channel'),
  'image_size': (_pixels, 'a whole number of pixels above 0'),
  'class_names': (_names, 'a list of names, in the order of the outputs'),
  'target': (_class, 'the name or the number of a class'),
}


def read(path: os.PathLike | str) -> dict[str, Any]:
  """The side file of weights; {} where there is none.

  Fields that are null count as not said. A single number for mean or std is
  that of all channels.

  Raises:
    UserError: the file is not a JSON object, a field is unknown or of another
      kind than it must be.
  """
  return checked(files.side_file(path), str(path))


def checked(side: Mapping[str, Any], path: str) -> dict[str, Any]:
  """The fields of a side file as lists where they must be lists.

  Raises:
    UserError: names the field.
  """
  found = dict(side)
  for name, value in side.items():
    if name not in (*FIELDS, *_OTHERS):
      raise errors.unknown('field of the side file', name, FIELDS)
    if name not in _RULES or value is None:
      continue
    if name in ('mean', 'std') and _number(value):
      value = found[name] = [value]
    fits, wanted = _RULES[name]
    errors.check(
      fits(value),
      f"'{name}' in the side file of {path} is {value!r:.60}; it must be "
      f'{wanted}',
    )
  return found
