"""Layers that the network families share, initialised as in PyTorch."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.networks import conv, conv_plan

Initializer = Callable[..., jax.Array]
# Two names for images and maps, because within a call equal letters stand for
# equal sizes.
Images = Float[Array, 'n h w c']
Maps = Float[Array, 'n h2 w2 d']
Tokens = Float[Array, 'n t d']
Features = Float[Array, 'n d']

# A variance of 1 / (3 fan_in) makes the bound of a uniform distribution
# 1 / sqrt(fan_in), the default of torch.nn.Linear and torch.nn.Conv2d.
uniform_fan_in: Initializer = nn.initializers.variance_scaling(
  1 / 3, 'fan_in', 'uniform'
)
# torchvision initialises its ResNets and VGGs by fan-out, which keeps the
# variance of gradients, and its DenseNets by fan-in.
kaiming_fan_out: Initializer = nn.initializers.variance_scaling(
  2.0, 'fan_out', 'normal'
)
kaiming_fan_in: Initializer = nn.initializers.variance_scaling(
  2.0, 'fan_in', 'normal'
)


def bias_uniform_fan_in(fan_in: int) -> Initializer:
  """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for a bias, PyTorch's default."""

  def init(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class StemTrunk(nn.Module):
  """A network body in two parts, defined by the subclass.

  `stem(image)` is the first linear layer, and `trunk(stem output, train)`
  computes the features [n, d] from it.
  """

  # The stem is linear in its parameters. So along a line in parameter space
  # the stem of a fixed image is computed at two points and interpolated.
  def __call__(self, image: Images, train: bool) -> Features:
    return self.trunk(self.stem(image), train)


class Dense(nn.Module):
  """x W + b with PyTorch's default initialisation.

  Attributes:
    features: width of the output.
    use_bias: False for a layer without b.
    dtype: of the product; parameters are float32.
    kernel_init: initialiser of W.
    bias_init: initialiser of b; None for PyTorch's default.
  """

  features: int
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: Initializer = uniform_fan_in
  bias_init: Initializer | None = None

  @nn.compact
  def __call__(self, x: Features) -> Float[Array, 'n e']:
    fan_in = x.shape[-1]
    kernel = self.param(
      'kernel', self.kernel_init, (fan_in, self.features), jnp.float32
    )
    y = x.astype(self.dtype) @ kernel.astype(self.dtype)
    if not self.use_bias:
      return y
    # PyTorch bounds the bias by the fan-in of the kernel, which an initialiser
    # cannot read from the bias's own shape.
    bias_init = self.bias_init or bias_uniform_fan_in(fan_in)
    bias = self.param('bias', bias_init, (self.features,), jnp.float32)
    return y + bias.astype(self.dtype)[None, :]


# Several published networks start their linear layers without a bias.
dense_zero_bias = functools.partial(Dense, bias_init=nn.initializers.zeros)


class Conv(nn.Module):
  """A convolution with symmetric zero padding as in PyTorch.

  Attributes:
    features: output channels.
    size: kernel height and width.
    stride: step along both axes.
    padding: zeros on each side, or 'SAME' for TensorFlow's padding; None for
      size // 2.
    kernel_init: initialiser of the kernel.
    dtype: of the computation; parameters are float32.
    convolve: computes the convolution, see `conv.convolve`.
    bias_init: initialiser of the bias; None for a layer without bias.
  """

  features: int
  size: int = 3
  stride: int = 1
  padding: int | str | None = None
  kernel_init: Initializer = uniform_fan_in
  dtype: Any = jnp.float32
  convolve: Callable = conv.convolve
  bias_init: Initializer | None = None

  def pads(
    self, image_shape: Sequence[int]
  ) -> tuple[conv_plan.Pair, conv_plan.Pair]:
    """(low, high) padding along h and w of images of shape (h, w)."""
    if isinstance(self.padding, str):
      window, strides = (self.size, self.size), (self.stride, self.stride)
      rows, columns = lax.padtype_to_pads(
        image_shape, window, strides, self.padding
      )
      return rows, columns
    pad = self.size // 2 if self.padding is None else self.padding
    return ((pad, pad), (pad, pad))

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w i']) -> Float[Array, 'n h2 w2 o']:
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    y = self.convolve(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      (self.stride, self.stride),
      self.pads(x.shape[1:3]),
    )
    if self.bias_init is None:
      return y
    bias = self.param('bias', self.bias_init, (self.features,), jnp.float32)
    return y + bias.astype(self.dtype)[None, None, None, :]


def convolution(
  dtype: str, convolve: Callable, **options: Any
) -> Callable[..., Conv]:
  """A factory of convolutions with common options."""
  return functools.partial(
    Conv, dtype=jnp.dtype(dtype), convolve=convolve, **options
  )


class BatchNorm(nn.Module):
  """Batch normalisation over n, h and w (arXiv 1502.03167), in float32.

  Parameter names, the momentum convention (new = momentum old + (1 - momentum)
  batch) and the biased running variance are those of `flax.linen.BatchNorm`.

  Attributes:
    momentum: of the running statistics.
    epsilon: added to the variance.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(
    self,
    x: Images,
    train: bool,
    offset: Float[Array, 'c'] | None = None,
  ) -> Images:
    """Normalises x + offset."""
    shape = (x.shape[-1],)
    offset = jnp.zeros(shape, jnp.float32) if offset is None else offset
    scale = self.param('scale', nn.initializers.ones, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, shape, jnp.float32)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32)
    var = self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32)
    wide = x.astype(jnp.float32)
    if train:
      # An offset cancels out of a batch-normalised result, so that x + offset
      # is never formed: the offset only moves the running mean.
      center, spread = moments(wide)
      # Flax initialises by a call of the module. The statistics of that dummy
      # batch must not enter the running averages.
      if not self.is_initializing():
        keep = self.momentum
        mean.value = keep * mean.value + (1 - keep) * (center + offset)
        var.value = keep * var.value + (1 - keep) * spread
    else:
      center, spread = mean.value - offset, var.value
    # Scale and shift of a channel are combined first, so that a pixel costs one
    # multiplication and one addition.
    slope = scale * jax.lax.rsqrt(spread + self.epsilon)
    shift = bias - center * slope
    y = wide * slope[None, None, None, :] + shift[None, None, None, :]
    return y.astype(x.dtype)


class IdentityNorm(nn.Module):
  """The replacement of BatchNorm in networks without normalisation."""

  def __call__(self, x: Images, train: bool) -> Images:
    """Returns x unchanged."""
    del train
    return x


NORMS: dict[str, Callable[..., nn.Module]] = {
  'batch': BatchNorm,
  'none': IdentityNorm,
}


def moments(
  x: Images,
) -> tuple[Float[Array, 'c'], Float[Array, 'c']]:
  """Computes mean and biased variance of each channel, in one pass over x."""
  mean = jnp.mean(x, (0, 1, 2))
  square = jnp.mean(jnp.square(x), (0, 1, 2))
  # Rounding can make the difference of two close squares negative.
  return mean, jnp.maximum(square - jnp.square(mean), 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def celu(x: Float[Array, '*shape'], alpha: float) -> Float[Array, '*shape']:
  """x where positive, alpha (exp(x / alpha) - 1) elsewhere (1704.07483)."""
  wide = x.astype(jnp.float32)
  # exp costs half of expm1 on a CPU and is off by at most alpha 6e-8.
  low = alpha * (jnp.exp(jnp.minimum(wide, 0) / alpha) - 1)
  return (jnp.maximum(wide, 0) + low).astype(x.dtype)


@celu.defjvp
def _celu_jvp(
  alpha: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  # A derivative in terms of the output frees the memory of the input.
  y = celu(primals[0], alpha)
  return y, tangents[0] * (jnp.minimum(y, 0) / alpha + 1)


def relu6(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """min(max(x, 0), 6), arXiv 1704.04861; the slope at 0 is 0."""
  return jnp.minimum(jax.nn.relu(x), 6)


def max_pool(x: Images) -> Float[Array, 'n h2 w2 c']:
  """2x2 max-pooling with stride 2; an odd last row or column is dropped."""
  n, h, w, c = x.shape
  even = x[:, : h // 2 * 2, : w // 2 * 2]
  pairs = even.reshape(n, h // 2, 2, w // 2, 2, c)
  # The gradient of an elementwise maximum is many times cheaper on a CPU than
  # that of a window reduction. Both agree except at ties, which share it here.
  rows = jnp.maximum(pairs[:, :, 0], pairs[:, :, 1])
  return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def max_pool3(x: Images) -> Float[Array, 'n h2 w2 c']:
  """3x3 max-pooling with stride 2 and padding 1 of a non-negative x."""
  # Maxima of shifted slices, one axis after the other, so that derivatives of
  # every order exist.
  for axis in (1, 2):
    size = (x.shape[axis] + 1) // 2
    edges = [(0, 0)] * 4
    edges[axis] = (1, 1)
    # Zeros may pad because x is the output of a ReLU.
    wide = jnp.pad(x, edges)
    shifted = [
      lax.slice_in_dim(wide, start, start + 2 * size - 1, 2, axis)
      for start in range(3)
    ]
    x = functools.reduce(jnp.maximum, shifted)
  return x


def depthwise(
  x: Images,
  kernel: Float[Array, 'kh kw 1 c'],
  stride: int = 1,
  padding: str | Sequence[tuple[int, int]] = 'SAME',
) -> Float[Array, 'n h2 w2 c']:
  """Convolves every channel with its own kernel.

  Args:
    x: images.
    kernel: one window a channel, in the layout of a grouped convolution.
    stride: step along both axes.
    padding: 'SAME' (TensorFlow's), 'VALID' or a (low, high) pair for each axis.

  Returns:
    The cross-correlation, summed in float32, in the dtype of x.
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
    # Rows are sliced once for all taps of a kernel row.
    band = lax.slice_in_dim(wide, i, i + (rows - 1) * stride + 1, stride, 1)
    for j in range(size[1]):
      end = j + (columns - 1) * stride + 1
      shifted = lax.slice_in_dim(band, j, end, stride, 2)
      total = total + shifted.astype(jnp.float32) * taps[i, j][None, None]
  return total.astype(x.dtype)


class Depthwise(nn.Module):
  """A depthwise convolution without bias, zero padding as in PyTorch.

  Attributes:
    size: kernel height and width.
    stride: step along both axes.
    kernel_init: initialiser of the kernel.
  """

  size: int = 3
  stride: int = 1
  kernel_init: Initializer = kaiming_fan_out

  @nn.compact
  def __call__(self, x: Images) -> Float[Array, 'n h2 w2 c']:
    shape = (self.size, self.size, 1, x.shape[-1])
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    pad = (self.size // 2, self.size // 2)
    return depthwise(x, kernel, self.stride, (pad, pad))


def torch_path(module: str, block: str, renamed: Mapping[str, str]) -> str:
  """Translates a module path of a staged network into PyTorch's name.

  Args:
    module: for example 'body/stage2_block1/norm2'.
    block: format of a block's name: 'layer{stage}.{index}'. Stages count from
      1 ('stage') or 0 ('stage_index'), blocks from 0.
    renamed: names of leaves that are not 'norm' in place of 'bn'.

  Returns:
    For example 'layer2.0.bn2'.
  """
  parts = module.split('/')[1:]
  match = re.fullmatch(r'stage(\d+)_block(\d+)', parts[0])
  prefix = []
  if match:
    stage, index = int(match[1]), int(match[2]) - 1
    prefix = [block.format(stage=stage, stage_index=stage - 1, index=index)]
  leaf = renamed.get(parts[-1]) or parts[-1].replace('norm', 'bn')
  return '.'.join([*prefix, leaf])
