"""Other ways to control or to bound a convolution's norm, for comparison.

* circular convolutions have exact singular values (1805.10408),
* Gram iteration bounds a convolution's norm from above (2305.16173),
* kernels can be divided by their norm (1804.04368),
* the norm of a kernel as a matrix stands for its norm (1802.05957).
"""

from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Complex, Float

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey
from cmu_jax.robustness.spectral import layer_kernels, singular_values
from cmu_jax.robustness.spectral.operators import Layer


def transfer_matrices(
  kernel: Float[Array, 'kh kw i o'], grid: tuple[int, int]
) -> Complex[Array, 'n m i o']:
  """The matrix of every frequency of a grid.

  Raises:
    UserError: the grid is smaller than the kernel.
  """
  errors.check(
    grid[0] >= kernel.shape[0] and grid[1] >= kernel.shape[1],
    f'a grid of {grid} is smaller than the kernel {kernel.shape[:2]}',
  )
  return jnp.fft.fft2(kernel, grid, axes=(0, 1))


def circular_singular_values(
  kernel: Float[Array, 'kh kw i o'], grid: tuple[int, int]
) -> Float[Array, 'n m r']:
  """All singular values of a circular convolution of stride 1.

  On a grid that wraps around, a convolution is one small matrix for each
  frequency. With zero padding the norm is lower,

    sigma_zero(n) <= sigma_circular(any grid >= n + 2 pad) <= sup over omega,

  so that the last is an upper bound for every size of image.

  Args:
    kernel: as `jax.lax.conv_general_dilated` takes it, HWIO.
    grid: height and width of the images.

  Returns:
    min(i, o) values for each frequency.
  """
  return jnp.linalg.svd(transfer_matrices(kernel, grid), compute_uv=False)


def clip_circular(
  kernel: Float[Array, 'kh kw i o'],
  grid: tuple[int, int],
  bound: float | Float[Array, ''],
) -> Float[Array, 'kh kw i o']:
  """The projection of 1805.10408: cuts values, then drops taps outside."""
  matrices = transfer_matrices(kernel, grid)
  u, s, v = jnp.linalg.svd(matrices, full_matrices=False)
  with jax.default_matmul_precision('float32'):
    cut = (u * jnp.minimum(s, bound)[..., None, :]) @ v
  # Exact on the grid; dropping the other taps raises the norm again.
  full = jnp.fft.ifft2(cut, axes=(0, 1)).real
  return full[: kernel.shape[0], : kernel.shape[1]].astype(kernel.dtype)


def gram_upper_bound(
  kernel: Float[Array, 'kh kw i o'],
  grid: tuple[int, int],
  *,
  iterations: int = 6,
) -> Float[Array, '']:
  """An upper bound of the norm of a convolution of stride 1 (2305.16173).

  For each frequency G <- G* G, rescaled; after t rounds ||G||_F^(1/2^t) is at
  least the largest singular value of that frequency, and nears it
  quadratically. It costs a transform of all channel pairs, so that it is not
  compared for speed.

  Args:
    kernel: HWIO.
    grid: height and width of the images, with padding on both sides if the
      convolution pads with zeros.
    iterations: t; the authors take 5 to 7.

  Raises:
    UserError: the grid is smaller than the kernel, or fewer than one iteration.
  """
  errors.check(iterations >= 1, f'{iterations} Gram iterations: give 1 or more')
  return jnp.max(_gram_bound(transfer_matrices(kernel, grid), iterations))


def _gram_bound(
  matrix: Complex[Array, '*n i o'], iterations: int
) -> Float[Array, '*n']:
  """||(M* M)^(2^(t-1))||_F^(1/2^t), with the scales kept as logarithms."""
  tiny = jnp.finfo(matrix.real.dtype).tiny
  log = jnp.zeros(matrix.shape[:-2], matrix.real.dtype)
  for t in range(iterations):
    safe = jnp.maximum(_frobenius_norm(matrix), tiny)
    log = log + jnp.log(safe) / 2**t
    matrix = matrix / safe[..., None, None]
    with jax.default_matmul_precision('float32'):
      matrix = jnp.conj(jnp.swapaxes(matrix, -1, -2)) @ matrix
  final = jnp.log(jnp.maximum(_frobenius_norm(matrix), tiny)) / 2**iterations
  return jnp.exp(log + final)


def _frobenius_norm(matrix: Complex[Array, '*n i o']) -> Float[Array, '*n']:
  return jnp.sqrt(jnp.sum(jnp.square(jnp.abs(matrix)), axis=(-1, -2)))


def divide_by_norm(
  key: PRNGKey,
  layer: Layer,
  params: dict[str, Any],
  bound: float | Float[Array, ''],
  *,
  iterations: int = 5,
  start: jax.Array | None = None,
) -> tuple[dict[str, Any], singular_values.Spectrum]:
  """W / max(1, sigma / c), so that the measured norm is at most c (1804.04368).

  Power iteration approaches the norm from below, so that few iterations leave
  the true norm above the bound.

  Args:
    key: of the random start.
    layer: a convolution or dense layer.
    params: its parameters.
    bound: c > 0.
    iterations: of the power method.
    start: vector [1, *shape] of the last call.

  Returns:
    The parameters, and the measurement before the division.
  """
  spectrum = singular_values.power_qr(
    key,
    lambda x: layer.linear(params, x),
    layer.shape,
    iterations=iterations,
    start=start,
  )
  kernel = layer_kernels.get_kernel(layer, params)
  scaled = kernel / jnp.maximum(1, spectrum.sigma[0] / bound)
  scaled = scaled.astype(kernel.dtype)
  return layer_kernels.with_kernel(layer, params, scaled), spectrum


def reshaped_norm(
  key: PRNGKey,
  kernel: Float[Array, '... o'],
  *,
  iterations: int = 1,
  start: Float[Array, 'o'] | None = None,
) -> tuple[Float[Array, ''], Float[Array, 'o']]:
  """Power iteration on the kernel as a matrix [kh kw i, o] (1802.05957).

  That is no norm of the convolution. Only

    sigma_true <= sqrt(kh kw) sigma_reshaped

  is known, so that a 3x3 kernel divided by it may still stretch by 3.

  Args:
    key: of the random start.
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
