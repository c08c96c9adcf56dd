"""The flags of a command that takes its settings as one named tuple."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from cmu_jax import errors, literals, shell

T = TypeVar('T', bound=tuple)


def parse(
  argv: Sequence[str],
  kind: type[T],
  text: str,
  required: Sequence[str],
  like: Mapping[str, Any],
) -> T | None:
  """Reads a command line into a named tuple; None where help is asked for.

  Args:
    argv: the arguments.
    kind: a NamedTuple; each field is a flag of that name.
    text: printed for --help.
    required: fields that must be given.
    like: a value of the type that a flag's text is read as; others are text.

  Raises:
    UserError: an unknown, missing, empty or malformed flag.
  """
  fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
  parser = shell.Parser(add_help=False, allow_abbrev=False)
  parser.add_argument('--help', '-h', action='store_true')
  for field in fields:
    parser.add_argument(f'--{field}')
  found, rest = parser.parse_known_args(list(argv))
  if found.help:
    print(text)
    return None
  if rest:
    known = [f'--{field}' for field in fields]
    raise errors.unknown('argument', rest[0].partition('=')[0], known)
  given = {
    field: _value(field, typed, like)
    for field in fields
    if (typed := getattr(found, field)) is not None
  }
  missing = [f'--{field}' for field in required if field not in given]
  errors.check(
    not missing, f'{", ".join(missing)} missing: see --help for all flags'
  )
  return kind(**given)


def _value(field: str, text: str, like: Mapping[str, Any]) -> Any:
  errors.check(text, f'--{field}= is empty')
  if field not in like:
    return text
  return literals.parse(text, like[field], f'--{field}')


def positive(settings: Any, *fields: str) -> None:
  """Refuses numbers that are not above 0; None passes.

  Raises:
    UserError: names the flag.
  """
  for field in fields:
    value = getattr(settings, field)
    errors.check(
      value is None or value > 0, f'--{field} is {value}; it must be above 0'
    )


def one_of(settings: Any, field: str, known: Sequence[str]) -> None:
  """Refuses a value that is not a known one.

  Raises:
    UserError: names the flag and the nearest known value.
  """
  value = getattr(settings, field)
  if value not in known:
    raise errors.unknown(f'--{field}', value, known)


def statistics(settings: Any) -> None:
  """Refuses a mean without a standard deviation, or the other way round.

  Raises:
    UserError: one of them is missing.
  """
  errors.check(
    (settings.mean is None) == (settings.std is None),
    '--mean and --std go together: give both',
  )
