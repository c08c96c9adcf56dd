"""The largest singular value of a linear map that exists only as a function.

Small maps are written out and decomposed. Larger ones are estimated by
Lanczos' method on A^T A, which approaches the norm from below; the theorem of
Kuczynski and Wozniakowski (SIAM J. Matrix Anal. Appl. 13, 1992, theorem 4.2)
says how far below it can be: for a random start in n dimensions, k steps leave
lambda_1 above the estimate over (1 - e) with probability at most
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

# Maps that are written out: entries, and the smaller side.
_DENSE_ENTRIES, _DENSE_SIDE = 2**21, 256
# Float32 products; far above what their rounding does to a norm.
_ROUNDING = 1e-4


class NormBound(NamedTuple):
  """The spectral norm of a linear map.

  Attributes:
    sigma: the estimate; from below, unless the method is 'dense'.
    upper: what the norm exceeds with probability at most `risk`, up to the
      rounding of the arithmetic; None where the steps are too few to say.
    residual: ||A^T A v - sigma^2 v|| / sigma^2 of the vector found.
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
  """A, A^T as functions of flat vectors, and their lengths."""
  aval = jax.ShapeDtypeStruct(shape, dtype)
  turned = jax.linear_transpose(linear, aval)
  out = jax.eval_shape(linear, aval)
  sizes = [math.prod(x.shape) for x in out]
  cuts = np.cumsum(sizes)[:-1]

  def forward(v):
    return jnp.concatenate([y.reshape(-1) for y in linear(v.reshape(shape))])

  def backward(u):
    pieces = jnp.split(u, cuts)
    parts = zip(pieces, out, strict=True)
    return turned(tuple(p.reshape(x.shape) for p, x in parts))[0].reshape(-1)

  return forward, backward, math.prod(shape), sum(sizes)


def _compile_map(
  fn: LinearMap, size: int, dtype: Any, jit: LinearMap = jax.jit
) -> LinearMap:
  """A jitted function whose constants are arguments, lest they be folded."""
  closed = jax.make_jaxpr(fn)(jax.ShapeDtypeStruct((size,), dtype))

  def evaluate(consts, v):
    return core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, consts))(v)[0]

  run = jit(evaluate)
  return lambda v: run(closed.consts, jnp.asarray(v, dtype))


def _dense_norm(forward: LinearMap, size: int, dtype: Any) -> NormBound:
  """The norm of the matrix, written out."""
  every = _compile_map(
    lambda eye: jax.vmap(forward)(eye.reshape(size, size)).reshape(-1),
    size * size,
    dtype,
    jit.compile_cheaply,
  )
  rows = np.asarray(every(np.eye(size).reshape(-1)), np.float64)
  rows = rows.reshape(size, -1)
  sigma = math.sqrt(max(np.linalg.eigvalsh(rows @ rows.T)[-1], 0.0))
  return NormBound(sigma, sigma * (1 + _ROUNDING), 0.0, 0, 'dense')


def lanczos_margin(size: int, steps: int, risk: float) -> float | None:
  """The e of the theorem above; None where it is not below one.

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
  """The largest Ritz value of A^T A, its residual, and how many steps.

  The basis is kept orthogonal in float64, twice over, so that the method does
  what it does in exact arithmetic.
  """
  basis = np.empty((steps, start.size))
  basis[0] = start / np.linalg.norm(start)
  diagonal: list[float] = []
  beside: list[float] = []
  for k in range(steps):
    image = np.asarray(gram(basis[k]), np.float64)
    diagonal.append(float(basis[k] @ image))
    kept = basis[: k + 1]
    for _ in range(2):
      image = image - kept.T @ (kept @ image)
    beside.append(float(np.linalg.norm(image)))
    if k + 1 == steps or beside[k] <= tolerance * max(diagonal):
      break  # Done, or the space is exhausted: the start had no part elsewhere.
    basis[k + 1] = image / beside[k]
  off = beside[:-1]
  values, vectors = np.linalg.eigh(
    np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
  )
  value = max(float(values[-1]), 0.0)
  residual = beside[-1] * abs(float(vectors[-1, -1])) / max(value, 1e-300)
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
  """The largest singular value of a linear map.

  Args:
    key: of the random start.
    linear: array -> tuple of arrays, linear and traceable.
    shape: of its argument.
    dtype: what it is computed in.
    steps: of Lanczos' method, at most.
    risk: probability with which `upper` may be exceeded.

  Returns:
    The norm, with what is known of its error.
  """
  forward, backward, size, out = _flatten_map(linear, shape, dtype)
  if out < size:
    # A^T has the same norm, and fewer dimensions to look through.
    forward, backward, size, out = backward, forward, out, size
  if size <= _DENSE_SIDE and size * out <= _DENSE_ENTRIES:
    return _dense_norm(forward, size, dtype)
  gram = _compile_map(lambda v: backward(forward(v)), size, dtype)
  start = np.asarray(jax.random.normal(key, (size,)), np.float64)
  value, residual, done = _lanczos(gram, start, min(steps, size), 1e-6)
  sigma = math.sqrt(value)
  # After an early end the theorem holds for the steps that were not needed; as
  # many as there are dimensions leave nothing to it.
  share = 0.0 if steps >= size else lanczos_margin(size, steps, risk)
  if share is None:
    return NormBound(sigma, None, residual, done, 'lanczos')
  upper = sigma / math.sqrt(1 - share) * (1 + _ROUNDING)
  return NormBound(sigma, upper, residual, done, 'lanczos')
