"""The flags of a command that takes its settings as one named tuple."""

import importlib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cmu_jax.commands import shell
from cmu_jax.core import errors, literals

T = TypeVar('T', bound=tuple)
# A value of each type that a flag may have.
_SAMPLES: dict[Any, Any] = {bool: True, int: 1, float: 1.0, str: ''}


def parse(argv: Sequence[str], kind: type[T], text: str) -> T | None:
  """Reads a command line into a named tuple; None where help is asked for.

  Args:
    argv: the arguments.
    kind: a NamedTuple; each field is a flag of that name and type, and one
      without a default must be given.
    text: printed for --help.

  Raises:
    UserError: an unknown, missing, empty or malformed flag.
  """
  fields = typing.get_type_hints(kind)
  defaults: dict[str, Any] = kind._field_defaults  # type: ignore[attr-defined]
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
    raise errors.unknown_name('argument', rest[0].partition('=')[0], known)
  given = {
    field: _parse_value(field, typed, _sample_value(hint, defaults.get(field)))
    for field, hint in fields.items()
    if (typed := getattr(found, field)) is not None
  }
  missing = [f'--{f}' for f in fields if f not in {**defaults, **given}]
  errors.check(
    not missing, f'{", ".join(missing)} missing: see --help for all flags'
  )
  return kind(**given)


def run_request(
  ask: Callable[[Sequence[str]], Any], package: str, argv: Sequence[str] | None
) -> int:
  """Runs a command of one request and returns the exit code, see `shell.run`.

  Args:
    ask: reads the arguments; None where only help was asked for.
    package: has `job.run`, request to results, and `words.console`, what of
      them is printed.
    argv: the arguments; None for those of this process.
  """

  def run(given: Sequence[str]) -> None:
    asked = ask(given)
    if asked is None:
      return
    shell.set_up()
    # Only now, as these import JAX, so that errors are quick.
    job = importlib.import_module(f'{package}.job')
    screen = 'words' if package.endswith('repair') else 'page'
    words = importlib.import_module(f'{package}.{screen}')
    print(words.console(job.run(asked)))

  return shell.run(run, argv)


def _sample_value(hint: Any, default: Any) -> Any:
  """A value of a field's type, its default where there is one."""
  if default is not None:
    return default
  union = isinstance(hint, types.UnionType)
  options = typing.get_args(hint) if union else (hint,)
  chosen = next(option for option in options if option is not type(None))
  if typing.get_origin(chosen) is tuple:
    return (_SAMPLES[typing.get_args(chosen)[0]],)
  return _SAMPLES[chosen]


def _parse_value(field: str, text: str, like: Any) -> Any:
  errors.check(text, f'--{field}= is empty')
  if isinstance(like, str):
    return text
  return literals.parse(text, like, f'--{field}')


def check_positive(settings: Any, *fields: str) -> None:
  """Refuses numbers that are not above 0; None passes.

  Raises:
    UserError: names the flag.
  """
  for field in fields:
    value = getattr(settings, field)
    errors.check(
      value is None or value > 0, f'--{field} is {value}; it must be above 0'
    )


def check_choice(settings: Any, field: str, known: Sequence[str]) -> None:
  """Refuses a value that is not a known one.

  Raises:
    UserError: names the flag and the nearest known value.
  """
  value = getattr(settings, field)
  if value not in known:
    raise errors.unknown_name(f'--{field}', value, known)


def check_statistics(settings: Any) -> None:
  """Refuses a mean without a standard deviation, or the other way round.

  Raises:
    UserError: one of them is missing.
  """
  errors.check(
    (settings.mean is None) == (settings.std is None),
    '--mean and --std go together: give both',
  )
