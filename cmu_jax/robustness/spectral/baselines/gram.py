"""Gram iteration: upper bounds of a convolution's norm (2305.16173).

For each frequency G <- G* G, rescaled; after t rounds ||G||_F^(1/2^t) is at
least the largest singular value of that frequency, and nears it quadratically.
The largest over the frequencies bounds the circular convolution, and on a grid
larger than the image by the padding also the one with zeros (see `circulant`).
An upper bound is what power iteration cannot give; it costs a transform of all
channel pairs, so that it is not compared for speed.
"""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Complex, Float

from cmu_jax.core import errors
from cmu_jax.robustness.spectral.baselines import circulant


def upper_bound(
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
  return jnp.max(_bound(circulant.transfer(kernel, grid), iterations))


def _bound(
  matrix: Complex[Array, '*n i o'], iterations: int
) -> Float[Array, '*n']:
  """||(M* M)^(2^(t-1))||_F^(1/2^t), with the scales kept as logarithms."""
  tiny = jnp.finfo(matrix.real.dtype).tiny
  log = jnp.zeros(matrix.shape[:-2], matrix.real.dtype)
  for t in range(iterations):
    size = _size(matrix)
    safe = jnp.maximum(size, tiny)
    log = log + jnp.log(safe) / 2**t
    matrix = matrix / safe[..., None, None]
    with jax.default_matmul_precision('float32'):
      matrix = jnp.conj(jnp.swapaxes(matrix, -1, -2)) @ matrix
  last = jnp.log(jnp.maximum(_size(matrix), tiny)) / 2**iterations
  return jnp.exp(log + last)


def _size(matrix: Complex[Array, '*n i o']) -> Float[Array, '*n']:
  return jnp.sqrt(jnp.sum(jnp.square(jnp.abs(matrix)), axis=(-1, -2)))
