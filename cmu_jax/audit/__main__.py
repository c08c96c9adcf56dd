"""The command line: python -m cmu_jax.audit --scores=FILE ..."""

import sys
from collections.abc import Sequence

from cmu_jax import shell
from cmu_jax.auditing import request


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line and returns the exit code, see `shell.run`."""
  return shell.run(_run, argv)


def _run(argv: Sequence[str]) -> None:
  asked = request.parse(argv)
  if asked is None:
    return
  shell.set_up()
  from cmu_jax.auditing import job, words  # only now, so that errors are quick

  print(words.console(job.run(asked)))


if __name__ == '__main__':
  sys.exit(main())
