"""Little states to save, and whether two are the same to the bit."""

import jax
import jax.numpy as jnp
import numpy as np

ENTRY = {'step': jnp.zeros((), jnp.int32), 'w': jnp.zeros(3)}


def entry(step):
  """A state that says which step it is of."""
  return {'step': jnp.asarray(step, jnp.int32), 'w': jnp.full(3, float(step))}


def _bytes(leaf):
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return np.asarray(leaf).tobytes()


def same(left, right):
  """Asserts equal structure, dtypes, shapes and bits."""
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert _bytes(a) == _bytes(b)


def steps(folder):
  """The steps in a folder that holds nothing else."""
  return sorted(int(path.name) for path in folder.iterdir())
