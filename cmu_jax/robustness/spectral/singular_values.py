"""PowerQR: the largest singular values of a linear map that is a function.

  X <- qr((M^T M + mu I) X),  repeated,

with M^T M x by one forward and one backward pass (FastClip, arXiv 2402.16017,
algorithm 1). Each round shrinks the error by (sigma_{k+1}^2 + mu) /
(sigma_k^2 + mu): a shift mu slows it down. The authors take mu = 1 against
loss of rank; here rows that lose it become 0 or start anew, so mu is 0.

Lanczos: the norm of a linear map to the last digits, with a residual.

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
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey

Readoff = Literal['rayleigh', 'diagonal']
Operator = Callable[[jax.Array], jax.Array]


class Spectrum(NamedTuple):
  """The k largest singular values and their right singular vectors.

  Attributes:
    sigma: in decreasing order.
    vector: orthonormal, each of the shape of one input.
  """

  sigma: Float[Array, 'k']
  vector: Float[Array, 'k ...']


def power_qr(
  key: PRNGKey,
  linear: Operator,
  shape: tuple[int, ...],
  *,
  k: int = 1,
  iterations: int = 100,
  shift: float = 0.0,
  start: Float[Array, 'k ...'] | None = None,
  readoff: Readoff = 'rayleigh',
) -> Spectrum:
  """The k largest singular values of a linear map, pure and traceable.

  Args:
    key: draws the start, from a normal distribution.
    linear: x [n, *shape] -> M x [n, ...], bound to its parameters.
    shape: of one input, without the batch axis.
    k: how many.
    iterations: rounds of one forward and one backward pass each.
    shift: mu >= 0. The paper has 1; 0 converges fastest.
    start: vectors to start from instead, such as those of an earlier call;
      they need not be normalised.
    readoff: 'rayleigh', the singular values of M X on the final X: lower
      bounds of the true ones, with errors of second order; 'diagonal', the
      paper's sqrt(|R_ii| - mu), of first order where k > 1.

  Returns:
    Singular values and vectors, in the type of `start`.

  Raises:
    UserError: k, iterations, shift or readoff that cannot be.
  """
  size = 1
  for extent in shape:
    size *= extent
  _check_arguments(k, size, iterations, shift, readoff)
  if start is None:
    start = jax.random.normal(key, (k, *shape))
  first = _orthonormalize(start.reshape(k, -1))[0]
  square = gram_map(linear, start)

  def advance(_, held):
    wide = square(held[0].reshape(k, *shape)).reshape(k, -1)
    return _orthonormalize(wide + shift * held[0])

  begin = (first, jnp.zeros((k,), first.dtype))
  vector, diagonal = jax.lax.fori_loop(0, iterations, advance, begin)
  if readoff == 'diagonal':
    sigma = jnp.sqrt(jnp.maximum(diagonal - shift, 0))
    return Spectrum(sigma, vector.reshape(k, *shape))
  return rayleigh(linear, vector.reshape(k, *shape))


def gram_map(linear: Operator, like: Float[Array, 'k ...']) -> Operator:
  """x -> M^T M x, for loops.

  What does not depend on x, such as a kernel turned round for M^T, is computed
  here once: compilers leave it in the loop, where it costs as much as a product
  if the kernel is larger than the image.

  Args:
    linear: x [k, *shape] -> M x, bound to its parameters.
    like: an array of the shape and type of x.
  """

  def square(x: jax.Array) -> jax.Array:
    image, pull = jax.vjp(linear, x)
    return pull(image)[0]

  return jax.linearize(square, like)[1]


def rayleigh(linear: Operator, vector: Float[Array, 'k ...']) -> Spectrum:
  """The best estimates from the span of orthonormal vectors (Rayleigh-Ritz).

  Returns:
    The singular values of M on that span, each at most the true one, and the
    vectors turned accordingly.
  """
  k, flat = vector.shape[0], vector.reshape(vector.shape[0], -1)
  image = linear(vector).reshape(k, -1)
  if k == 1:
    return Spectrum(jnp.linalg.norm(image, axis=1), vector)
  # Of R rather than of the Gram matrix, whose squares would halve the digits.
  with jax.default_matmul_precision('float32'):
    basis = _orthonormalize(image)[0]
    turn, sigma, _ = jnp.linalg.svd(image @ basis.T)
    return Spectrum(sigma, (turn.T @ flat).reshape(vector.shape))


def _orthonormalize(
  rows: Float[Array, 'k m'],
) -> tuple[Float[Array, 'k m'], Float[Array, 'k']]:
  """Q and R_ii > 0 of the rows, by Gram-Schmidt with a second pass.

  Householder QR of a tall matrix takes 50 to 100 times longer on a CPU. A row
  that depends on those before it becomes a direction out of its rounding
  errors, or 0.
  """
  # Scaled first: squares of norms near 1e20 or 1e-20 are not float32 numbers.
  largest = jnp.max(jnp.abs(rows))
  scaled = rows / jnp.where(largest > 0, largest, 1)
  if len(rows) == 1:
    unit, norm = _normalize_rows(scaled)
    return unit, norm[:, 0] * largest

  def advance(i, held):
    q, diagonal = held
    length = largest
    row = q[i][None]
    for _ in range(2):
      with jax.default_matmul_precision('float32'):
        before = jnp.where(jnp.arange(len(rows))[:, None] < i, q, 0)
        row, norm = _normalize_rows(row - (row @ before.T) @ before)
      length = length * norm[0, 0]
    return q.at[i].set(row[0]), diagonal.at[i].set(length)

  begin = (scaled, jnp.zeros((len(rows),), rows.dtype))
  return jax.lax.fori_loop(0, len(rows), advance, begin)


def _normalize_rows(
  rows: Float[Array, 'k m'],
) -> tuple[Float[Array, 'k m'], Float[Array, 'k 1']]:
  """Rows of norm 1, or 0 where they were 0, and their norms."""
  norm = jnp.sqrt(jnp.sum(jnp.square(rows), axis=1, keepdims=True))
  return rows / jnp.where(norm > 0, norm, 1), norm


def _check_arguments(
  k: int, size: int, iterations: int, shift: float, readoff: str
) -> None:
  errors.check(1 <= k <= size, f'k = {k}: give 1 to {size}, the input size')
  errors.check(
    iterations >= 1, f'{iterations} iterations of PowerQR: give 1 or more'
  )
  errors.check(shift >= 0, f'shift {shift} of PowerQR: give 0 or more')
  if readoff not in ('rayleigh', 'diagonal'):
    raise errors.unknown_name('readoff', readoff, ('rayleigh', 'diagonal'))


class LeadingNorm(NamedTuple):
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
) -> LeadingNorm:
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

  product = gram_map(linear, start.reshape(1, *shape))
  square = lambda v: product(v.reshape(1, *shape)).reshape(size)

  def advance(i, held):
    basis, diagonal, beside = held
    wide = square(basis[i])
    along = jnp.vdot(basis[i], wide)
    left, beta = _orthogonalize(basis, _orthogonalize(basis, wide)[0])
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
  best = _top_ritz_vector(held[1], held[2]) @ held[0][:steps]
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
  begin = (jnp.zeros((), jnp.int32), LeadingNorm(unknown, start, unknown))
  return jax.lax.while_loop(unsure, again, begin)[1]


def _orthogonalize(
  basis: Float[Array, 'm size'], v: Float[Array, 'size']
) -> tuple[Float[Array, 'size'], Float[Array, '']]:
  """v without its part in the basis, and its norm."""
  with jax.default_matmul_precision('float32'):
    rest = v - (basis @ v) @ basis
  return rest, jnp.linalg.norm(rest)


def _top_ritz_vector(
  diagonal: Float[Array, 'm'], beside: Float[Array, 'm']
) -> Float[Array, 'm']:
  """The eigenvector of the largest eigenvalue of the tridiagonal matrix."""
  upper = jnp.diag(beside[:-1], 1)
  return jnp.linalg.eigh(jnp.diag(diagonal) + upper + upper.T)[1][:, -1]


def _evaluate_vector(linear, vector: jax.Array) -> LeadingNorm:
  image, pull = jax.vjp(linear, vector[None])
  sigma = jnp.linalg.norm(image)
  safe = jnp.where(sigma > 0, sigma, 1)
  wide = pull(image / safe)[0][0]
  return LeadingNorm(
    sigma, vector, jnp.linalg.norm(wide - sigma * vector) / safe
  )
