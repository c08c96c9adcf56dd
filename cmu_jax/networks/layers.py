"""The layers that the families share: thin linen modules, PyTorch's inits.

What the mobile networks share: depthwise convolution, ReLU6, rounding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.networks import conv

Initializer = Callable[..., jax.Array]

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)): what torch.nn.Linear and Conv2d start at.
uniform_fan_in: Initializer = nn.initializers.variance_scaling(
  1 / 3, 'fan_in', 'uniform'
)
kaiming_fan_out: Initializer = nn.initializers.variance_scaling(
  2.0, 'fan_out', 'normal'
)
kaiming_fan_in: Initializer = nn.initializers.variance_scaling(
  2.0, 'fan_in', 'normal'
)


def bias_uniform_fan_in(fan_in: int) -> Initializer:
  """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for a bias, as PyTorch's default."""

  def init(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class StemTrunk(nn.Module):
  """An image's way to its features in two parts, which subclasses have.

  `stem` is the first linear layer, (n, h, w, c) -> its output, and `trunk` the
  rest, (that, train) -> (n, d): along a line in parameter space the stem of
  fixed images is computed once.
  """

  def __call__(
    self, image: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n d']:
    return self.trunk(self.stem(image), train)


class Dense(nn.Module):
  """x W + b with PyTorch's default initialisation.

  Attributes:
    features: width of the output.
    use_bias: False leaves b out.
    dtype: what the product is computed in; parameters are float32.
    kernel_init: initialiser of W.
    bias_init: initialiser of b; None for PyTorch's default.
  """

  features: int
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: Initializer = uniform_fan_in
  bias_init: Initializer | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'n d']) -> Float[Array, 'n e']:
    fan_in = x.shape[-1]
    kernel = self.param('kernel', self.kernel_init, (fan_in, self.features))
    y = x.astype(self.dtype) @ kernel.astype(self.dtype)
    if not self.use_bias:
      return y
    bias_init = self.bias_init or bias_uniform_fan_in(fan_in)
    bias = self.param('bias', bias_init, (self.features,))
    return y + bias.astype(self.dtype)[None, :]


class Conv(nn.Module):
  """A convolution with symmetric zero padding as in PyTorch.

  Attributes:
    features: output channels.
    size: kernel height and width.
    stride: step along both axes.
    padding: zeros on each side; None for size // 2.
    kernel_init: initialiser of the kernel.
    dtype: what is computed in; parameters are float32.
    convolve: the convolution itself, see `conv.convolve`.
    bias_init: initialiser of a bias; None for a convolution without one.
  """

  features: int
  size: int = 3
  stride: int = 1
  padding: int | None = None
  kernel_init: Initializer = uniform_fan_in
  dtype: Any = jnp.float32
  convolve: Callable = conv.convolve
  bias_init: Initializer | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w i']) -> Float[Array, 'n h2 w2 o']:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    pad = self.size // 2 if self.padding is None else self.padding
    y = self.convolve(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      (self.stride, self.stride),
      ((pad, pad), (pad, pad)),
    )
    if self.bias_init is None:
      return y
    bias = self.param('bias', self.bias_init, (self.features,))
    return y + bias.astype(self.dtype)[None, None, None, :]


class BatchNorm(nn.Module):
  """Batch normalisation over n, h and w (arXiv 1502.03167), in float32.

  Names, momentum convention (new = momentum old + (1 - momentum) batch) and the
  biased running variance are those of `flax.linen.BatchNorm`.

  Attributes:
    momentum: of the running statistics.
    epsilon: added to the variance.
    scale_init: initialiser of the scale.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  scale_init: Initializer = nn.initializers.ones

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'n h w c'],
    train: bool,
    offset: Float[Array, 'c'] | None = None,
  ) -> Float[Array, 'n h w c']:
    """Normalises x + offset.

    In training the offset cancels out of the result, so that it costs nothing:
    it only moves the running mean.
    """
    shape = (x.shape[-1],)
    offset = jnp.zeros(shape) if offset is None else offset
    scale = self.param('scale', self.scale_init, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, shape)
    var = self.variable('batch_stats', 'var', jnp.ones, shape)
    wide = x.astype(jnp.float32)
    if train:
      now = moments(wide)
      if not self.is_initializing():
        keep = self.momentum
        mean.value = keep * mean.value + (1 - keep) * (now[0] + offset)
        var.value = keep * var.value + (1 - keep) * now[1]
    else:
      now = mean.value - offset, var.value
    slope = scale * jax.lax.rsqrt(now[1] + self.epsilon)
    shift = bias - now[0] * slope
    y = wide * slope[None, None, None, :] + shift[None, None, None, :]
    return y.astype(x.dtype)


class IdentityNorm(nn.Module):
  """What stands in for BatchNorm where there is none; without parameters."""

  def __call__(
    self, x: Float[Array, 'n h w c'], train: bool
  ) -> Float[Array, 'n h w c']:
    """x as it is."""
    del train
    return x


NORMS: dict[str, Callable[..., nn.Module]] = {
  'batch': BatchNorm,
  'none': IdentityNorm,
}


def moments(
  x: Float[Array, 'n h w c'],
) -> tuple[Float[Array, 'c'], Float[Array, 'c']]:
  """Mean and biased variance of each channel, in one pass over x."""
  mean = jnp.mean(x, (0, 1, 2))
  square = jnp.mean(jnp.square(x), (0, 1, 2))
  return mean, jnp.maximum(square - jnp.square(mean), 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def celu(x: Float[Array, '*shape'], alpha: float) -> Float[Array, '*shape']:
  """x where positive, alpha (exp(x / alpha) - 1) elsewhere (1704.07483).

  The derivative is read off the output, so that the input is not kept; exp
  costs half of expm1 on a CPU and is off by at most alpha 6e-8.
  """
  wide = x.astype(jnp.float32)
  low = alpha * (jnp.exp(jnp.minimum(wide, 0) / alpha) - 1)
  return (jnp.maximum(wide, 0) + low).astype(x.dtype)


@celu.defjvp
def _celu_jvp(
  alpha: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  y = celu(primals[0], alpha)
  return y, tangents[0] * (jnp.minimum(y, 0) / alpha + 1)


def max_pool(x: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 c']:
  """2x2 max-pooling with stride 2; an odd last row or column is left out.

  Maxima of neighbouring rows, then columns: the gradient is many times cheaper
  on a CPU than that of a window reduction, and equal to it outside ties, which
  share it.
  """
  n, h, w, c = x.shape
  even = x[:, : h // 2 * 2, : w // 2 * 2]
  pairs = even.reshape(n, h // 2, 2, w // 2, 2, c)
  rows = jnp.maximum(pairs[:, :, 0], pairs[:, :, 1])
  return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def depthwise(
  x: Float[Array, 'n h w c'],
  kernel: Float[Array, 'kh kw 1 c'],
  stride: int = 1,
  padding: str | Sequence[tuple[int, int]] = 'SAME',
) -> Float[Array, 'n h2 w2 c']:
  """Convolves every channel with a kernel of its own.

  Args:
    x: images.
    kernel: one window a channel, in the layout of a grouped convolution.
    stride: step along both axes.
    padding: 'SAME' (TensorFlow's), 'VALID' or a (low, high) pair for each axis.

  Returns:
    The cross-correlation, summed in float32, in the type of x.
  """
  # A sum of shifted products, because XLA:CPU runs the gradient of a grouped
  # convolution inside a loop hundreds of times slower (measured: 52 s against
  # 0.06 s for 64 images of 16x16x128); forward it is 2 to 5 times slower too.
  size, strides = kernel.shape[:2], (stride, stride)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], size, strides, padding)
  wide = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns = (
    (n - k) // stride + 1 for n, k in zip(wide.shape[1:3], size, strict=True)
  )
  taps = kernel.astype(jnp.float32)
  total = jnp.zeros((), jnp.float32)
  for i in range(size[0]):
    part = lax.slice_in_dim(wide, i, i + (rows - 1) * stride + 1, stride, 1)
    for j in range(size[1]):
      last = j + (columns - 1) * stride + 1
      shifted = lax.slice_in_dim(part, j, last, stride, 2)
      total = total + shifted.astype(jnp.float32) * taps[i, j][None, None]
  return total.astype(x.dtype)


class Depthwise(nn.Module):
  """A depthwise convolution without bias, zero padding as in PyTorch.

  Attributes:
    size: kernel height and width.
    stride: step along both axes.
    kernel_init: initialiser of the kernel.
    dtype: what comes out; parameters and the sum are float32.
  """

  size: int = 3
  stride: int = 1
  kernel_init: Initializer = kaiming_fan_out
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n h2 w2 c']:
    shape = (self.size, self.size, 1, x.shape[-1])
    kernel = self.param('kernel', self.kernel_init, shape)
    pad = (self.size // 2, self.size // 2)
    return depthwise(x.astype(self.dtype), kernel, self.stride, (pad, pad))


def relu6(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """min(max(x, 0), 6), arXiv 1704.04861; the slope at 0 is 0."""
  return jnp.minimum(jax.nn.relu(x), 6)
