"""2-D convolution whose derivatives of every order stay fast on a CPU.

XLA:CPU has one fast convolution kernel: NHWC images, HWIO kernels, NHWC out.
Outside loops it rewrites other layouts to that form; in the body of a scan,
while or fori loop it does not, and the weight gradient that JAX emits takes
another form (jax-ml/jax#12868: 7 to 60 times slower). The primitive below is
bilinear and both of its transposes are the primitive again, so that forward,
reverse and mixed derivatives consist of that form only.

With y = conv(x, w; stride s, image dilation a, kernel dilation b):

  dx = conv(g, flip(w) with i and o swapped; stride a, dilations s and b)
  dw = conv(x with n and i swapped, g with n as input; stride b, dilations a, s)
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from cmu_jax.networks import conv_plan
from cmu_jax.networks.conv_plan import Pair, Window


def convolve_stock(
  lhs: Float[Array, 'n h w i'],
  rhs: Float[Array, 'kh kw j o'],
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options: Any,
) -> Float[Array, 'n h2 w2 o']:
  """JAX's own convolution in NHWC/HWIO; arguments as in `convolve`."""
  numbers = options.pop('dimension_numbers', None) or conv_plan.LAYOUT
  return lax.conv_general_dilated(
    lhs, rhs, window_strides, padding, dimension_numbers=numbers, **options
  )


def convolve_canonical(
  lhs: Float[Array, 'n h w i'],
  rhs: Float[Array, 'kh kw j o'],
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  feature_group_count: int = 1,
  **options: Any,
) -> Float[Array, 'n h2 w2 o']:
  """A convolution that stays in XLA:CPU's fast form; see `convolve`."""
  # Flax passes its own NHWC/HWIO numbers, the layout that is taken anyway.
  options.pop('dimension_numbers', None)
  if feature_group_count != 1:
    # XLA:CPU has no fast kernel for grouped convolutions to keep to.
    options['feature_group_count'] = feature_group_count
    return convolve_stock(lhs, rhs, window_strides, padding, **options)
  strides = _pair(window_strides)
  widened = _pair(options.pop('lhs_dilation', None) or (1, 1))
  spread = _pair(options.pop('rhs_dilation', None) or (1, 1))
  sizes = [
    _dilated_size(n, a) for n, a in zip(lhs.shape[1:3], widened, strict=True)
  ]
  spans = [
    _dilated_size(k, b) for k, b in zip(rhs.shape[:2], spread, strict=True)
  ]
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(sizes, spans, strides, padding)
  # The primitive's parameters must be hashable and of plain integers.
  pads = tuple((int(low), int(high)) for low, high in padding)
  window = Window(strides, (pads[0], pads[1]), widened, spread, **options)
  return _bind(lhs, rhs, window)


def convolve(
  lhs: Float[Array, 'n h w i'],
  rhs: Float[Array, 'kh kw j o'],
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options: Any,
) -> Float[Array, 'n h2 w2 o']:
  """Convolves NHWC images with HWIO kernels, in the backend's quick form.

  Arguments and their order are those of `jax.lax.conv_general_dilated`, which
  it can replace.

  Args:
    lhs: images.
    rhs: kernels; j is i divided by the number of groups.
    window_strides: one stride an axis.
    padding: 'SAME', 'VALID' or a (low, high) pair for each axis.
    **options: lhs_dilation, rhs_dilation, feature_group_count, precision.

  Returns:
    The images' cross-correlation with the kernels.
  """
  # cuDNN and TPU compilers recognise the gradients that JAX itself emits.
  on_cpu = jax.default_backend() == 'cpu'
  run = convolve_canonical if on_cpu else convolve_stock
  return run(lhs, rhs, window_strides, padding, **options)


def _pair(values: Sequence[int]) -> Pair:
  rows, columns = values
  return int(rows), int(columns)


def _dilated_size(size: int, dilation: int) -> int:
  return (size - 1) * dilation + 1 if size else 0


def _bind(lhs: jax.Array, rhs: jax.Array, window: Window) -> jax.Array:
  return _convolution.bind(lhs, rhs, **window._asdict())


def _lower(lhs: Any, rhs: Any, **params: Any) -> jax.Array:
  return conv_plan.convolve_directly(lhs, rhs, Window(**params))


def _lower_on_cpu(lhs: Any, rhs: Any, **params: Any) -> jax.Array:
  return conv_plan.convolve_by_plan(lhs, rhs, Window(**params))


def _abstract_shape(lhs: Any, rhs: Any, **params: Any) -> Any:
  window = Window(**params)
  out = jax.eval_shape(
    lambda x, w: conv_plan.convolve_directly(x, w, window),
    _spec(lhs),
    _spec(rhs),
  )
  return lhs.update(shape=out.shape, dtype=out.dtype, weak_type=False)


def _spec(aval: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _transpose_lhs(
  g: jax.Array, lhs: Any, rhs: jax.Array, **params: Any
) -> Any:
  """dx: the cotangent dilated by the stride, with the flipped kernel."""
  window = Window(**params)
  pads = []
  for axis in (0, 1):
    size = _dilated_size(lhs.aval.shape[axis + 1], window.lhs_dilation[axis])
    span = _dilated_size(rhs.shape[axis], window.rhs_dilation[axis])
    out = _dilated_size(g.shape[axis + 1], window.strides[axis])
    low = span - 1 - window.padding[axis][0]
    # Rows that the strided window left out at the end get zeros: the high
    # padding follows from the image's size, not from the window's.
    pads.append((low, size + span - 1 - out - low))
  flipped = jnp.transpose(lax.rev(rhs, (0, 1)), (0, 1, 3, 2))
  back = window._replace(
    strides=window.lhs_dilation,
    padding=(pads[0], pads[1]),
    lhs_dilation=window.strides,
  )
  if conv_plan.is_phased(back) and 0 not in (*g.shape, *flipped.shape):
    # Here, not at the lowering: the small kernel then is a value of its own,
    # which loops over images alone compute once.
    return conv_plan.convolve_by_phase(g, flipped, back, _bind)
  return _bind(g, flipped, back)


def _transpose_rhs(
  g: jax.Array, lhs: jax.Array, rhs: Any, **params: Any
) -> Any:
  """dw: images with channels as batch, with the cotangent as kernel."""
  window = Window(**params)
  pads = []
  for axis in (0, 1):
    size = _dilated_size(lhs.shape[axis + 1], window.lhs_dilation[axis])
    span = _dilated_size(rhs.aval.shape[axis], window.rhs_dilation[axis])
    out = _dilated_size(g.shape[axis + 1], window.strides[axis])
    low = window.padding[axis][0]
    pads.append((low, span - 1 + out - size - low))
  back = window._replace(
    strides=window.rhs_dilation,
    padding=(pads[0], pads[1]),
    rhs_dilation=window.strides,
  )
  images = jnp.transpose(lhs, (3, 1, 2, 0))
  kernels = jnp.transpose(g, (1, 2, 0, 3))
  return jnp.transpose(_bind(images, kernels, back), (1, 2, 0, 3))


def _batch_rule(args: Sequence[Any], axes: Sequence[Any], **params: Any) -> Any:
  window = Window(**params)
  lhs, rhs = args
  # A batch of images joins n, so that it stays a single convolution.
  if axes[1] is None:
    lhs = jnp.moveaxis(lhs, axes[0], 0)
    flat = _bind(lhs.reshape(-1, *lhs.shape[2:]), rhs, window)
    return flat.reshape(*lhs.shape[:2], *flat.shape[1:]), 0
  # Batched kernels would be a grouped convolution, which XLA:CPU runs several
  # times slower than a loop over plain convolutions.
  rhs = jnp.moveaxis(rhs, axes[1], 0)
  if axes[0] is None:
    return lax.map(lambda w: _bind(lhs, w, window), rhs), 0
  lhs = jnp.moveaxis(lhs, axes[0], 0)
  return lax.map(lambda pair: _bind(pair[0], pair[1], window), (lhs, rhs)), 0


_convolution = core.Primitive('canonical_convolution')


# Outside jit a primitive runs its `impl`. Compiled, it takes the lowering rule
# of its platform too.
@functools.partial(jax.jit, static_argnames=Window._fields)
def _run_eagerly(lhs: jax.Array, rhs: jax.Array, **params: Any) -> jax.Array:
  return _bind(lhs, rhs, Window(**params))


_convolution.def_impl(_run_eagerly)
_convolution.def_abstract_eval(_abstract_shape)
ad.defbilinear(_convolution, _transpose_lhs, _transpose_rhs)
batching.primitive_batchers[_convolution] = _batch_rule
for _platform, _rule in ((None, _lower), ('cpu', _lower_on_cpu)):
  mlir.register_lowering(
    _convolution,
    mlir.lower_fun(_rule, multiple_results=False),
    platform=_platform,
  )
