"""Keys split by name, so that adding a stage never re-seeds another one."""

import zlib

import jax

from cmu_jax.core.types import PRNGKey


def fold_in(key: PRNGKey | int, *names: str | int) -> PRNGKey:
  """The key of a stage: `key` folded with each name in turn.

  >>> import jax
  >>> a, b = named(0, 'train', 1), named(0, 'train', 2)
  >>> bool((jax.random.key_data(a) == jax.random.key_data(b)).all())
  False
  """
  folded = jax.random.key(key) if isinstance(key, int) else key
  for name in names:
    number = name if isinstance(name, int) else zlib.crc32(name.encode())
    folded = jax.random.fold_in(folded, number)
  return folded
