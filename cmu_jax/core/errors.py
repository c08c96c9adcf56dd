"""Sentences for a user: errors stop the work (exit code 2), remarks do not."""

import contextlib
import contextvars
import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# A context variable, because the readers of files lie far below the report, and
# a library call without a report must collect nothing.
_remarks: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
  'remarks', default=None
)


# A ValueError, because callers of the functions expect that of bad arguments.
class UserError(ValueError):
  """Bad input. The message is one line: the mistake, its place, the remedy."""


class MultipleErrors(UserError):
  """Several mistakes, one on each line of the message."""


def check(condition: Any, message: str) -> None:
  """Raises UserError with `message` unless `condition` holds."""
  if not condition:
    raise UserError(message)


def collect(*checks: Callable[[], Any]) -> None:
  """Makes all checks, and raises the mistakes of all of them together.

  Args:
    *checks: () -> anything; raises UserError for a mistake.

  Raises:
    UserError: one mistake as it was raised, several as MultipleErrors.
  """
  mistakes: list[UserError] = []
  for make in checks:
    try:
      make()
    except UserError as error:
      mistakes.append(error)
  if len(mistakes) == 1:
    raise mistakes[0]
  if mistakes:
    # A mistake that quotes line breaks is still one line.
    lines = [
      str(mistake)
      if isinstance(mistake, MultipleErrors)
      else ' '.join(str(mistake).split())
      for mistake in mistakes
    ]
    raise MultipleErrors('\n'.join(dict.fromkeys(lines)))


def closest_name(name: str, choices: Iterable[str]) -> str | None:
  """Returns the choice that is most like a name; None if none is like it."""
  options = sorted(choices)
  # A typo shares most of its letters with the name; below 0.5 the suggestion
  # misleads, and the full list helps more.
  close = difflib.get_close_matches(name, options, n=9, cutoff=0.5)
  # Of equally close names, the one that begins alike: resnet20 for resnet21.
  close.sort(
    key=lambda option: (
      -difflib.SequenceMatcher(a=option, b=name).ratio(),
      -_shared_start(name, option),
    )
  )
  return close[0] if close else None


def unknown_name(kind: str, name: Any, choices: Iterable[str]) -> UserError:
  """Builds the error for a name outside `choices`, with the closest match."""
  options = sorted(choices)
  # A number or another value that a caller gave in place of a name.
  close = closest_name(str(name), options)
  listed = f'known: {", ".join(options)}'
  hint = f"did you mean '{close}'?" if close else listed
  return UserError(f"unknown {kind} '{name}': {hint}")


def describe_value(value: Any) -> str:
  """Names a value in an error: a number or text itself, else its type."""
  # The text of an array or of a network would fill the screen.
  plain = value is None or isinstance(value, int | float | str)
  text = repr(value)
  return text if plain and len(text) < 80 else f'of type {type(value).__name__}'


def _shared_start(left: str, right: str) -> int:
  """Counts the letters with which both texts begin."""
  pairs = zip(left, right, strict=False)
  return sum(
    1 for _ in itertools.takewhile(lambda pair: len({*pair}) < 2, pairs)
  )


def first_line(error: BaseException) -> str:
  """Shortens another library's message to a part of one line."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  # Control characters of the message would garble the terminal.
  return ''.join(c if c.isprintable() else ' ' for c in lines[0][:160])


def count_text(count: int, noun: str) -> str:
  """Formats a count and its noun: '1 picture', '2 pictures'."""
  return f'{count} {noun}{"s" * (count != 1)}'


def remark(sentence: str) -> None:
  """Tells the user a fact about the input that does not stop the work.

  The sentence is printed at once, before long work begins, and goes into the
  report of a command. A sentence is said once.
  """
  sentences = _remarks.get()
  if sentences is not None:
    if sentence in sentences:
      return
    sentences.append(sentence)
  print(sentence, flush=True)


@contextlib.contextmanager
def collect_remarks() -> Iterator[list[str]]:
  """Collects the remarks inside the block."""
  sentences: list[str] = []
  token = _remarks.set(sentences)
  try:
    yield sentences
  finally:
    _remarks.reset(token)


def collected_remarks() -> tuple[str, ...]:
  """Returns the remarks that the enclosing block has collected so far."""
  return tuple(_remarks.get() or ())
