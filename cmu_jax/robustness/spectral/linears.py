"""Linear maps as functions of (parameters, x): modules without their bias.

Equal modules give the same function object, so that what is compiled for one
serves all.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
from flax import linen as nn
from jax import numpy as jnp
from jax.interpreters import partial_eval
from jaxtyping import Array, Float

from cmu_jax.networks import conv

Linear = Callable[[Any, jax.Array], jax.Array]
# nn.Conv and its kin are taken at their word; other modules are looked at.
_KNOWN = (nn.Conv, nn.ConvLocal, nn.ConvTranspose, nn.DenseGeneral, nn.Dense)


class Call(NamedTuple):
  """A call of a linen module.

  Attributes:
    module: bound.
    args: positional arguments.
    kwargs: arguments by name.
    output: what it returned.
    params: the module's own parameters, not those of modules inside.
    stats: its own running statistics.
  """

  module: nn.Module
  args: tuple
  kwargs: dict[str, Any]
  output: Any
  params: dict[str, Any]
  stats: dict[str, Any]


def replay(call: Call) -> Linear:
  """The module of a call as a function of (parameters, x)."""
  fields: dict[str, Any] = {'parent': None, 'name': None}
  for name in call.module.__dataclass_fields__:
    value = getattr(call.module, name, None)
    if isinstance(value, list):
      fields[name] = _frozen(value)
    elif name in ('kernel_init', 'bias_init') and value is not None:
      fields[name] = nn.initializers.zeros
  image = call.args[0].ndim == call.params['kernel'].ndim == 4
  plain = getattr(call.module, 'conv_general_dilated', True) is None
  if isinstance(call.module, nn.Conv) and image and plain:
    # Its derivatives run in loops, where the stock form is slow on a CPU.
    fields['conv_general_dilated'] = conv.convolve
  module = call.module.clone(**fields)
  rest = call.args[1:], tuple(sorted(call.kwargs.items()))
  try:
    hash((module, rest))
  except TypeError:  # a masked kernel, for one
    return _called.__wrapped__(module, *rest)
  return _called(module, *rest)


def _frozen(value: Any) -> Any:
  return tuple(map(_frozen, value)) if isinstance(value, list) else value


@functools.lru_cache(maxsize=1024)
def _called(module: nn.Module, args: tuple, kwargs: tuple) -> Linear:
  """(parameters, x) -> the module's output without bias, in the type of x."""
  typed = 'dtype' in module.__dataclass_fields__

  def linear(
    own: dict[str, Any], x: Float[Array, 'n ...']
  ) -> Float[Array, 'n ...']:
    used = module.clone(dtype=x.dtype) if typed else module
    held = {
      name: jnp.zeros_like(leaf) if name == 'bias' else leaf
      for name, leaf in own.items()
    }
    # Norms in TF32 would be off in the third digit.
    with jax.default_matmul_precision('float32'):
      y = used.apply({'params': held}, x, *args, **dict(kwargs))
    return cast(jax.Array, y)

  return linear


@functools.lru_cache(maxsize=1024)
def diagonal(axis: int, epsilon: float) -> Linear:
  """BatchNorm in evaluation mode: x scale / sqrt(var + epsilon)."""

  def linear(
    own: dict[str, Any], x: Float[Array, 'n ...']
  ) -> Float[Array, 'n ...']:
    scale = own.get('scale', jnp.ones_like(own['var']))
    slope = scale * jax.lax.rsqrt(own['var'] + epsilon)
    wide = [1] * x.ndim
    wide[axis] = slope.size
    return x * slope.reshape(wide).astype(x.dtype)

  return linear


@functools.lru_cache(maxsize=1024)
def composed(first: Linear, second: Linear) -> Linear:
  """BatchNorm behind a convolution, of parameters {'conv', 'norm'}."""
  return lambda own, x: second(own['norm'], first(own['conv'], x))


def affine(linear: Linear, call: Call) -> bool:
  """Whether the derivative of a module does not depend on its input."""
  if isinstance(call.module, _KNOWN):
    return True

  def slope(x: jax.Array, own: dict[str, Any], dx: jax.Array) -> jax.Array:
    return jax.jvp(functools.partial(linear, own), (x,), (dx,))[1]

  x = jax.ShapeDtypeStruct(call.args[0].shape, jnp.float32)
  closed = jax.make_jaxpr(slope)(x, call.params, x)
  used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals))[1]
  return not used[0]
