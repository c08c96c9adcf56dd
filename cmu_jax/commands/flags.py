"""Requests of commands: one list of fields gives flags, help and checks.

A request is a NamedTuple whose annotations carry a `Flag`:

  class Request(NamedTuple):
    weights: Annotated[str, flags.WEIGHTS]
    epochs: Annotated[int, Flag('N', 'passes over the data', above=0)] = 10
"""

import operator
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
_INDENT = 23
# () -> (request -> results, results -> printed text); imports JAX.
Load = Callable[[], tuple[Callable[[Any], Any], Callable[[Any], str]]]


class Flag(NamedTuple):
  """A field of a request, as a user meets it.

  Attributes:
    value: placeholder of the value in --help.
    text: meaning of the field, for --help and for the class's docstring.
    choices: permitted values; () permits all.
    above: exclusive lower limit, or None.
    least: inclusive lower limit, or None.
    most: inclusive upper limit, or None.
  """

  value: str
  text: str
  choices: tuple[Any, ...] = ()
  above: float | None = None
  least: float | None = None
  most: float | None = None


WEIGHTS = Flag(
  'FILE',
  '.safetensors, .npz, .msgpack or an Orbax directory, with names of ours, of '
  'PyTorch or of Hugging Face. Pickles (.pt, .pth) are never opened',
)
MODEL = Flag(
  'NAME[:k=v,..]',
  'the network: resnet20, resnet18:stem=imagenet, ...; clip-vit-b32, -b16, '
  '-l14, or clip (sizes from config.json beside FILE): image tower, head of '
  'the class names; siglip-vit-b16, siglip: with head=FILE.npz; dinov2',
)
OUT = Flag(
  'DIR',
  'folder for results, figure and report; the same command again continues '
  'after a kill',
)
TEST = Flag(
  'FOLDER',
  'ordinary pictures in class folders that the network was not trained on: '
  'measured before and after, never used to choose anything',
)
MEAN = Flag('R,G,B', 'mean of pixels between 0 and 1, a number a channel')
STD = Flag('R,G,B', 'standard deviation of pixels, likewise')
IMAGE_SIZE = Flag('N', 'side in pixels to which pictures are resized', above=0)
CLASSES = Flag('A,B,...', "class names in the order of the network's outputs")
BATCH_SIZE = Flag('N', 'samples in a training step', above=0)
WEIGHT_DECAY = Flag('X', 'weight decay of SGD', least=0)
SEED = Flag('N', 'seed of everything random')
INFERRED = (
  'Inferred where possible, from the side file FILE.json or the pictures:'
)


class Command(NamedTuple):
  """A command that turns one request into a folder of results.

  Attributes:
    name: word after `python -m cmu_jax`.
    request: NamedTuple whose annotations carry flags.
    summary: description in --help.
    usage: arguments of the usage line, a text for each alternative.
    sections: heading -> names of its fields; together all fields, in order.
    examples: arguments of each example, as typed.
    check: refuses values that contradict each other.
  """

  name: str
  request: type[Any]
  summary: str
  usage: tuple[str, ...]
  sections: Mapping[str, str]
  examples: tuple[str, ...]
  check: Callable[[Any], None]


def documented(kind: type[R]) -> type[R]:
  """Completes the docstring of a request by the `Attributes:` of its flags."""
  fields = [
    textwrap.fill(
      f'{name}: {flag.text}.', 76, initial_indent='  ', subsequent_indent='    '
    )
    for name, flag in _flags(kind).items()
  ]
  kind.__doc__ = '\n'.join([f'{kind.__doc__}\n\nAttributes:', *fields])
  return kind


def _flags(kind: type[tuple]) -> dict[str, Flag]:
  hints = typing.get_type_hints(kind, include_extras=True)
  return {name: hint.__metadata__[0] for name, hint in hints.items()}


def _defaults(kind: type[tuple]) -> dict[str, Any]:
  return kind._field_defaults  # type: ignore[attr-defined]


def check(command: Command, request: R) -> R:
  """Returns the request if all its values are possible.

  Raises:
    UserError: names the flag.
  """
  for name, flag in _flags(command.request).items():
    value = getattr(request, name)
    if value is not None:
      _check_value(name, flag, value)
  if hasattr(request, 'mean') and hasattr(request, 'std'):
    errors.check(
      (request.mean is None) == (request.std is None),
      '--mean and --std go together: give both',
    )
  command.check(request)
  return request


def _check_value(name: str, flag: Flag, value: Any) -> None:
  if flag.choices and value not in flag.choices:
    if isinstance(value, str):
      raise errors.unknown_name(f'--{name}', value, flag.choices)
    choices = ' or '.join(map(str, flag.choices))
    raise errors.UserError(f'--{name} is {value}; use {choices}')
  for limit, compare, relation in (
    (flag.above, operator.gt, 'above'),
    (flag.least, operator.ge, 'at least'),
    (flag.most, operator.le, 'at most'),
  ):
    errors.check(
      limit is None or compare(value, limit),
      f'--{name} is {value}; it must be {relation} {limit}',
    )


def parse(command: Command, argv: Sequence[str]) -> Any:
  """Reads a command line into a request; prints help and returns None for it.

  Raises:
    UserError: an unknown, missing, empty, malformed or impossible flag.
  """
  kind, defaults = command.request, _defaults(command.request)
  hints = typing.get_type_hints(kind)
  parser = shell.Parser(add_help=False, allow_abbrev=False)
  parser.add_argument('--help', '-h', action='store_true')
  for name in hints:
    parser.add_argument(f'--{name}')
  texts, unknown = parser.parse_known_args(list(argv))
  if texts.help:
    print(help_text(command))
    return None
  if unknown:
    word = unknown[0].partition('=')[0]
    raise errors.unknown_name('argument', word, [f'--{name}' for name in hints])
  values = {
    name: _parse_value(name, text, _sample_value(hint, defaults.get(name)))
    for name, hint in hints.items()
    if (text := getattr(texts, name)) is not None
  }
  missing = [f'--{n}' for n in hints if n not in {**defaults, **values}]
  errors.check(
    not missing, f'{", ".join(missing)} missing: see --help for all flags'
  )
  return check(command, kind(**values))


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
    work, describe = load()
    print(describe(work(request)))

  return shell.run(act, argv)


def call(command: Command, load: Load, settings: Mapping[str, Any]) -> Any:
  """Runs a command from Python and returns its results.

  Raises:
    UserError: settings, weights or pictures that do not fit.
  """
  request = check(command, command.request(**settings))
  work, _ = load()
  return work(request)


def help_text(command: Command) -> str:
  """The text of --help."""
  program = f'python -m cmu_jax {command.name}'
  usage = [
    textwrap.fill(
      f'{program} {arguments}',
      80,
      initial_indent=' ' * 7 if number else 'usage: ',
      subsequent_indent=' ' * 14,
      break_on_hyphens=False,
    )
    for number, arguments in enumerate(command.usage)
  ]
  blocks = ['\n'.join(usage), textwrap.fill(command.summary, 80)]
  flags, defaults = _flags(command.request), _defaults(command.request)
  for heading, names in command.sections.items():
    lines = [
      _help_line(name, flags[name], defaults.get(name))
      for name in names.split()
    ]
    blocks.append('\n'.join([*([heading] if heading else []), *lines]))
  examples = '\n'.join(f'  {program} {text}' for text in command.examples)
  return '\n\n'.join([*blocks, f'examples:\n{examples}'])


def _help_line(name: str, flag: Flag, default: Any) -> str:
  """A flag with its meaning in a column of its own."""
  start = f'  --{name}={flag.value}'
  text = flag.text
  if default not in (None, False, 0, ''):
    text += f' (default {default})'
  body = textwrap.wrap(text, 80 - _INDENT, break_on_hyphens=False)
  if len(start) < _INDENT:
    start = start.ljust(_INDENT) + body.pop(0)
  return '\n'.join([start, *(' ' * _INDENT + line for line in body)])


def _sample_value(hint: Any, default: Any) -> Any:
  """A value of a field's type: its default where there is one."""
  if default is not None:
    return default
  union = isinstance(hint, types.UnionType)
  options = typing.get_args(hint) if union else (hint,)
  option = next(option for option in options if option is not type(None))
  if typing.get_origin(option) is tuple:
    return (_SAMPLES[typing.get_args(option)[0]],)
  return _SAMPLES[option]


def _parse_value(name: str, text: str, sample: Any) -> Any:
  errors.check(text, f'--{name}= is empty')
  if isinstance(sample, str):
    return text
  return literals.parse(text, sample, f'--{name}')
