"""Lanczos: the norm of a linear map to the last digits, with a residual.

Power iteration forgets what it saw; on a convolution, whose largest singular
values lie within 1e-3 of each other, it needs thousands of rounds for the
fourth digit. Lanczos on M^T M takes the best vector of all it has seen, which
needs tens. All vectors are kept and orthogonalised against, twice, so that
rounding makes no copies.

References:
  Golub, Van Loan: Matrix Computations, section 10.1 to 10.4.
  Kuczynski, Wozniakowski (SIAM J. Matrix Anal. Appl. 13, 1992): from a random
  start the error is of order (log n / steps)^2 for Lanczos whatever the gaps,
  and of order log n / steps for the power method.
"""

import math
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey
from cmu_jax.robustness.spectral import power
from cmu_jax.robustness.spectral.power import Operator


class Norm(NamedTuple):
  """The largest singular value, with what is known of its error.

  Attributes:
    sigma: ||M v||, at most the true norm.
    vector: v, of the shape of one input, of norm 1.
    residual: ||M^T M v - sigma^2 v|| / sigma^2: some eigenvalue of M^T M is
      as near as that to sigma^2, relatively. 0 for M = 0.
  """

  sigma: Float[Array, '']
  vector: Float[Array, '...']
  residual: Float[Array, '']


def lanczos(
  key: PRNGKey,
  linear: Operator,
  shape: tuple[int, ...],
  *,
  steps: int = 60,
  start: Float[Array, '...'] | None = None,
) -> Norm:
  """The norm of a linear map, pure and traceable.

  Args:
    key: draws the start, from a normal distribution.
    linear: x [n, *shape] -> M x [n, ...], bound to its parameters.
    shape: of one input, without the batch axis.
    steps: rounds of one forward and one backward pass; as many vectors of
      `shape` are held in memory.
    start: one vector to start from instead, not 0.

  Returns:
    The norm, in the type of `start`.

  Raises:
    UserError: fewer than one step.
  """
  errors.check(steps >= 1, f'{steps} Lanczos steps: give 1 or more')
  size = math.prod(shape)
  steps = min(steps, size)
  if start is None:
    start = jax.random.normal(key, shape)
  flat = start.reshape(size)
  first = flat / jnp.linalg.norm(flat)

  product = power.squared(linear, start.reshape(1, *shape))
  square = lambda v: product(v.reshape(1, *shape)).reshape(size)

  def advance(i, held):
    basis, diagonal, beside = held
    wide = square(basis[i])
    along = jnp.vdot(basis[i], wide)
    left, beta = _against(basis, _against(basis, wide)[0])
    # What is left of an invariant subspace is rounding, not a direction.
    small = 30 * jnp.finfo(flat.dtype).eps * jnp.maximum(along, diagonal[0])
    fresh = beta > small
    after = jnp.where(fresh, left / jnp.where(fresh, beta, 1), 0)
    basis = basis.at[i + 1].set(after)
    diagonal = diagonal.at[i].set(along)
    return basis, diagonal, beside.at[i].set(jnp.where(fresh, beta, 0))

  empty = jnp.zeros((steps,), flat.dtype)
  basis = jnp.zeros((steps + 1, size), flat.dtype).at[0].set(first)
  held = jax.lax.fori_loop(0, steps, advance, (basis, empty, empty))
  best = _ritz(held[1], held[2]) @ held[0][:steps]
  vector = best / jnp.linalg.norm(best)
  return _judged(linear, vector.reshape(shape))


def norm(
  key: PRNGKey,
  linear: Operator,
  shape: tuple[int, ...],
  *,
  accuracy: float = 1e-4,
  steps: int = 60,
  restarts: int = 8,
) -> Norm:
  """The norm of a linear map from a fresh start, to a wanted residual.

  Args:
    key: draws the start.
    linear: x [n, *shape] -> M x [n, ...], bound to its parameters.
    shape: of one input, without the batch axis.
    accuracy: the residual to reach; sigma is then off by less than half of it,
      relatively, unless the start had no part in the largest direction.
    steps: of each Lanczos run.
    restarts: runs at most, each from the best vector so far.
  """

  def unsure(held):
    return (held[0] < restarts) & (held[1].residual > accuracy)

  def again(held):
    found = lanczos(key, linear, shape, steps=steps, start=held[1].vector)
    return held[0] + 1, found

  start = jax.random.normal(key, shape)
  unknown = jnp.full((), jnp.inf, start.dtype)
  begin = (jnp.zeros((), jnp.int32), Norm(unknown, start, unknown))
  return jax.lax.while_loop(unsure, again, begin)[1]


def _against(
  basis: Float[Array, 'm size'], v: Float[Array, 'size']
) -> tuple[Float[Array, 'size'], Float[Array, '']]:
  """v without its part in the basis, and its norm."""
  with jax.default_matmul_precision('float32'):
    rest = v - (basis @ v) @ basis
  return rest, jnp.linalg.norm(rest)


def _ritz(
  diagonal: Float[Array, 'm'], beside: Float[Array, 'm']
) -> Float[Array, 'm']:
  """The eigenvector of the largest eigenvalue of the tridiagonal matrix."""
  upper = jnp.diag(beside[:-1], 1)
  return jnp.linalg.eigh(jnp.diag(diagonal) + upper + upper.T)[1][:, -1]


def _judged(linear, vector: jax.Array) -> Norm:
  image, pull = jax.vjp(linear, vector[None])
  sigma = jnp.linalg.norm(image)
  safe = jnp.where(sigma > 0, sigma, 1)
  wide = pull(image / safe)[0][0]
  return Norm(sigma, vector, jnp.linalg.norm(wide - sigma * vector) / safe)
