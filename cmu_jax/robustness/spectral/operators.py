"""Linear maps as functions of (parameters, x): modules without their bias.

Equal modules give the same function object, so that what is compiled for one
serves all.

The implicitly linear layers of a network, as functions without bias.

A convolution, a dense layer and a BatchNorm with running statistics are affine
in their input, x -> M x + b. They are found by running the network on shapes
only and looking at every linen module as it is called, so that strides,
padding, dilation, groups and the size of the input are those of the network. M
is then the module itself, called again with its bias left out.

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
# nn.Conv and its kin are taken at their word; other modules are looked at.
_AFFINE_MODULES = (
  nn.Conv,
  nn.ConvLocal,
  nn.ConvTranspose,
  nn.DenseGeneral,
  nn.Dense,
)


class ModuleCall(NamedTuple):
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


def module_map(call: ModuleCall) -> Linear:
  """The module of a call as a function of (parameters, x)."""
  fields: dict[str, Any] = {'parent': None, 'name': None}
  for name in call.module.__dataclass_fields__:
    value = getattr(call.module, name, None)
    if isinstance(value, list):
      fields[name] = _freeze_lists(value)
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
    return _bias_free_map.__wrapped__(module, *rest)
  return _bias_free_map(module, *rest)


def _freeze_lists(value: Any) -> Any:
  return tuple(map(_freeze_lists, value)) if isinstance(value, list) else value


@functools.lru_cache(maxsize=1024)
def _bias_free_map(module: nn.Module, args: tuple, kwargs: tuple) -> Linear:
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
def batch_norm_map(axis: int, epsilon: float) -> Linear:
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
def compose_maps(first: Linear, second: Linear) -> Linear:
  """BatchNorm behind a convolution, of parameters {'conv', 'norm'}."""
  return lambda own, x: second(own['norm'], first(own['conv'], x))


def is_affine(linear: Linear, call: ModuleCall) -> bool:
  """Whether the derivative of a module does not depend on its input."""
  if isinstance(call.module, _AFFINE_MODULES):
    return True

  def slope(x: jax.Array, own: dict[str, Any], dx: jax.Array) -> jax.Array:
    return jax.jvp(functools.partial(linear, own), (x,), (dx,))[1]

  x = jax.ShapeDtypeStruct(call.args[0].shape, jnp.float32)
  closed = jax.make_jaxpr(slope)(x, call.params, x)
  used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals))[1]
  return not used[0]


# Dense kernels of more than two axes look like those of convolutions.
_DENSE_MODULES = (nn.DenseGeneral, nn.Dense, nn.Einsum)


class Layer(NamedTuple):
  """An implicitly linear layer and the size at which the network uses it.

  Attributes:
    path: of its parameters, such as 'body/conv1'.
    kind: 'conv', 'dense', 'norm' (BatchNorm with running statistics) or
      'conv_norm' (a convolution and the BatchNorm behind it as one map).
    shape: of one input, without the batch axis.
    linear: (parameters of the layer, x [n, *shape]) -> M x [n, ...]. Equal
      layers have the same function object. The parameters are those that
      `parameters` returns: `subtree(params, path)` for 'conv' and 'dense'.
    norm: path of the BatchNorm that takes this layer's output; None for none.
  """

  path: str
  kind: str
  shape: tuple[int, ...]
  linear: Linear
  norm: str | None = None


def find_layers(
  apply: Callable[..., Any], variables: Variables, image_shape: tuple[int, ...]
) -> tuple[Layer, ...]:
  """Every implicitly linear layer of a network, in the order of their calls.

  A module counts if it is a BatchNorm, or has a kernel and at most a bias and
  is affine in its one input. Only shapes are computed.

  Args:
    apply: (variables, image [n, *image_shape]) -> anything; evaluation mode.
    variables: the network's, or their jax.ShapeDtypeStructs.
    image_shape: of one image as the network takes it, (h, w, c).

  Returns:
    Layers; a module that is called at two sizes is listed at both. Empty for a
    network that is not made of linen modules.

  Raises:
    UserError: a layer's parameters are not where its path says.
  """
  calls: list[ModuleCall] = []
  found: list[Layer] = []

  def watch(
    call: Callable,
    args: tuple,
    kwargs: dict,
    context: nn.module.InterceptorContext,
  ) -> Any:
    output = call(*args, **kwargs)
    if context.method_name == '__call__':
      held = context.module.variables
      own = [dict(held.get(name, {})) for name in ('params', 'batch_stats')]
      calls.append(ModuleCall(context.module, args, kwargs, output, *own))
    return output

  def run(variables: Variables, image: jax.Array) -> None:
    with nn.intercept_methods(watch):
      apply(variables, image)
    found.extend(_layers_of_calls(calls))
    calls.clear()

  # A jitted network that was traced before would not be run again.
  with jax.disable_jit():
    jax.eval_shape(
      run, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    )
  for layer in found:
    _check_parameters(layer, variables)
  return tuple(found)


def find_model_layers(
  model: Model, image: Float[Array, '1 h w c']
) -> tuple[Layer, ...]:
  """`layers` of a network that has no parameters yet."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  return find_layers(model.apply, shapes, image.shape[1:])


def joint_layers(found: tuple[Layer, ...]) -> tuple[Layer, ...]:
  """Every convolution that BatchNorm follows, with it as one map."""
  norms = {layer.path: layer for layer in found if layer.kind == 'norm'}
  return tuple(
    Layer(
      layer.path,
      'conv_norm',
      layer.shape,
      compose_maps(layer.linear, norms[layer.norm].linear),
      layer.norm,
    )
    for layer in found
    if layer.kind == 'conv' and layer.norm is not None
  )


def subtree(params: PyTree, path: str) -> Any:
  """The part of a tree at a path such as 'body/conv1'; '' for all of it."""
  for name in path.split('/') if path else ():
    params = params[name]
  return params


def replace_subtree(params: PyTree, path: str, part: Any) -> Any:
  """A tree with another part at a path; all other leaves are the same ones."""
  if not path:
    return part
  name, _, rest = path.partition('/')
  changed = replace_subtree(params[name], rest, part)
  return type(params)({**params, name: changed})


def layer_parameters(layer: Layer, variables: Variables) -> dict[str, Any]:
  """What `layer.linear` takes first.

  Returns:
    'conv' and 'dense': their parameters; 'norm': scale, bias, mean and var, as
    far as there are any; 'conv_norm': {'conv': ..., 'norm': ...} of both.
  """
  if layer.kind == 'norm':
    return _batch_norm_parameters(layer.path, variables)
  own = dict(subtree(variables.params, layer.path))
  if layer.kind != 'conv_norm':
    return own
  return {
    'conv': own,
    'norm': _batch_norm_parameters(str(layer.norm), variables),
  }


def bind_layer(layer: Layer, variables: Variables) -> Callable:
  """x [n, *shape] -> M x [n, ...] with the parameters of a network."""
  return functools.partial(layer.linear, layer_parameters(layer, variables))


def _batch_norm_parameters(path: str, variables: Variables) -> dict[str, Any]:
  try:
    stats = dict(subtree(variables.batch_stats, path))
  except (KeyError, TypeError) as error:
    raise errors.UserError(
      f'BatchNorm {path!r} needs its running statistics; pass batch_stats '
      'of the network'
    ) from error
  parts = path.split('/')
  parent = subtree(variables.params, '/'.join(parts[:-1]))
  return {**(parent.get(parts[-1], {}) if path else parent), **stats}


def _layers_of_calls(calls: list[ModuleCall]) -> list[Layer]:
  """The layers among the calls of one run, once for each path and shape."""
  made: dict[tuple, Layer] = {}
  sources: list[tuple[Any, tuple]] = []  # outputs of convolutions, and whose
  for call in calls:
    layer = _layer_of_call(call)
    if layer is None:
      continue
    place = (layer.path, layer.shape)
    made.setdefault(place, layer)
    if layer.kind == 'conv':
      sources.append((call.output, place))
    if layer.kind == 'norm':
      for output, source in sources:
        if output is call.args[0]:
          made[source] = made[source]._replace(norm=layer.path)
  return list(made.values())


def _layer_of_call(call: ModuleCall) -> Layer | None:
  if not call.args or not isinstance(call.args[0], jax.Array):
    return None
  shape = call.args[0].shape[1:]
  path = '/'.join(call.module.path)
  if 'var' in call.stats and hasattr(call.module, 'epsilon'):
    axis = getattr(call.module, 'axis', -1)
    return Layer(path, 'norm', shape, batch_norm_map(axis, call.module.epsilon))
  if 'kernel' not in call.params or set(call.params) - {'kernel', 'bias'}:
    return None
  rest = (*call.args[1:], *call.kwargs.values())
  if call.stats or any(isinstance(x, jax.Array) for x in rest):
    return None
  linear = module_map(call)
  if not is_affine(linear, call):
    return None
  ndim = call.params['kernel'].ndim
  dense = isinstance(call.module, _DENSE_MODULES) or ndim == 2
  return Layer(path, 'dense' if dense else 'conv', shape, linear)


def _check_parameters(layer: Layer, variables: Variables) -> None:
  """Raises UserError unless the layer runs on the parameters at its path."""
  x = jax.ShapeDtypeStruct((1, *layer.shape), jnp.float32)
  try:
    own = layer_parameters(layer, variables)
    jax.eval_shape(layer.linear, own, x)
  except (KeyError, TypeError, ValueError, FlaxError) as error:
    raise errors.UserError(
      f'layer {layer.path!r}: its parameters are not at params/{layer.path} '
      'as the layer takes them; scanned, mapped or renamed modules cannot be '
      'measured'
    ) from error


def channel_slopes(layer: Layer, own: dict[str, Any]) -> Float[Array, 'c']:
  """What a BatchNorm of kind 'norm' multiplies each channel with."""
  pixel = jnp.ones((1,) * (len(layer.shape) + 1), own['var'].dtype)
  return layer.linear(own, pixel).reshape(-1)
