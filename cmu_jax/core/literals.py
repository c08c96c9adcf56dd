"""Values typed on a command line, read by the type they replace."""

import ast
import math
import re
import warnings
from typing import Any

from cmu_jax.core import errors

# Of 32 bits; seeds have no sign.
_LARGEST: dict[type, float] = {int: 2**32 - 1, float: 3.4028235e38}
_KINDS = {
  bool: 'true or false',
  int: 'an int',
  float: 'a finite number',
  str: 'a string',
  tuple: 'a tuple such as 0,1,2',
  list: 'a list such as 0,1,2',
}


def parse(
  text: str,
  like: Any,
  field: str,
  separator: str = ',',
  is_current: bool = True,
) -> Any:
  """Reads `text` as a value of the type of `like`, strictly.

  Args:
    text: the user's input.
    like: the value it replaces. If that is None, any bool, int, float, tuple or
      list literal is taken as such and other text as a string; a tuple has
      items of the type of its first item.
    field: name of the field, for the error.
    separator: between the items of a tuple.
    is_current: `like` is a value, and no example of its type.

  Raises:
    UserError: the text is not of that type.
  """
  try:
    value = _parse_like(text.strip(), like, separator)
  except (ValueError, SyntaxError) as error:
    kind = _KINDS.get(type(like), type(like).__name__)
    if isinstance(like, tuple) and float in map(type, like):
      kind = 'numbers such as 0.5,0.25'
    current = f' (now {like!r})' if is_current else ''
    raise errors.UserError(
      f'{field} takes {kind}{current}, not {text!r}'
    ) from error
  _check_size(value, field)
  return value


def _check_size(value: Any, field: str) -> None:
  """Refuses numbers that a device cannot hold."""
  if isinstance(value, (tuple, list)):
    for item in value:
      _check_size(item, field)
  limit = _LARGEST.get(type(value))
  # Infinity has an error of its own.
  if limit is not None and math.isfinite(value):
    errors.check(
      abs(value) <= limit, f'{field} is {value}; the limit is {limit}'
    )


def parse_untyped(text: str) -> Any:
  """Reads a plain literal; any other text is a string."""
  # Lower-case words, because that is how the command line spells them.
  words = {'true': True, 'false': False, 'none': None}
  if text.lower() in words:
    return words[text.lower()]
  try:
    value = _evaluate(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text
  return value if isinstance(value, (int, float, str, tuple, list)) else text


def _parse_like(text: str, like: Any, separator: str) -> Any:
  if like is None:
    return parse_untyped(text)
  if isinstance(like, (tuple, list)):
    return type(like)(_parse_items(text, like, separator))
  return _parse_scalar(text, type(like))


def _parse_scalar(text: str, kind: type) -> Any:
  """Reads a scalar, or raises ValueError."""
  if kind is bool:
    if text.lower() not in ('true', 'false'):
      raise ValueError(text)
    return text.lower() == 'true'
  if kind is float:
    number = float(text)
    # float() accepts 'nan' and 'inf', which no setting can mean.
    if not math.isfinite(number):
      raise ValueError(text)
    return number
  if kind is int:
    return int(text)
  if kind is str:
    return text
  raise ValueError(text)


def _parse_items(text: str, like: tuple | list, separator: str) -> list[Any]:
  """Reads the items of '0,1,2', '(0,1,2)' or '[0,1,2]', or raises."""
  flat = re.fullmatch(r'\((.*)\)|\[(.*)\]|([^()\[\]]*)', text)
  kinds = {type(item) for item in like}
  if flat is None or kinds & {tuple, list}:
    return _parse_nested(text)
  inside = next(group for group in flat.groups() if group is not None).strip()
  inside = inside.removesuffix(separator)
  words = [word.strip() for word in inside.split(separator)] if inside else []
  if '' in words:
    raise ValueError(text)
  # An empty or mixed tuple says nothing about the type of a new item.
  if len(kinds) != 1:
    return [parse_untyped(word) for word in words]
  kind = kinds.pop()
  # Quotes around the strings of a tuple are optional: shells remove them.
  return [
    _parse_scalar(word.strip('\'"') if kind is str else word, kind)
    for word in words
  ]


def _parse_nested(text: str) -> list[Any]:
  value = _evaluate(text)
  if not isinstance(value, (tuple, list)):
    raise ValueError(text)
  return list(value)


def _evaluate(text: str) -> Any:
  # Python warns about odd escapes in quoted text, on stderr.
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return ast.literal_eval(text)
