"""The command line of a config: python -m cmu_jax.main --config=FILE.py."""

import sys

from cmu_jax.commands.study import main

__all__ = ['main']

if __name__ == '__main__':
  sys.exit(main())
