"""The implicitly linear layers of a network, as functions without bias.

A convolution, a dense layer and a BatchNorm with running statistics are affine
in their input, x -> M x + b. An abstract run of the network shows every linen
module as it is called, so that strides, padding, dilation, groups and the size
of the input are those of the network. M is the module itself, called again
without its bias.

References:
  Spectrum Extraction and Clipping for Implicitly Linear Layers (FastClip,
  arXiv 2402.16017), section 3.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
from flax import linen as nn
from flax.errors import FlaxError
from jax import numpy as jnp
from jax.interpreters import partial_eval
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import errors
from cmu_jax.core.types import Model, Variables
from cmu_jax.networks import conv

Linear = Callable[[Any, jax.Array], jax.Array]
# Dense kernels of more than two axes look like kernels of convolutions.
_DENSE_MODULES = (nn.DenseGeneral, nn.Dense, nn.Einsum)
# Affine by definition; the jaxpr of any other module decides.
_AFFINE_MODULES = (
  nn.Conv,
  nn.ConvLocal,
  nn.ConvTranspose,
  nn.DenseGeneral,
  nn.Dense,
)


class Layer(NamedTuple):
  """An implicitly linear layer and the size at which the network uses it.

  Attributes:
    path: of its parameters, such as 'body/conv1'.
    kind: 'conv', 'dense', 'norm' (BatchNorm with running statistics) or
      'conv_norm' (a convolution and the BatchNorm behind it as one map).
    shape: of one input, without the batch axis.
    linear: (`layer_parameters` of the layer, x [n, *shape]) -> M x [n, ...].
      Equal layers have the same function object.
    norm: path of the BatchNorm that takes this layer's output; None for none.
  """

  path: str
  kind: str
  shape: tuple[int, ...]
  linear: Linear
  norm: str | None = None


class ModuleCall(NamedTuple):
  """A call of a linen module.

  Attributes:
    module: bound.
    args: positional arguments.
    kwargs: arguments by name.
    output: its result.
    params: the module's own parameters, without inner modules.
    stats: its own running statistics.
  """

  module: nn.Module
  args: tuple
  kwargs: dict[str, Any]
  output: Any
  params: dict[str, Any]
  stats: dict[str, Any]


def find_layers(
  apply: Callable[..., Any], variables: Variables, image_shape: tuple[int, ...]
) -> tuple[Layer, ...]:
  """Finds every implicitly linear layer of a network, in the order of calls.

  A module counts if it is a BatchNorm, or has a kernel and at most a bias and
  is affine in its only input.

  Args:
    apply: (variables, image [n, *image_shape]) -> anything; evaluation mode.
    variables: the network's, or their jax.ShapeDtypeStructs.
    image_shape: of one image as the network takes it, (h, w, c).

  Returns:
    Layers; a module that is called at two sizes has a layer for each. Empty for
    a network without linen modules.

  Raises:
    UserError: a layer's parameters are not at its path.
  """
  calls: list[ModuleCall] = []
  layers: list[Layer] = []

  def record_call(
    call: Callable,
    args: tuple,
    kwargs: dict,
    context: nn.module.InterceptorContext,
  ) -> Any:
    output = call(*args, **kwargs)
    if context.method_name == '__call__':
      state = context.module.variables
      params, stats = (
        dict(state.get(name, {})) for name in ('params', 'batch_stats')
      )
      calls.append(
        ModuleCall(context.module, args, kwargs, output, params, stats)
      )
    return output

  def run(variables: Variables, image: jax.Array) -> None:
    with nn.intercept_methods(record_call):
      apply(variables, image)
    # Inside of the trace, whose arrays are dead afterwards.
    layers.extend(_layers_of_calls(calls))
    calls.clear()

  # JAX would not run a jitted network again that it has traced before.
  with jax.disable_jit():
    jax.eval_shape(
      run, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    )
  for layer in layers:
    _check_parameters(layer, variables)
  return tuple(layers)


def find_model_layers(
  model: Model, image: Float[Array, '1 h w c']
) -> tuple[Layer, ...]:
  """Finds the layers of a network that has no parameters yet."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  return find_layers(model.apply, shapes, image.shape[1:])


def joint_layers(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
  """Joins every convolution with the BatchNorm behind it to one map."""
  norms = {layer.path: layer for layer in layers if layer.kind == 'norm'}
  return tuple(
    layer._replace(
      kind='conv_norm',
      linear=_compose_maps(layer.linear, norms[layer.norm].linear),
    )
    for layer in layers
    if layer.kind == 'conv' and layer.norm is not None
  )


def subtree(params: PyTree, path: str) -> Any:
  """The part of a tree at a path such as 'body/conv1'; '' for all of it."""
  for name in path.split('/') if path else ():
    params = params[name]
  return params


def replace_subtree(params: PyTree, path: str, part: Any) -> Any:
  """Returns a tree with another part at a path; other leaves are shared."""
  if not path:
    return part
  name, _, inner = path.partition('/')
  changed = replace_subtree(params[name], inner, part)
  return type(params)({**params, name: changed})


def layer_parameters(layer: Layer, variables: Variables) -> dict[str, Any]:
  """The parameters that `layer.linear` takes.

  Returns:
    'conv' and 'dense': `subtree(params, path)`; 'norm': scale, bias, mean and
    var, as far as they exist; 'conv_norm': {'conv': ..., 'norm': ...} of both.
  """
  if layer.kind == 'norm':
    return _batch_norm_parameters(layer.path, variables)
  params = dict(subtree(variables.params, layer.path))
  if layer.kind != 'conv_norm':
    return params
  norm = _batch_norm_parameters(str(layer.norm), variables)
  return {'conv': params, 'norm': norm}


def bind_layer(layer: Layer, variables: Variables) -> Callable:
  """x [n, *shape] -> M x [n, ...] with the parameters of a network."""
  return functools.partial(layer.linear, layer_parameters(layer, variables))


def channel_slopes(layer: Layer, params: dict[str, Any]) -> Float[Array, 'c']:
  """The factor of each channel in a BatchNorm of kind 'norm'."""
  pixel = jnp.ones((1,) * (len(layer.shape) + 1), params['var'].dtype)
  return layer.linear(params, pixel).reshape(-1)


def _batch_norm_parameters(path: str, variables: Variables) -> dict[str, Any]:
  try:
    stats = dict(subtree(variables.batch_stats, path))
  except (KeyError, TypeError) as error:
    raise errors.UserError(
      f'BatchNorm {path!r} needs its running statistics; pass batch_stats '
      'of the network'
    ) from error
  # A BatchNorm without scale and bias has no entry in params.
  names = path.split('/')
  parent = subtree(variables.params, '/'.join(names[:-1]))
  return {**(parent.get(names[-1], {}) if path else parent), **stats}


def _layers_of_calls(calls: list[ModuleCall]) -> list[Layer]:
  """The layers among the calls of one run, once for each path and shape."""
  layers: dict[tuple, Layer] = {}
  convolutions: list[tuple[Any, tuple]] = []  # outputs, and keys of layers
  for call in calls:
    layer = _layer_of_call(call)
    if layer is None:
      continue
    key = (layer.path, layer.shape)
    layers.setdefault(key, layer)
    if layer.kind == 'conv':
      convolutions.append((call.output, key))
    if layer.kind == 'norm':
      # The same array object, so nothing happens between the two modules.
      for output, source in convolutions:
        if output is call.args[0]:
          layers[source] = layers[source]._replace(norm=layer.path)
  return list(layers.values())


def _layer_of_call(call: ModuleCall) -> Layer | None:
  """The layer of a call; None if the module is not implicitly linear."""
  if not call.args or not isinstance(call.args[0], jax.Array):
    return None
  shape = call.args[0].shape[1:]
  path = '/'.join(call.module.path)
  if 'var' in call.stats and hasattr(call.module, 'epsilon'):
    axis = getattr(call.module, 'axis', -1)
    linear = _batch_norm_map(axis, call.module.epsilon)
    return Layer(path, 'norm', shape, linear)
  if 'kernel' not in call.params or set(call.params) - {'kernel', 'bias'}:
    return None
  options = (*call.args[1:], *call.kwargs.values())
  if call.stats or any(isinstance(x, jax.Array) for x in options):
    return None
  linear = _module_map(call)
  if not _is_affine(linear, call):
    return None
  ndim = call.params['kernel'].ndim
  dense = isinstance(call.module, _DENSE_MODULES) or ndim == 2
  return Layer(path, 'dense' if dense else 'conv', shape, linear)


def _check_parameters(layer: Layer, variables: Variables) -> None:
  """Raises UserError unless the layer runs on the parameters at its path."""
  x = jax.ShapeDtypeStruct((1, *layer.shape), jnp.float32)
  try:
    jax.eval_shape(layer.linear, layer_parameters(layer, variables), x)
  except (KeyError, TypeError, ValueError, FlaxError) as error:
    raise errors.UserError(
      f'layer {layer.path!r}: its parameters are not at params/{layer.path} '
      'as the layer takes them; scanned, mapped or renamed modules cannot be '
      'measured'
    ) from error


def _module_map(call: ModuleCall) -> Linear:
  """The module of a call as a function of (parameters, x)."""
  fields: dict[str, Any] = {'parent': None, 'name': None}
  for name in call.module.__dataclass_fields__:
    value = getattr(call.module, name, None)
    if isinstance(value, list):
      fields[name] = _freeze_lists(value)
    # Initializers are closures: modules that differ in them alone are equal.
    elif name in ('kernel_init', 'bias_init') and value is not None:
      fields[name] = nn.initializers.zeros
  image = call.args[0].ndim == call.params['kernel'].ndim == 4
  plain = getattr(call.module, 'conv_general_dilated', True) is None
  # Derivatives run in loops, where the stock convolution is slow on a CPU.
  if isinstance(call.module, nn.Conv) and image and plain:
    fields['conv_general_dilated'] = conv.convolve
  module = call.module.clone(**fields)
  options = call.args[1:], tuple(sorted(call.kwargs.items()))
  # Some modules cannot be cached, for example with a mask of the kernel.
  try:
    hash((module, options))
  except TypeError:
    return _bias_free_map.__wrapped__(module, *options)
  return _bias_free_map(module, *options)


def _freeze_lists(value: Any) -> Any:
  return tuple(map(_freeze_lists, value)) if isinstance(value, list) else value


# The caches give equal modules the same function object, so that a program
# compiled for one layer serves all equal layers.
@functools.lru_cache(maxsize=1024)
def _bias_free_map(module: nn.Module, args: tuple, kwargs: tuple) -> Linear:
  """(parameters, x) -> the module's output without bias, in the type of x."""
  typed = 'dtype' in module.__dataclass_fields__

  def linear(
    params: dict[str, Any], x: Float[Array, 'n ...']
  ) -> Float[Array, 'n ...']:
    clone = module.clone(dtype=x.dtype) if typed else module
    without_bias = {
      name: jnp.zeros_like(leaf) if name == 'bias' else leaf
      for name, leaf in params.items()
    }
    # Norms in TF32 would be off in the third digit.
    with jax.default_matmul_precision('float32'):
      y = clone.apply({'params': without_bias}, x, *args, **dict(kwargs))
    return cast(jax.Array, y)

  return linear


@functools.lru_cache(maxsize=1024)
def _batch_norm_map(axis: int, epsilon: float) -> Linear:
  """BatchNorm in evaluation mode: x scale / sqrt(var + epsilon)."""

  def linear(
    params: dict[str, Any], x: Float[Array, 'n ...']
  ) -> Float[Array, 'n ...']:
    scale = params.get('scale', jnp.ones_like(params['var']))
    slope = scale * jax.lax.rsqrt(params['var'] + epsilon)
    shape = [1] * x.ndim
    shape[axis] = slope.size
    return x * slope.reshape(shape).astype(x.dtype)

  return linear


@functools.lru_cache(maxsize=1024)
def _compose_maps(convolution: Linear, norm: Linear) -> Linear:
  """BatchNorm behind a convolution, of parameters {'conv', 'norm'}."""
  return lambda params, x: norm(params['norm'], convolution(params['conv'], x))


def _is_affine(linear: Linear, call: ModuleCall) -> bool:
  """Returns whether the derivative of a module ignores its input."""
  if isinstance(call.module, _AFFINE_MODULES):
    return True

  def slope(x: jax.Array, params: dict[str, Any], dx: jax.Array) -> jax.Array:
    return jax.jvp(functools.partial(linear, params), (x,), (dx,))[1]

  x = jax.ShapeDtypeStruct(call.args[0].shape, jnp.float32)
  closed = jax.make_jaxpr(slope)(x, call.params, x)
  # Dead-code elimination tells whether x reaches the derivative.
  used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals))[1]
  return not used[0]
