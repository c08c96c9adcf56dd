"""Exact singular values of circular convolutions (1805.10408).

On an n x m grid that wraps around, a convolution is one small matrix for each
frequency: the singular values are those of all of them together. With zero
padding the norm is lower,

  sigma_zero(n) <= sigma_circular(any grid >= n + 2 pad) <= sup over omega,

so that the last is an upper bound for every size of image.
"""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Complex, Float

from cmu_jax.core import errors


def transfer(
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


def singular_values(
  kernel: Float[Array, 'kh kw i o'], grid: tuple[int, int]
) -> Float[Array, 'n m r']:
  """All singular values of a circular convolution of stride 1.

  Args:
    kernel: as `jax.lax.conv_general_dilated` takes it, HWIO.
    grid: height and width of the images.

  Returns:
    min(i, o) values for each frequency.
  """
  return jnp.linalg.svd(transfer(kernel, grid), compute_uv=False)


def clipped(
  kernel: Float[Array, 'kh kw i o'],
  grid: tuple[int, int],
  bound: float | Float[Array, ''],
) -> Float[Array, 'kh kw i o']:
  """The authors' projection: values cut at `bound`, then taps outside dropped.

  The first step is exact on the whole grid; dropping what lies outside of the
  kernel's window raises the norm again.
  """
  u, s, v = jnp.linalg.svd(transfer(kernel, grid), full_matrices=False)
  with jax.default_matmul_precision('float32'):
    cut = (u * jnp.minimum(s, bound)[..., None, :]) @ v
  whole = jnp.fft.ifft2(cut, axes=(0, 1)).real
  return whole[: kernel.shape[0], : kernel.shape[1]].astype(kernel.dtype)
