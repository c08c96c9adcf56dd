"""Errors that a user can correct: one line, exit code 2."""

import difflib
from collections.abc import Iterable
from typing import Any


# A ValueError, because callers of the functions expect that of bad arguments.
class UserError(ValueError):
  """Bad input. The message is one line: the mistake, its place, the remedy."""


class MultipleErrors(UserError):
  """Several mistakes, one on each line of the message."""


def check(condition: Any, message: str) -> None:
  """Raises UserError with `message` unless `condition` holds."""
  if not condition:
    raise UserError(message)


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> UserError:
  """Builds the error for a name outside `choices`, with the closest match."""
  options = sorted(choices)
  # A typo shares most of its letters with the name; below 0.5 the suggestion
  # misleads, and the full list helps more.
  close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
  listed = f'known: {", ".join(options)}'
  hint = f"did you mean '{close[0]}'?" if close else listed
  return UserError(f"unknown {kind} '{name}': {hint}")


def first_line(error: BaseException) -> str:
  """Shortens another library's message to a part of one line."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  # Control characters of the message would garble the terminal.
  return ''.join(c if c.isprintable() else ' ' for c in lines[0][:160])
