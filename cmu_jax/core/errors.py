"""One kind of error for what a user can mend: one line, exit code 2."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
  """Bad input. The message is one line: what is wrong, where, the remedy."""


class MultipleErrors(UserError):
  """More than one mistake, a line each."""


def check(condition: Any, message: str) -> None:
  """Raises UserError with `message` unless `condition` holds."""
  if not condition:
    raise UserError(message)


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> UserError:
  """The error for a name that is not one of `choices`, with the nearest one."""
  names = sorted(choices)
  near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  hint = f"did you mean '{near[0]}'?" if near else f'known: {", ".join(names)}'
  return UserError(f"unknown {kind} '{name}': {hint}")


def first_line(error: BaseException) -> str:
  """The beginning of another library's message, fit for one line of ours."""
  text = str(error).strip().splitlines() or [type(error).__name__]
  return ''.join(c if c.isprintable() else ' ' for c in text[0][:160])
