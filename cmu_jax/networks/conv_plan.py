"""Three cheaper forms of a convolution on a CPU, and the choice among them.

XLA:CPU runs a convolution as patches times kernel. That is slow when an image
is mostly zeros between pixels, when the kernel is as large as the image (the
weight gradient), and when pixels have few channels. Each form below rewrites
such a case as ordinary convolutions with the same result up to rounding.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Channels of the contraction taken at a time: larger blocks leave the cache,
# smaller ones pay only where the product is large.
_BLOCK, _SMALL_BLOCK, _LARGE_PRODUCT = 32, 8, 4096
# Pixels of fewer channels than this fill no vector register.
_VECTOR = 8
_WIDEST = 64

Pair = tuple[int, int]
Images = Float[Array, 'n h w i']
Kernels = Float[Array, 'kh kw i o']
Output = Float[Array, 'n h2 w2 o']


class Window(NamedTuple):
  """The static parameters of a convolution.

  Attributes:
    strides: step of the window along h and w.
    padding: (low, high) for h and for w; negative values crop.
    lhs_dilation: spacing of the image's pixels; gaps are zeros.
    rhs_dilation: spacing of the kernel's taps.
    precision: of the products, as `jax.lax.Precision`.
  """

  strides: Pair
  padding: tuple[Pair, Pair]
  lhs_dilation: Pair = (1, 1)
  rhs_dilation: Pair = (1, 1)
  precision: Any = None


def convolve_directly(lhs: Images, rhs: Kernels, window: Window) -> Output:
  """Calls JAX's convolution."""
  return lax.conv_general_dilated(
    lhs,
    rhs,
    window.strides,
    window.padding,
    lhs_dilation=window.lhs_dilation,
    rhs_dilation=window.rhs_dilation,
    dimension_numbers=LAYOUT,
    precision=window.precision,
  )


def convolve_by_plan(lhs: Images, rhs: Kernels, window: Window) -> Output:
  """Takes the form that is cheapest on a CPU."""
  out = jax.eval_shape(
    lambda x, w: convolve_directly(x, w, window), lhs, rhs
  ).shape
  # The forms below divide by sizes and concatenate: none may be empty.
  if 0 in (*lhs.shape, *rhs.shape, *out):
    return convolve_directly(lhs, rhs, window)
  if is_phased(window):
    return convolve_by_phase(lhs, rhs, window)
  kernel_area, image_area = rhs.shape[0] * rhs.shape[1], out[1] * out[2]
  # A kernel larger than the output is a weight gradient: it contracts over
  # the samples of the batch.
  if kernel_area > 1 and kernel_area >= image_area:
    large = math.prod(out) >= _LARGE_PRODUCT
    block = _SMALL_BLOCK if large else _BLOCK
    return convolve_by_block(lhs, rhs, window, block)
  count = _count_columns(lhs.shape[3], out[2], out[3])
  if count > 1 and window.lhs_dilation == window.rhs_dilation == (1, 1):
    return convolve_by_columns(lhs, rhs, window, count)
  return convolve_directly(lhs, rhs, window)


def is_phased(window: Window) -> bool:
  """True if the image alone is dilated, as `convolve_by_phase` needs it."""
  plain = window.strides == window.rhs_dilation == (1, 1)
  return plain and window.lhs_dilation != (1, 1)


def _count_columns(channels: int, width: int, features: int) -> int:
  """Output columns to compute at once; 1 for the direct form."""
  if min(channels, features) >= _VECTOR:
    return 1
  fits = (m for m in (8, 4, 2) if width % m == 0 and m * features <= _WIDEST)
  return next(fits, 1)


def convolve_by_columns(
  lhs: Images, rhs: Kernels, window: Window, count: int
) -> Output:
  """Computes `count` neighbouring output columns as channels of one column."""
  size, step = rhs.shape[1], window.strides[1]
  # The kernel is laid out once for each column, shifted by the stride. So a
  # pixel with few channels is gathered less often and the product is wider.
  shifted = [
    jnp.pad(rhs, ((0, 0), (j * step, (count - 1 - j) * step), (0, 0), (0, 0)))
    for j in range(count)
  ]
  wide = jnp.stack(shifted, 3).reshape(
    rhs.shape[0], size + (count - 1) * step, rhs.shape[2], -1
  )
  strides = (window.strides[0], count * step)
  y = convolve_directly(lhs, wide, window._replace(strides=strides))
  return y.reshape(*y.shape[:2], -1, rhs.shape[3])


def convolve_by_block(
  lhs: Images, rhs: Kernels, window: Window, block: int
) -> Output:
  """Sums over blocks of `block` input channels, one after the other."""
  count = lhs.shape[3] // block
  if count < 2:
    return convolve_directly(lhs, rhs, window)
  # In a weight gradient these channels are the samples of the batch. The outer
  # transposes undo those of the gradient, and the loop transposes a block
  # while it is in the cache.
  even = count * block
  images = jnp.transpose(lhs[..., :even], (3, 1, 2, 0))
  kernels = jnp.transpose(rhs[:, :, :even], (2, 0, 1, 3))
  blocks = [x.reshape(count, block, *x.shape[1:]) for x in (images, kernels)]

  def add(total: jax.Array, pair: list[jax.Array]) -> tuple[jax.Array, None]:
    x = jnp.transpose(pair[0], (3, 1, 2, 0))
    w = jnp.transpose(pair[1], (1, 2, 0, 3))
    return total + convolve_directly(x, w, window), None

  remainder = convolve_directly(lhs[..., even:], rhs[:, :, even:], window)
  return lax.scan(add, remainder, blocks)[0]


def convolve_by_phase(
  lhs: Images,
  rhs: Kernels,
  window: Window,
  convolve: Callable[[Images, Kernels, Window], Output] = convolve_directly,
) -> Output:
  """Convolves a dilated image without its zeros.

  Args:
    lhs: images.
    rhs: kernels.
    window: satisfies `is_phased`.
    convolve: convolves the images, not dilated, with the small kernel.
  """
  # With dilation a, output m = a M + r meets only the taps t = a d + low - r.
  # The a phases r become channels and are then laid side by side.
  dilation = window.lhs_dilation
  sizes, pads, taps = [], [], []
  for axis in (0, 1):
    a, (low, high) = dilation[axis], window.padding[axis]
    span, size = rhs.shape[axis], lhs.shape[axis + 1]
    out = (size - 1) * a + 1 + low + high - span + 1
    start = -(low // a)
    stop = (span + a - 2 - low) // a
    count = -(-out // a)
    sizes.append((out, count))
    pads.append((-start, count - size + stop))
    tap = a * np.arange(start, stop + 1)[:, None] + low - np.arange(a)[None, :]
    taps.append(np.where((tap >= 0) & (tap < span), tap, span))
  small = _phase_kernel(rhs, taps)
  plain = Window((1, 1), (pads[0], pads[1]), precision=window.precision)
  y = convolve(lhs, small, plain)
  (rows, high_rows), (columns, high_columns) = sizes
  y = y.reshape(len(y), high_rows, high_columns, *dilation, rhs.shape[3])
  y = jnp.transpose(y, (0, 1, 3, 2, 4, 5)).reshape(
    len(y), high_rows * dilation[0], high_columns * dilation[1], -1
  )
  # Every phase has as many outputs as the longest phase: cut the surplus.
  return y[:, :rows, :columns]


def _phase_kernel(
  rhs: Kernels, taps: list[np.ndarray]
) -> Float[Array, 'dh dw i phases']:
  """The kernel of every phase; index `span` of `taps` stands for no tap."""
  # The row of zeros at index `span` makes the missing taps.
  padded = jnp.pad(rhs, ((0, 1), (0, 1), (0, 0), (0, 0)))
  picked = padded[taps[0]][:, :, taps[1]]
  rows, a, columns, b, inner, outer = picked.shape
  ordered = jnp.transpose(picked, (0, 2, 4, 1, 3, 5))
  return ordered.reshape(rows, columns, inner, a * b * outer)
