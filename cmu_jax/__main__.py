"""The command line: python -m cmu_jax repair|unlearn|audit|study ..."""

import sys

from cmu_jax import main as study
from cmu_jax.commands.audit import __main__ as audit
from cmu_jax.commands.repair import __main__
from cmu_jax.commands.unlearn import __main__ as unlearn

_COMMANDS = {
  'repair': __main__.main,
  'unlearn': unlearn.main,
  'audit': audit.main,
  'study': study.main,
}


def main() -> int:
  """Runs the command that the first word names and returns its exit code."""
  name = sys.argv[1] if len(sys.argv) > 1 else ''
  if name in _COMMANDS:
    return _COMMANDS[name](sys.argv[2:])
  print(f'usage: python -m cmu_jax {"|".join(_COMMANDS)} ...', file=sys.stderr)
  return 0 if name in ('-h', '--help') else 2


if __name__ == '__main__':
  sys.exit(main())
