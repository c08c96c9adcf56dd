"""The norm of a kernel as a matrix (Spectral Normalization, 1802.05957).

The kernel [kh, kw, i, o] is read as a matrix [kh kw i, o]. That is no norm of
the convolution: all that is known is

  sigma_true <= sqrt(kh kw) sigma_reshaped,

so that a 3x3 kernel divided by it may still stretch by 3.
"""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core.types import PRNGKey


def reshaped_norm(
  key: PRNGKey,
  kernel: Float[Array, '... o'],
  *,
  iterations: int = 1,
  start: Float[Array, 'o'] | None = None,
) -> tuple[Float[Array, ''], Float[Array, 'o']]:
  """Power iteration on the reshaped kernel.

  Args:
    key: draws the start.
    kernel: of a convolution or dense layer.
    iterations: the method makes one at every step of training.
    start: the vector of the last call.

  Returns:
    sigma, and the vector for the next call.
  """
  matrix = kernel.reshape(-1, kernel.shape[-1])
  if start is None:
    start = jax.random.normal(key, (matrix.shape[1],), kernel.dtype)

  def advance(_, v):
    w = matrix.T @ (matrix @ v)
    return w / jnp.maximum(jnp.linalg.norm(w), jnp.finfo(w.dtype).tiny)

  v = jax.lax.fori_loop(0, iterations, advance, start / jnp.linalg.norm(start))
  return jnp.linalg.norm(matrix @ v), v


def normalised(
  kernel: Float[Array, '... o'], sigma: Float[Array, '']
) -> Float[Array, '... o']:
  """kernel / sigma, whether sigma is above 1 or below."""
  return kernel / sigma
