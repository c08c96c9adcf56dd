"""Other ways to control or to bound a convolution's norm, for comparison.

Exact singular values of circular convolutions (1805.10408).

On an n x m grid that wraps around, a convolution is one small matrix for each
frequency: the singular values are those of all of them together. With zero
padding the norm is lower,

  sigma_zero(n) <= sigma_circular(any grid >= n + 2 pad) <= sup over omega,

so that the last is an upper bound for every size of image.

Gram iteration: upper bounds of a convolution's norm (2305.16173).

For each frequency G <- G* G, rescaled; after t rounds ||G||_F^(1/2^t) is at
least the largest singular value of that frequency, and nears it quadratically.
The largest over the frequencies bounds the circular convolution, and on a grid
larger than the image by the padding also the one with zeros (see `circulant`).
An upper bound is what power iteration cannot give; it costs a transform of all
channel pairs, so that it is not compared for speed.

Whole kernels divided when their norm is above a bound (1804.04368).

  W <- W / max(1, sigma / c)

with sigma by a few power iterations on the layer itself, after every step.

The norm of a kernel as a matrix (Spectral Normalization, 1802.05957).

The kernel [kh, kw, i, o] is read as a matrix [kh kw i, o]. That is no norm of
the convolution: all that is known is

  sigma_true <= sqrt(kh kw) sigma_reshaped,

so that a 3x3 kernel divided by it may still stretch by 3.
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
  """The authors' projection: values cut at `bound`, then taps outside dropped.

  The first step is exact on the whole grid; dropping what lies outside of the
  kernel's window raises the norm again.
  """
  u, s, v = jnp.linalg.svd(transfer_matrices(kernel, grid), full_matrices=False)
  with jax.default_matmul_precision('float32'):
    cut = (u * jnp.minimum(s, bound)[..., None, :]) @ v
  whole = jnp.fft.ifft2(cut, axes=(0, 1)).real
  return whole[: kernel.shape[0], : kernel.shape[1]].astype(kernel.dtype)


def gram_upper_bound(
  kernel: Float[Array, 'kh kw i o'],
  grid: tuple[int, int],
  *,
  iterations: int = 6,
) -> Float[Array, '']:
  """An upper bound of the norm of a convolution of stride 1.

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
    size = _frobenius_norm(matrix)
    safe = jnp.maximum(size, tiny)
    log = log + jnp.log(safe) / 2**t
    matrix = matrix / safe[..., None, None]
    with jax.default_matmul_precision('float32'):
      matrix = jnp.conj(jnp.swapaxes(matrix, -1, -2)) @ matrix
  last = jnp.log(jnp.maximum(_frobenius_norm(matrix), tiny)) / 2**iterations
  return jnp.exp(log + last)


def _frobenius_norm(matrix: Complex[Array, '*n i o']) -> Float[Array, '*n']:
  return jnp.sqrt(jnp.sum(jnp.square(jnp.abs(matrix)), axis=(-1, -2)))


def divide_by_norm(
  key: PRNGKey,
  layer: Layer,
  own: dict[str, Any],
  bound: float | Float[Array, ''],
  *,
  iterations: int = 5,
  start: jax.Array | None = None,
) -> tuple[dict[str, Any], singular_values.Spectrum]:
  """A layer of which the measured norm is at most `bound`.

  Power iteration approaches the norm from below, so that few iterations leave
  the true norm above the bound.

  Args:
    key: draws the start.
    layer: a convolution or dense layer.
    own: its parameters.
    bound: c > 0.
    iterations: of the power method.
    start: vector [1, *shape] of the last call.

  Returns:
    The parameters, and what was measured before the division.
  """
  found = singular_values.power_qr(
    key,
    lambda x: layer.linear(own, x),
    layer.shape,
    iterations=iterations,
    start=start,
  )
  kernel = layer_kernels.get_kernel(layer, own)
  scaled = kernel / jnp.maximum(1, found.sigma[0] / bound)
  return layer_kernels.with_kernel(
    layer, own, scaled.astype(kernel.dtype)
  ), found


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


def normalize_kernel(
  kernel: Float[Array, '... o'], sigma: Float[Array, '']
) -> Float[Array, '... o']:
  """kernel / sigma, whether sigma is above 1 or below."""
  return kernel / sigma
