"""The largest singular value of a linear map that exists only as a function.

Small maps are decomposed as matrices. Larger maps get an estimate by Lanczos'
method on A^T A, which approaches the norm from below, with a probabilistic
upper margin.

References:
  Kuczynski, Wozniakowski (SIAM J. Matrix Anal. Appl. 13, 1992), theorem 4.2:
  for a random start in n dimensions, after k steps lambda_1 exceeds the
  estimate / (1 - e) with probability at most
  1.648 sqrt(n) exp(-sqrt(e) (2 k - 1)).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Float

from cmu_jax.core import jit
from cmu_jax.core.types import PRNGKey

# Limits of maps that become matrices: entries, and the smaller side.
_DENSE_ENTRIES, _DENSE_SIDE = 2**21, 256
# Far above the effect of float32 rounding on a norm.
_ROUNDING = 1e-4


class NormBound(NamedTuple):
  """The spectral norm of a linear map.

  Attributes:
    sigma: the estimate; from below, unless the method is 'dense'.
    upper: exceeded with probability at most `risk`, up to the rounding of the
      arithmetic; None after too few steps.
    residual: ||A^T A v - sigma^2 v|| / sigma^2 of the estimated vector.
    steps: products with A^T A.
    method: 'identity', 'dense' or 'lanczos'.
  """

  sigma: float
  upper: float | None
  residual: float
  steps: int
  method: str


LinearMap = Callable[[Any], Any]


def _flatten_map(
  linear: LinearMap, shape: tuple[int, ...], dtype: Any
) -> tuple[Any, ...]:
  """Returns A and A^T as functions of flat vectors, and their lengths."""
  aval = jax.ShapeDtypeStruct(shape, dtype)
  transposed = jax.linear_transpose(linear, aval)
  outputs = jax.eval_shape(linear, aval)
  sizes = [math.prod(x.shape) for x in outputs]
  cuts = np.cumsum(sizes)[:-1]

  def forward(v):
    return jnp.concatenate([y.reshape(-1) for y in linear(v.reshape(shape))])

  def backward(u):
    pairs = zip(jnp.split(u, cuts), outputs, strict=True)
    cotangents = tuple(piece.reshape(x.shape) for piece, x in pairs)
    return transposed(cotangents)[0].reshape(-1)

  return forward, backward, math.prod(shape), sum(sizes)


def _compile_map(
  function: LinearMap, size: int, dtype: Any, compiler: LinearMap = jax.jit
) -> LinearMap:
  """Compiles a function of a flat vector."""
  closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((size,), dtype))

  # Constants become arguments, because XLA would spend minutes on folding them.
  def evaluate(consts, v):
    return core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, consts))(v)[0]

  run = compiler(evaluate)
  return lambda v: run(closed.consts, jnp.asarray(v, dtype))


def _dense_norm(forward: LinearMap, size: int, dtype: Any) -> NormBound:
  """The norm of a small map, from its matrix."""
  matrix_rows = _compile_map(
    lambda eye: jax.vmap(forward)(eye.reshape(size, size)).reshape(-1),
    size * size,
    dtype,
    jit.compile_cheaply,
  )
  rows = np.asarray(matrix_rows(np.eye(size).reshape(-1)), np.float64)
  rows = rows.reshape(size, -1)
  sigma = math.sqrt(max(np.linalg.eigvalsh(rows @ rows.T)[-1], 0.0))
  return NormBound(sigma, sigma * (1 + _ROUNDING), 0.0, 0, 'dense')


def lanczos_margin(size: int, steps: int, risk: float) -> float | None:
  """Returns e of the theorem above; None if it is not below 1.

  Args:
    size: n.
    steps: k.
    risk: the probability.
  """
  root = math.log(1.648 * math.sqrt(size) / risk) / (2 * steps - 1)
  return root**2 if root < 1 else None


def _lanczos(
  gram: LinearMap, start: Float[np.ndarray, 'n'], steps: int, tolerance: float
) -> tuple[float, float, int]:
  """Returns the largest Ritz value of A^T A, its residual, and the steps."""
  # The basis is orthogonalized in float64, and twice, because the theorem is
  # about the method in exact arithmetic.
  basis = np.empty((steps, start.size))
  basis[0] = start / np.linalg.norm(start)
  diagonal: list[float] = []
  off_diagonal: list[float] = []
  for k in range(steps):
    image = np.asarray(gram(basis[k]), np.float64)
    diagonal.append(float(basis[k] @ image))
    span = basis[: k + 1]
    for _ in range(2):
      image = image - span.T @ (span @ image)
    off_diagonal.append(float(np.linalg.norm(image)))
    # Converged, or an invariant subspace: the start had no component elsewhere.
    if k + 1 == steps or off_diagonal[k] <= tolerance * max(diagonal):
      break
    basis[k + 1] = image / off_diagonal[k]
  upper = np.diag(off_diagonal[:-1], 1)
  values, vectors = np.linalg.eigh(np.diag(diagonal) + upper + upper.T)
  value = max(float(values[-1]), 0.0)
  residual = off_diagonal[-1] * abs(float(vectors[-1, -1])) / max(value, 1e-300)
  return value, residual, len(diagonal)


def spectral_norm(
  key: PRNGKey,
  linear: LinearMap,
  shape: tuple[int, ...],
  dtype: Any,
  *,
  steps: int = 100,
  risk: float = 1e-9,
) -> NormBound:
  """Computes or estimates the largest singular value of a linear map.

  Args:
    linear: array -> tuple of arrays, linear and traceable.
    shape: of its argument.
    dtype: of the arithmetic.
    steps: of Lanczos' method, at most.
    risk: probability with which the norm may exceed `upper`.

  Returns:
    The norm, with estimates of its error.
  """
  forward, backward, size, out = _flatten_map(linear, shape, dtype)
  # A^T has the same norm, and the smaller space needs fewer steps.
  if out < size:
    forward, backward, size, out = backward, forward, out, size
  if size <= _DENSE_SIDE and size * out <= _DENSE_ENTRIES:
    return _dense_norm(forward, size, dtype)
  gram = _compile_map(lambda v: backward(forward(v)), size, dtype)
  start = np.asarray(jax.random.normal(key, (size,)), np.float64)
  value, residual, used = _lanczos(gram, start, min(steps, size), 1e-6)
  sigma = math.sqrt(value)
  # After an early end the theorem holds for all planned steps; with as many
  # steps as dimensions the method is exact.
  share = 0.0 if steps >= size else lanczos_margin(size, steps, risk)
  if share is None:
    return NormBound(sigma, None, residual, used, 'lanczos')
  upper = sigma / math.sqrt(1 - share) * (1 + _ROUNDING)
  return NormBound(sigma, upper, residual, used, 'lanczos')
