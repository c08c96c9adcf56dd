"""Commands of one request: its help text gives flags, checks and docstring.

A request is a NamedTuple: names, types and defaults of the flags. The help text
describes each of them as `  --name=VALUE  text`; an alternative `a|b` in VALUE
is a list of permitted values.
"""

import functools
import numbers
import os
import re
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from cmu_jax.commands import shell
from cmu_jax.core import errors, literals

R = TypeVar('R', bound=tuple)
# A value of each type that a flag may have.
_SAMPLES: dict[Any, Any] = {bool: True, int: 1, float: 1.0, str: ''}
# Types that a call from Python may give for each of them.
_ACCEPTED: dict[Any, Any] = {
  # Numbers of NumPy too, which is not imported for --help.
  int: numbers.Integral,
  float: numbers.Real,
  str: str | os.PathLike,
  tuple: tuple | list,
}
_WORDS = {str: 'text', int: 'an integer', float: 'a number'}
# () -> (request -> results, results -> printed text); imports JAX.
Load = Callable[[], tuple[Callable[[Any], Any], Callable[[Any], str]]]
# Beyond these, a typing error is more likely than a wish.
_LARGEST = {
  'epochs': 100_000,
  'steps': 10_000_000,
  'batch_size': 1_000_000,
  'image_size': 10_000,
  'refs': 10_000,
  'replicates': 1_000_000,
  'pad': 10_000,
  'seed': 2**31 - 1,
}
_MEMORY_REMEDY = 'lower --batch_size, or give fewer or smaller pictures'
_FLAG = re.compile(
  r'^  --(\w+)=(\S+)(?: {2,}(.*)|)((?:\n {10,}\S.*)*)', re.MULTILINE
)


class Command(NamedTuple):
  """A command that turns a request into a folder of results.

  Attributes:
    request: NamedTuple of its flags.
    text: printed for --help.
    check: refuses impossible values, and values that contradict each other.
    looks: flags that measure a result and choose nothing, so that they may be
      added to a finished run.
  """

  request: type[Any]
  text: str
  check: Callable[[Any], None]
  looks: tuple[str, ...] = ()


def add_attributes(text: str) -> Callable[[type[R]], type[R]]:
  """Completes the docstring of a request by the flags of its help text."""

  def decorate(kind: type[R]) -> type[R]:
    flags = {name: rest for name, _, *rest in _FLAG.findall(text)}
    # The text of a flag continues on indented lines.
    fields = [
      textwrap.fill(
        f'{name}: {" ".join(" ".join(flags[name]).split())}.',
        76,
        initial_indent='  ',
        subsequent_indent='    ',
      )
      for name in typing.get_type_hints(kind)
    ]
    kind.__doc__ = '\n'.join([f'{kind.__doc__}\n\nAttributes:', *fields])
    return kind

  return decorate


def check(command: Command, request: Any, absent: Sequence[str] = ()) -> Any:
  """Returns the request if all its values are possible.

  Args:
    command: of the request.
    request: its values.
    absent: flags that are reported as missing already.

  Raises:
    UserError: names each wrong flag.
  """
  errors.collect(
    *(
      functools.partial(_check_choice, name, getattr(request, name), choices)
      for name, alternatives, _, _ in _FLAG.findall(command.text)
      if len(choices := alternatives.split('|')) > 1 and name not in absent
    ),
    functools.partial(_check_numbers, request),
    functools.partial(command.check, request),
  )
  return request


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
  # None is inferred later.
  if value is not None and str(value) not in choices:
    raise errors.unknown_name(f'--{name}', str(value), choices)


def _check_numbers(request: Any) -> None:
  """Checks the numbers that several commands have in common."""
  for name, limit in _LARGEST.items():
    value = getattr(request, name, None)
    errors.check(
      value is None or value <= limit,
      f'--{name} is {value}; it may be at most {limit}',
    )
  if hasattr(request, 'mean'):
    errors.check(
      (request.mean is None) == (request.std is None),
      '--mean and --std go together: give both',
    )
    numbers = ('image_size', 'learning_rate', 'batch_size')
    check_positive(request, *(n for n in numbers if hasattr(request, n)))


def check_positive(request: Any, *names: str) -> None:
  """Refuses numbers that are not above 0; None passes.

  Raises:
    UserError: names the flag.
  """
  for name in names:
    value = getattr(request, name)
    errors.check(
      value is None or value > 0, f'--{name} is {value}; it must be above 0'
    )


def check_least(request: Any, **limits: int) -> None:
  """Refuses numbers below a limit.

  Raises:
    UserError: names the flag.
  """
  for name, limit in limits.items():
    value = getattr(request, name)
    errors.check(
      value >= limit, f'--{name} is {value}; it must be at least {limit}'
    )


def parse(command: Command, argv: Sequence[str]) -> Any:
  """Reads a command line into a request; prints help and returns None for it.

  Raises:
    UserError: an unknown, missing, empty, malformed or impossible flag.
  """
  kind = command.request
  defaults, hints = kind._field_defaults, typing.get_type_hints(kind)
  parser = shell.Parser(add_help=False, allow_abbrev=False)
  parser.add_argument('--help', '-h', action='store_true')
  for name in hints:
    # As text: argparse would report a bad number in its own words.
    parser.add_argument(f'--{name}')
  texts, unknown = parser.parse_known_args(list(argv))
  if texts.help:
    print(command.text)
    return None
  values: dict[str, Any] = {}

  def read(name: str, text: str) -> None:
    values[name] = _parse_value(name, text, hints[name], defaults.get(name))

  typed = {
    name: text for name in hints if (text := getattr(texts, name)) is not None
  }
  names = [f'--{name}' for name in hints]
  missing = [n for n in hints if n not in {**defaults, **typed}]
  errors.collect(
    *(functools.partial(_refuse, word, names) for word in unknown),
    *(functools.partial(read, *item) for item in typed.items()),
    functools.partial(_check_complete, missing),
    # A malformed value would be reported as an absent one too.
    lambda: (
      typed.keys() == values.keys()
      and check(
        command, kind(**dict.fromkeys(missing), **values), absent=missing
      )
    ),
  )
  return kind(**values)


def _refuse(word: str, names: Sequence[str]) -> None:
  raise errors.unknown_name('argument', word.partition('=')[0], names)


def _check_complete(missing: Sequence[str]) -> None:
  listed = ', '.join(f'--{name}' for name in missing)
  errors.check(not missing, f'{listed} missing: see --help for all flags')


def run(command: Command, load: Load, argv: Sequence[str]) -> int:
  """Runs a command and returns its exit code, see `shell.run`.

  Args:
    command: its flags.
    load: imports the work, see `Load`.
    argv: the arguments.
  """

  def act(words: Sequence[str]) -> None:
    request = parse(command, words)
    if request is None:
      return
    shell.set_up()
    # JAX takes seconds to import: the flags are checked without it.
    with (
      shell.report_device_errors(_MEMORY_REMEDY),
      errors.collect_remarks(),
    ):
      work, describe = load()
      results = work(request)
    print(describe(results))

  return shell.run(act, argv)


def call(command: Command, load: Load, settings: Mapping[str, Any]) -> Any:
  """Runs a command from Python and returns its results.

  Raises:
    UserError: settings, weights or pictures that do not fit.
  """
  request = check(command, make_request(command, settings))
  shell.ignore_unusable_backend()
  with shell.report_device_errors(_MEMORY_REMEDY), errors.collect_remarks():
    work, _ = load()
    return work(request)


def make_request(command: Command, settings: Mapping[str, Any]) -> Any:
  """Makes the request of a call from Python.

  Raises:
    UserError: unknown or missing settings, or values of another type.
  """
  hints = typing.get_type_hints(command.request)
  defaults = command.request._field_defaults
  for name in settings:
    if name not in hints:
      raise errors.unknown_name('setting', name, hints)
  # All of them at once, because each would cost another call.
  missing = [f'{n}=' for n in hints if n not in {**defaults, **settings}]
  errors.check(not missing, f'{", ".join(missing)} missing: give all of them')
  errors.collect(
    *(
      functools.partial(_check_value, name, value, hints[name], defaults)
      for name, value in settings.items()
    )
  )
  return command.request(**settings)


def _check_value(
  name: str, value: Any, hint: Any, defaults: Mapping[str, Any]
) -> None:
  """Refuses a value of another type than that of its flag."""
  if value is None and defaults.get(name, '') is None:
    return
  # The command line converts text; a call gives the value itself.
  sample = _sample_value(hint, defaults.get(name))
  kind = _ACCEPTED.get(type(sample), type(sample))
  errors.check(
    isinstance(value, kind),
    f'{name} is {errors.describe_value(value)}; give '
    f'{_WORDS.get(type(sample), f"a value such as {sample!r}")}',
  )


def _sample_value(hint: Any, default: Any) -> Any:
  """A value of a field's type: its default where there is one."""
  if default is not None:
    return default
  union = isinstance(hint, types.UnionType)
  # `float | None` takes a float.
  options = typing.get_args(hint) if union else (hint,)
  option = next(option for option in options if option is not type(None))
  if typing.get_origin(option) is tuple:
    return (_SAMPLES[typing.get_args(option)[0]],)
  return _SAMPLES[option]


def _parse_value(name: str, text: str, hint: Any, default: Any) -> Any:
  errors.check(text, f'--{name}= is empty')
  sample = _sample_value(hint, default)
  # Text is taken as typed: a class may be called 1 or true.
  if isinstance(sample, str):
    return text
  is_current = default is not None
  return literals.parse(text, sample, f'--{name}', is_current=is_current)
