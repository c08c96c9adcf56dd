"""The command line: python -m cmu_jax find|repair|unlearn|audit|study ..."""

import sys
from collections.abc import Callable, Sequence

from cmu_jax.commands import shell
from cmu_jax.core import errors

_TEXT = """\
usage: python -m cmu_jax COMMAND [--FLAG=VALUE ...]

  find      finds wrong labels and other bad samples among labelled pictures
  repair    repairs a classifier from a few bad samples
  unlearn   makes a classifier forget some of its training pictures
  audit     tests by membership attacks if training pictures can be recognised
  study     runs a config file: trains, repairs and compares methods

python -m cmu_jax COMMAND --help lists the flags of a command."""


# Each command is imported on use, because its flags alone answer --help.
def _find(argv: Sequence[str]) -> int:
  from cmu_jax.commands import find, flags

  return flags.run(find.FIND, find.load, argv)


def _repair(argv: Sequence[str]) -> int:
  from cmu_jax.commands import flags, repair, requests

  return flags.run(requests.REPAIR, repair.load, argv)


def _unlearn(argv: Sequence[str]) -> int:
  from cmu_jax.commands import flags, requests, unlearn

  return flags.run(requests.UNLEARN, unlearn.load, argv)


def _audit(argv: Sequence[str]) -> int:
  from cmu_jax.commands import audit, flags, requests

  return flags.run(requests.AUDIT, audit.load, argv)


def _study(argv: Sequence[str]) -> int:
  from cmu_jax.commands import study

  return study.main(argv)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
  'find': _find,
  'repair': _repair,
  'unlearn': _unlearn,
  'audit': _audit,
  'study': _study,
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command that the first word names and returns its exit code."""
  return shell.run(_run, argv)


def _run(argv: Sequence[str]) -> int:
  name, *arguments = argv or ['--help']
  if name in ('--help', '-h'):
    print(_TEXT)
    return 0
  if name not in COMMANDS:
    raise errors.unknown_name('command', name, COMMANDS)
  return COMMANDS[name](arguments)


if __name__ == '__main__':
  sys.exit(main())
