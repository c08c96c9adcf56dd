"""How one convolution is computed on a CPU: three cheaper equal forms.

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
  """What is static about a convolution.

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
  """The convolution as JAX writes it."""
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
  """The convolution in the form that is cheapest on a CPU."""
  out = jax.eval_shape(
    lambda x, w: convolve_directly(x, w, window), lhs, rhs
  ).shape
  if 0 in (*lhs.shape, *rhs.shape, *out):
    return convolve_directly(lhs, rhs, window)
  if is_phased(window):
    return convolve_by_phase(lhs, rhs, window)
  kernel_area, image_area = rhs.shape[0] * rhs.shape[1], out[1] * out[2]
  if kernel_area > 1 and kernel_area >= image_area:
    large = math.prod(out) >= _LARGE_PRODUCT
    return convolve_by_block(
      lhs, rhs, window, _SMALL_BLOCK if large else _BLOCK
    )
  several = _count_columns(lhs.shape[3], out[2], out[3])
  if several > 1 and window.lhs_dilation == window.rhs_dilation == (1, 1):
    return convolve_by_columns(lhs, rhs, window, several)
  return convolve_directly(lhs, rhs, window)


def is_phased(window: Window) -> bool:
  """Whether only the image is dilated, so that `by_phase` does."""
  plain = window.strides == window.rhs_dilation == (1, 1)
  return plain and window.lhs_dilation != (1, 1)


def _count_columns(channels: int, width: int, features: int) -> int:
  """How many output columns to compute at once; 1 for none."""
  if min(channels, features) >= _VECTOR:
    return 1
  fits = (m for m in (8, 4, 2) if width % m == 0 and m * features <= _WIDEST)
  return next(fits, 1)


def convolve_by_columns(
  lhs: Images, rhs: Kernels, window: Window, several: int
) -> Output:
  """`several` neighbouring output columns as the channels of one.

  The kernel is laid out once for each column, shifted by the stride, so that a
  pixel with few channels is gathered less often and the product is wider.
  """
  size, step = rhs.shape[1], window.strides[1]
  shifted = [
    jnp.pad(rhs, ((0, 0), (j * step, (several - 1 - j) * step), (0, 0), (0, 0)))
    for j in range(several)
  ]
  wide = jnp.stack(shifted, 3).reshape(
    rhs.shape[0], size + (several - 1) * step, rhs.shape[2], -1
  )
  y = convolve_directly(
    lhs, wide, window._replace(strides=(window.strides[0], several * step))
  )
  return y.reshape(*y.shape[:2], -1, rhs.shape[3])


def convolve_by_block(
  lhs: Images, rhs: Kernels, window: Window, block: int
) -> Output:
  """The sum over blocks of `block` input channels, one after the other.

  In a weight gradient these channels are the samples of the batch. The outer
  transposes undo those of the gradient, and the loop transposes a block while
  it is in the cache.
  """
  count = lhs.shape[3] // block
  if count < 2:
    return convolve_directly(lhs, rhs, window)
  whole = count * block
  images = jnp.transpose(lhs[..., :whole], (3, 1, 2, 0))
  kernels = jnp.transpose(rhs[:, :, :whole], (2, 0, 1, 3))
  parts = [x.reshape(count, block, *x.shape[1:]) for x in (images, kernels)]

  def add(total: jax.Array, part: list[jax.Array]) -> tuple[jax.Array, None]:
    turned = jnp.transpose(part[0], (3, 1, 2, 0))
    return total + convolve_directly(
      turned, jnp.transpose(part[1], (1, 2, 0, 3)), window
    ), None

  rest = convolve_directly(lhs[..., whole:], rhs[:, :, whole:], window)
  return lax.scan(add, rest, parts)[0]


def convolve_by_phase(
  lhs: Images,
  rhs: Kernels,
  window: Window,
  convolve: Callable[[Images, Kernels, Window], Output] = convolve_directly,
) -> Output:
  """A dilated image without its zeros: one small kernel for each phase.

  With dilation a, output m = a M + r meets only the taps t = a d + low - r;
  the a phases r become channels and are then laid side by side.

  Args:
    lhs: images.
    rhs: kernels.
    window: one that is `phased`.
    convolve: what convolves the images, not dilated, with the small kernel.
  """
  dilation = window.lhs_dilation
  sizes, pads, taps = [], [], []
  for axis in (0, 1):
    a, (low, high) = dilation[axis], window.padding[axis]
    span, size = rhs.shape[axis], lhs.shape[axis + 1]
    out = (size - 1) * a + 1 + low + high - span + 1
    first = -(low // a)
    last = (span + a - 2 - low) // a
    count = -(-out // a)
    sizes.append((out, count))
    pads.append((-first, count - size + last))
    tap = a * np.arange(first, last + 1)[:, None] + low - np.arange(a)[None, :]
    taps.append(np.where((tap >= 0) & (tap < span), tap, span))
  small = _phase_kernel(rhs, taps)
  plain = Window((1, 1), (pads[0], pads[1]), precision=window.precision)
  y = convolve(lhs, small, plain)
  (rows, high_rows), (columns, high_columns) = sizes
  y = y.reshape(len(y), high_rows, high_columns, *dilation, rhs.shape[3])
  y = jnp.transpose(y, (0, 1, 3, 2, 4, 5)).reshape(
    len(y), high_rows * dilation[0], high_columns * dilation[1], -1
  )
  return y[:, :rows, :columns]


def _phase_kernel(
  rhs: Kernels, taps: list[np.ndarray]
) -> Float[Array, 'dh dw i phases']:
  """The kernel of every phase; index `span` of `taps` stands for no tap."""
  padded = jnp.pad(rhs, ((0, 1), (0, 1), (0, 0), (0, 0)))
  picked = padded[taps[0]][:, :, taps[1]]
  rows, a, columns, b, inner, outer = picked.shape
  ordered = jnp.transpose(picked, (0, 2, 4, 1, 3, 5))
  return ordered.reshape(rows, columns, inner, a * b * outer)
