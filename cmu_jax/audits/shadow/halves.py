"""Which shadow model is trained on which point."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Bool, Int

from cmu_jax.core import errors, jit, rng
from cmu_jax.core.types import PRNGKey


@functools.lru_cache(maxsize=8)
def _orders(n: int) -> Callable:
  """(key, numbers [m]) -> a random order of n points for each, [m, n]."""
  draw = lambda key, i: jax.random.permutation(jax.random.fold_in(key, i), n)
  return jit.once(jax.vmap(draw, (None, 0)))


def membership(key: PRNGKey, k: int, n: int) -> Bool[np.ndarray, 'k n']:
  """Each point in exactly half of the models, each model with half of them.

  Models 2i and 2i + 1 share the points out at random; of an odd number one of
  the two has a point more. A pair depends on its number alone, so that more
  models leave the first ones as they are.

  Args:
    key: random key.
    k: how many models, an even number.
    n: how many points, 2 or more.

  Raises:
    UserError: an odd number of models, or too few points.

  References:
    Membership Inference Attacks From First Principles, arXiv 2112.03570,
    section 5.
  """
  errors.check(
    k >= 2 and k % 2 == 0,
    f'{k} shadow models cannot each have half of the points; use an even '
    'number',
  )
  errors.check(n >= 2, f'{n} points cannot be shared by two models; give more')
  order = _orders(n)(key, np.arange(k // 2))
  rank = np.argsort(np.asarray(order), axis=1)
  most = (n + np.arange(k // 2) % 2) // 2
  first = rank < most[:, None]
  return np.stack([first, ~first], axis=1).reshape(k, n)


def rows(
  key: PRNGKey, inside: Bool[np.ndarray, 'k n']
) -> Int[np.ndarray, 'k m']:
  """The points of each model, ascending, m those of the largest one.

  A smaller model repeats some of its own points, drawn at random: all models
  have batches and epochs of one length, and nothing that is not its own gets
  into a model, not even into its BatchNorm.

  Args:
    key: of what is repeated.
    inside: which model is trained on which point.

  Raises:
    UserError: a model without points.
  """
  sizes = inside.sum(axis=1)
  errors.check(
    sizes.size and sizes.min() > 0,
    f'shadow model {int(sizes.argmin()) if sizes.size else 0} is trained on no '
    'point; give every model some',
  )
  most = int(sizes.max())

  def one(number: int) -> np.ndarray:
    own = np.flatnonzero(inside[number])
    lacking = most - own.size
    if not lacking:
      return own
    bits = np.asarray(jax.random.bits(rng.named(key, number), (lacking,)))
    return np.sort(np.concatenate([own, own[bits % own.size]]))

  return np.stack([one(i) for i in range(len(inside))]).astype(np.int32)
