"""The largest singular values of a linear map that is a function.

PowerQR repeats X <- qr(M^T M X), with M^T M x by one forward and one backward
pass. Lanczos on M^T M takes the best vector of all that it has
computed: on a convolution, whose largest singular values lie within 1e-3 of
each other, it needs tens of rounds for the fourth digit, where power iteration
needs thousands.

References:
  FastClip, arXiv 2402.16017, algorithm 1 (PowerQR, there with M^T M + I).
  Golub, Van Loan: Matrix Computations, section 10.1 to 10.4 (Lanczos).
  Kuczynski, Wozniakowski (SIAM J. Matrix Anal. Appl. 13, 1992): from a random
  start the error is of order (log n / steps)^2 for Lanczos and of order
  log n / steps for the power method, with any gaps.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey

Operator = Callable[[jax.Array], jax.Array]


class Spectrum(NamedTuple):
  """The k largest singular values and their right singular vectors.

  Attributes:
    sigma: in decreasing order.
    vector: orthonormal, each of the shape of one input.
  """

  sigma: Float[Array, 'k']
  vector: Float[Array, 'k ...']


class LeadingNorm(NamedTuple):
  """The largest singular value, with an estimate of its error.

  Attributes:
    sigma: ||M v||, at most the true norm.
    vector: v, of the shape of one input, of norm 1.
    residual: ||M^T M v - sigma^2 v|| / sigma^2: the relative distance of
      sigma^2 from an eigenvalue of M^T M is at most this. 0 for M = 0.
  """

  sigma: Float[Array, '']
  vector: Float[Array, '...']
  residual: Float[Array, '']


def power_qr(
  key: PRNGKey,
  linear: Operator,
  shape: tuple[int, ...],
  *,
  k: int = 1,
  iterations: int = 100,
  start: Float[Array, 'k ...'] | None = None,
) -> Spectrum:
  """Estimates the k largest singular values of a linear map; traceable.

  Args:
    key: of the start, from a normal distribution.
    linear: x [n, *shape] -> M x [n, ...], bound to its parameters.
    shape: of one input, without the batch axis.
    k: number of singular values.
    iterations: rounds of one forward and one backward pass each.
    start: initial vectors instead, such as those of an earlier call; they need
      not be normalised.

  Returns:
    Singular values and vectors, in the type of `start`, see `rayleigh`.

  Raises:
    UserError: k or iterations out of range.
  """
  size = math.prod(shape)
  errors.check(1 <= k <= size, f'k = {k}: give 1 to {size}, the input size')
  errors.check(
    iterations >= 1, f'{iterations} iterations of PowerQR: give 1 or more'
  )
  if start is None:
    start = jax.random.normal(key, (k, *shape), jnp.float32)
  basis = _orthonormalize(start.reshape(k, -1))
  gram = gram_map(linear, start)

  # The authors add mu = 1 to M^T M against loss of rank, which slows each round
  # down to (sigma_{k+1}^2 + mu) / (sigma_k^2 + mu); here rows that lose rank
  # become 0 or a new direction. Their sqrt(|R_ii| - mu) has errors of first
  # order for k > 1, the Rayleigh quotients of second order.
  def advance(_, basis):
    return _orthonormalize(gram(basis.reshape(k, *shape)).reshape(k, -1))

  vector = jax.lax.fori_loop(0, iterations, advance, basis)
  return rayleigh(linear, vector.reshape(k, *shape))


def gram_map(linear: Operator, example: Float[Array, 'k ...']) -> Operator:
  """x -> M^T M x, for loops.

  Args:
    linear: x [k, *shape] -> M x, bound to its parameters.
    example: an array of the shape and type of x.
  """

  def gram(x: jax.Array) -> jax.Array:
    image, pull = jax.vjp(linear, x)
    return pull(image)[0]

  # Linearization computes the parts that do not depend on x once, such as the
  # flipped kernel of M^T. Compilers leave them in the loop, where they cost as
  # much as a product if the kernel is larger than the image.
  return jax.linearize(gram, example)[1]


def rayleigh(linear: Operator, vector: Float[Array, 'k ...']) -> Spectrum:
  """Estimates from the span of orthonormal vectors (Rayleigh-Ritz).

  Returns:
    The singular values of M on that span, each at most the true value, and the
    vectors turned accordingly.
  """
  k, flat = vector.shape[0], vector.reshape(vector.shape[0], -1)
  image = linear(vector).reshape(k, -1)
  if k == 1:
    return Spectrum(jnp.linalg.norm(image, axis=1), vector)
  # Of R rather than of the Gram matrix, whose squares would halve the digits.
  with jax.default_matmul_precision('float32'):
    basis = _orthonormalize(image)
    turn, sigma, _ = jnp.linalg.svd(image @ basis.T)
    return Spectrum(sigma, (turn.T @ flat).reshape(vector.shape))


def lanczos(
  key: PRNGKey,
  linear: Operator,
  shape: tuple[int, ...],
  *,
  steps: int = 60,
  start: Float[Array, '...'] | None = None,
) -> LeadingNorm:
  """Estimates the norm of a linear map by one Lanczos run; traceable.

  Args:
    key: of the start, from a normal distribution.
    linear: x [n, *shape] -> M x [n, ...], bound to its parameters.
    shape: of one input, without the batch axis.
    steps: rounds of one forward and one backward pass; the memory holds a
      vector of `shape` for each.
    start: an initial vector instead, not 0.

  Returns:
    The norm, in the type of `start`.

  Raises:
    UserError: fewer than one step.
  """
  errors.check(steps >= 1, f'{steps} Lanczos steps: give 1 or more')
  size = math.prod(shape)
  steps = min(steps, size)
  if start is None:
    start = jax.random.normal(key, shape, jnp.float32)
  flat = start.reshape(size)
  unit = flat / jnp.linalg.norm(flat)

  product = gram_map(linear, start.reshape(1, *shape))
  gram = lambda v: product(v.reshape(1, *shape)).reshape(size)

  def advance(i, carry):
    basis, diagonal, off_diagonal = carry
    image = gram(basis[i])
    along = jnp.vdot(basis[i], image)
    # Against all vectors and twice, or rounding would make copies of them.
    residue, beta = _orthogonalize(basis, _orthogonalize(basis, image)[0])
    # The residue of an invariant subspace is rounding, not a direction.
    rounding = 30 * jnp.finfo(flat.dtype).eps * jnp.maximum(along, diagonal[0])
    is_new = beta > rounding
    direction = jnp.where(is_new, residue / jnp.where(is_new, beta, 1), 0)
    basis = basis.at[i + 1].set(direction)
    diagonal = diagonal.at[i].set(along)
    return basis, diagonal, off_diagonal.at[i].set(jnp.where(is_new, beta, 0))

  zeros = jnp.zeros((steps,), flat.dtype)
  basis = jnp.zeros((steps + 1, size), flat.dtype).at[0].set(unit)
  basis, diagonal, off_diagonal = jax.lax.fori_loop(
    0, steps, advance, (basis, zeros, zeros)
  )
  best = _top_ritz_vector(diagonal, off_diagonal) @ basis[:steps]
  vector = best / jnp.linalg.norm(best)
  return _evaluate_vector(linear, vector.reshape(shape))


def estimate_norm(
  key: PRNGKey,
  linear: Operator,
  shape: tuple[int, ...],
  *,
  accuracy: float = 1e-4,
  steps: int = 60,
  restarts: int = 8,
) -> LeadingNorm:
  """Estimates the norm of a linear map by Lanczos runs to a given residual.

  Args:
    linear: x [n, *shape] -> M x [n, ...], bound to its parameters.
    shape: of one input, without the batch axis.
    accuracy: the residual to reach; the relative error of sigma is then below
      half of it, unless the start has no component in the largest direction.
    steps: of each Lanczos run.
    restarts: runs at most, each from the best vector so far.
  """

  def is_inaccurate(carry):
    return (carry[0] < restarts) & (carry[1].residual > accuracy)

  def restart(carry):
    best = carry[1].vector
    return carry[0] + 1, lanczos(key, linear, shape, steps=steps, start=best)

  start = jax.random.normal(key, shape, jnp.float32)
  unknown = jnp.full((), jnp.inf, start.dtype)
  begin = (jnp.zeros((), jnp.int32), LeadingNorm(unknown, start, unknown))
  return jax.lax.while_loop(is_inaccurate, restart, begin)[1]


def _orthonormalize(rows: Float[Array, 'k m']) -> Float[Array, 'k m']:
  """Q of the rows, with R_ii > 0; dependent rows become rounding, or 0."""
  # Gram-Schmidt with a second pass, because the Householder QR of a tall matrix
  # takes 50 to 100 times longer on a CPU.
  # Scaled first: squares of norms near 1e20 or 1e-20 are not float32 numbers.
  largest = jnp.max(jnp.abs(rows))
  scaled = rows / jnp.where(largest > 0, largest, 1)
  if len(rows) == 1:
    return _normalize_rows(scaled)

  def advance(i, q):
    row = q[i][None]
    for _ in range(2):
      with jax.default_matmul_precision('float32'):
        earlier = jnp.where(jnp.arange(len(rows))[:, None] < i, q, 0)
        row = _normalize_rows(row - (row @ earlier.T) @ earlier)
    return q.at[i].set(row[0])

  return jax.lax.fori_loop(0, len(rows), advance, scaled)


def _normalize_rows(rows: Float[Array, 'k m']) -> Float[Array, 'k m']:
  """Rows of norm 1, or 0 for rows of 0."""
  length = jnp.sqrt(jnp.sum(jnp.square(rows), axis=1, keepdims=True))
  return rows / jnp.where(length > 0, length, 1)


def _orthogonalize(
  basis: Float[Array, 'm size'], v: Float[Array, 'size']
) -> tuple[Float[Array, 'size'], Float[Array, '']]:
  """v without its component in the basis, and its norm."""
  with jax.default_matmul_precision('float32'):
    residue = v - (basis @ v) @ basis
  return residue, jnp.linalg.norm(residue)


def _top_ritz_vector(
  diagonal: Float[Array, 'm'], off_diagonal: Float[Array, 'm']
) -> Float[Array, 'm']:
  """The eigenvector of the largest eigenvalue of the tridiagonal matrix."""
  upper = jnp.diag(off_diagonal[:-1], 1)
  return jnp.linalg.eigh(jnp.diag(diagonal) + upper + upper.T)[1][:, -1]


def _evaluate_vector(linear: Operator, vector: jax.Array) -> LeadingNorm:
  """Computes sigma and the residual of a vector from M itself."""
  image, pull = jax.vjp(linear, vector[None])
  sigma = jnp.linalg.norm(image)
  safe = jnp.where(sigma > 0, sigma, 1)
  # Divided by sigma before the pull, so that no square can overflow.
  product = pull(image / safe)[0][0]
  residual = jnp.linalg.norm(product - sigma * vector) / safe
  return LeadingNorm(sigma, vector, residual)
