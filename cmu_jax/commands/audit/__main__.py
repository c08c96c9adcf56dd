"""The command line: python -m cmu_jax audit --scores=FILE ..."""

import sys
from collections.abc import Sequence

from cmu_jax.commands import flags
from cmu_jax.commands.audit import request


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns the exit code, see
  `flags.run_request`."""
  return flags.run_request(request.parse, 'cmu_jax.commands.audit', argv)


if __name__ == '__main__':
  sys.exit(main())
