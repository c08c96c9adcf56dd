"""Flags and --help of the command `study`."""

import argparse
import ast
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from cmu_jax.commands import field_words, shell
from cmu_jax.core import config as config_lib
from cmu_jax.core import errors

_TEXT = """\
usage: python -m cmu_jax.main --config=FILE.py[:ARG] [--config.FIELD=VALUE ...]
                              [--workdir=DIR] [--sweep] [--minutes=N] [--help]

Corrupts the training labels of a dataset, trains on them, repairs the model
with each method of the config, and measures the result.

  --config=FILE.py[:ARG]   the experiment; ARG is key=value,... and a single
                           word switches an option on, as in :smoke
  --config.FIELD=VALUE     changes one field, as in --config.train.epochs=5
                           or --config.seeds=0,1,2
  --workdir=DIR            folder of the results (default runs/<config name>);
                           the same command again continues a stopped run
  --sweep                  runs every cell of the file's sweep(add), each in
                           DIR/<cell>, and writes DIR/sweep.md
                           (corrective_*.py: fills the whole benchmark grid,
                           cell by cell, into DIR)
  --minutes=N              begins no further cell after so many minutes; the
                           same command goes on later
  --distributed=WHERE      corrective_*.py: this process is one of several,
                           ADDRESS:PORT,PROCESS,COUNT or auto (clusters);
                           all of them see the same DIR
  --help                   this text; with --config, the fields of that config

examples:
  python -m cmu_jax.main --config=configs/cuts_digits.py
  python -m cmu_jax.main --config=configs/cuts_digits.py:smoke --workdir=/tmp/a
  python -m cmu_jax.main --config=configs/cuts_digits.py --config.seeds=0,1
  python -m cmu_jax.main --config=configs/cuts_digits.py --help
"""


def parse(argv: Sequence[str]) -> tuple[Any, dict[str, str]]:
  """Reads the command line.

  Returns:
    The flags (config, workdir, sweep, minutes, distributed, help) and the
    overrides: dotted field -> text.

  Raises:
    UserError: an unknown flag, or one without its value.
  """
  parser = shell.Parser(add_help=False, allow_abbrev=False)
  parser.add_argument('--config')
  parser.add_argument('--workdir')
  parser.add_argument('--sweep', action='store_true')
  parser.add_argument('--minutes')
  parser.add_argument('--distributed')
  parser.add_argument('--help', '-h', action='store_true')
  flags, unknown = parser.parse_known_args(list(argv))
  overrides = {}
  for word in unknown:
    flag, equals, value = word.partition('=')
    # argparse cannot know the fields: they depend on the config file.
    if not flag.startswith('--config.'):
      raise errors.unknown_name('argument', flag, _option_names(parser))
    errors.check(equals, f'{flag} needs a value: write {flag}=VALUE')
    overrides[flag.removeprefix('--config.')] = value
  errors.check(
    flags.config or flags.help,
    'which experiment? give --config=FILE.py, such as '
    '--config=configs/cuts_digits.py; see --help',
  )
  if flags.minutes is not None:
    flags.minutes = _parse_minutes(flags.minutes)
  errors.check(flags.workdir != '', '--workdir= is empty: name a folder')
  return flags, overrides


def _parse_minutes(text: str) -> float:
  """A number of minutes above 0."""
  try:
    minutes = float(text)
  except ValueError:
    minutes = math.nan
  errors.check(
    0 < minutes < math.inf,
    f'--minutes={text} is not a number above 0; try --minutes=30',
  )
  return minutes


def help_text(
  folder: pathlib.Path, loaded: config_lib.LoadedConfig | None
) -> str:
  """The help text: flags, examples, and config files or the fields of a config.

  Args:
    folder: with the config files.
    loaded: the config beside --help, or None.
  """
  if loaded is None:
    paths = {str(path): path for path in _config_files(folder)}
    # Without a checkout of the project, those that were installed.
    paths = paths or config_lib.installed_configs()
    lines = [f'  {name}: {_headline(path)}' for name, path in paths.items()]
    return '\n'.join([_TEXT, f'configs in {folder}/:', *(lines or ['  none'])])
  fields = config_lib.flatten(loaded.config).items()
  lines = [
    f'  {f"--config.{field}={_value_text(value)}":<44}  '
    f'{field_words.describe(field)}'.rstrip()
    for field, value in fields
  ]
  title = f'fields of {loaded.path}, with their values:'
  return '\n'.join([_TEXT, loaded.doc, '', title, *lines])


def _option_names(parser: argparse.ArgumentParser) -> list[str]:
  return [name for action in parser._actions for name in action.option_strings]


def _config_files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.glob('*.py') if path.stem[0] != '_')


def _headline(path: pathlib.Path) -> str:
  """First line of a file's docstring; the file is not run."""
  try:
    # Parsed, not imported: a config file imports JAX.
    doc = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
  except (OSError, SyntaxError, ValueError) as error:
    return f'(cannot be read: {error})'
  return (doc or '(no docstring)').splitlines()[0]


def _value_text(value: Any) -> str:
  if isinstance(value, (tuple, list)):
    return ','.join(map(str, value))
  return str(value).lower() if isinstance(value, bool) else str(value)
