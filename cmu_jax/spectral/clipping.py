"""Clipping one implicitly linear layer, as a pure function.

Convolutions go down in the rounds of `lowering`; a dense kernel has the closed
form U min(S, c) V^T, and a BatchNorm |scale| <= c sqrt(var + epsilon).
"""

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from cmu_jax.spectral import lowering, operators, parts
from cmu_jax.spectral.operators import Layer
from cmu_jax.spectral.parts import How
from cmu_jax.types import PRNGKey

# Rescaling rounds in low precision, so that it may have to be done again.
_ATTEMPTS = 8


class Clipped(NamedTuple):
  """A layer after clipping.

  Attributes:
    own: its parameters, as `operators.parameters` has them.
    sigma: its norm, measured from a fresh start.
    before: its norm before.
    rounds: of descent that were made.
    factor: by which the kernel was rescaled in the end, 1 for not at all.
    vector: where sigma is reached, of norm 1.
  """

  own: Any
  sigma: Float[Array, '']
  before: Float[Array, '']
  rounds: Int[Array, '']
  factor: Float[Array, '']
  vector: Float[Array, '...']


def clip(
  key: PRNGKey,
  layer: Layer,
  own: dict[str, Any],
  bound: Float[Array, ''] | float,
  how: How,
) -> Clipped:
  """Brings the norm of one layer to at most c; pure and traceable.

  Args:
    key: draws the starts of all measurements.
    layer: which.
    own: its parameters.
    bound: c > 0.
    how: settings.

  Returns:
    The layer with sigma <= c (1 + tolerance), in the type it came in; with its
    old values, bit by bit, if that held already.
  """
  keys = jax.random.split(key, 3)
  exact = how.tolerance / 10
  first = parts.measure(keys[0], layer, own, how.audit, exact)
  old = parts.kernel(layer, own)
  over = first.sigma > bound * (1 + how.tolerance)
  goal = jnp.where(over, bound * parts.slack(how), jnp.inf)
  zero = jnp.zeros((), jnp.int32)
  value, rounds = jax.lax.cond(
    over,
    lambda: _reduced(keys[1], layer, own, bound, first.vector, how),
    lambda: (parts.wide(old), zero),
  )

  def high(held):
    return (held[0] < _ATTEMPTS) & (held[3].sigma > goal)

  def shrink(held):
    # More each time: in low precision a factor near 1 changes nothing.
    less = (held[0] - 1) * jnp.finfo(old.dtype).eps
    factor = jnp.where(held[0] > 0, bound / held[3].sigma * (1 - less), 1)
    value = held[1] * factor
    fitted = parts.with_kernel(layer, own, value.astype(old.dtype))
    seen = parts.measure(keys[2], layer, fitted, how.audit, exact)
    return held[0] + 1, value, held[2] * factor, seen

  unseen = first._replace(sigma=jnp.full_like(first.sigma, jnp.inf))
  begin = (zero, value, jnp.ones((), value.dtype), unseen)
  _, value, factor, last = jax.lax.while_loop(high, shrink, begin)
  kept = jnp.where(over, value.astype(old.dtype), old)
  sigma = jnp.where(over, last.sigma, first.sigma)
  done = parts.with_kernel(layer, own, kept)
  return Clipped(done, sigma, first.sigma, rounds, factor, last.vector)


def _reduced(
  key: PRNGKey,
  layer: Layer,
  own: dict[str, Any],
  bound: Float[Array, ''] | float,
  vector: Float[Array, '...'],
  how: How,
) -> tuple[jax.Array, Int[Array, '']]:
  """The new kernel in float32 or wider, and rounds of descent."""
  value, none = parts.wide(parts.kernel(layer, own)), jnp.zeros((), jnp.int32)
  if layer.kind == 'norm':
    slope = jnp.abs(operators.slopes(layer, jax.tree.map(parts.wide, own)))
    return jnp.where(slope > bound, value * bound / slope, value), none
  if layer.kind == 'dense' and value.ndim == 2:
    u, s, v = jnp.linalg.svd(value, full_matrices=False)
    with jax.default_matmul_precision('float32'):
      return value - (u * jnp.maximum(s - bound, 0)[None]) @ v, none
  if how.rounds == 0:
    return value, none
  return lowering.descended(key, layer, own, bound, vector, how)
