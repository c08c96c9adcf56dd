"""Random keys named by their purpose.

A new stage takes a key with a new name and leaves all other keys as they are.
"""

import zlib

import jax

from cmu_jax.core.types import PRNGKey


def fold_in(key: PRNGKey | int, *names: str | int) -> PRNGKey:
  """Folds each name in turn into a key or an integer seed.

  >>> import jax
  >>> a, b = fold_in(0, 'train', 1), fold_in(0, 'train', 2)
  >>> bool((jax.random.key_data(a) == jax.random.key_data(b)).all())
  False
  """
  folded = jax.random.key(key) if isinstance(key, int) else key
  for name in names:
    # Python's hash() of a string differs from one process to the next.
    number = name if isinstance(name, int) else zlib.crc32(name.encode())
    folded = jax.random.fold_in(folded, number)
  return folded
