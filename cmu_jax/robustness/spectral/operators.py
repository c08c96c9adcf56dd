"""The implicitly linear layers of a network, as functions without bias.

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
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax.errors import FlaxError
from jax import numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import errors
from cmu_jax.core.types import Model, Variables
from cmu_jax.robustness.spectral import linears
from cmu_jax.robustness.spectral.linears import Linear

# Dense kernels of more than two axes look like those of convolutions.
_DENSE = (nn.DenseGeneral, nn.Dense, nn.Einsum)


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


def layers(
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
  calls: list[linears.Call] = []
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
      calls.append(linears.Call(context.module, args, kwargs, output, *own))
    return output

  def run(variables: Variables, image: jax.Array) -> None:
    with nn.intercept_methods(watch):
      apply(variables, image)
    found.extend(_found(calls))
    calls.clear()

  # A jitted network that was traced before would not be run again.
  with jax.disable_jit():
    jax.eval_shape(
      run, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    )
  for layer in found:
    _check(layer, variables)
  return tuple(found)


def layers_of(
  model: Model, image: Float[Array, '1 h w c']
) -> tuple[Layer, ...]:
  """`layers` of a network that has no parameters yet."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  return layers(model.apply, shapes, image.shape[1:])


def joint(found: tuple[Layer, ...]) -> tuple[Layer, ...]:
  """Every convolution that BatchNorm follows, with it as one map."""
  norms = {layer.path: layer for layer in found if layer.kind == 'norm'}
  return tuple(
    Layer(
      layer.path,
      'conv_norm',
      layer.shape,
      linears.composed(layer.linear, norms[layer.norm].linear),
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


def replaced(params: PyTree, path: str, part: Any) -> Any:
  """A tree with another part at a path; all other leaves are the same ones."""
  if not path:
    return part
  name, _, rest = path.partition('/')
  changed = replaced(params[name], rest, part)
  return type(params)({**params, name: changed})


def parameters(layer: Layer, variables: Variables) -> dict[str, Any]:
  """What `layer.linear` takes first.

  Returns:
    'conv' and 'dense': their parameters; 'norm': scale, bias, mean and var, as
    far as there are any; 'conv_norm': {'conv': ..., 'norm': ...} of both.
  """
  if layer.kind == 'norm':
    return _statistics(layer.path, variables)
  own = dict(subtree(variables.params, layer.path))
  if layer.kind != 'conv_norm':
    return own
  return {'conv': own, 'norm': _statistics(str(layer.norm), variables)}


def bound(layer: Layer, variables: Variables) -> Callable:
  """x [n, *shape] -> M x [n, ...] with the parameters of a network."""
  return functools.partial(layer.linear, parameters(layer, variables))


def _statistics(path: str, variables: Variables) -> dict[str, Any]:
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


def _found(calls: list[linears.Call]) -> list[Layer]:
  """The layers among the calls of one run, once for each path and shape."""
  made: dict[tuple, Layer] = {}
  sources: list[tuple[Any, tuple]] = []  # outputs of convolutions, and whose
  for call in calls:
    layer = _layer(call)
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


def _layer(call: linears.Call) -> Layer | None:
  if not call.args or not isinstance(call.args[0], jax.Array):
    return None
  shape = call.args[0].shape[1:]
  path = '/'.join(call.module.path)
  if 'var' in call.stats and hasattr(call.module, 'epsilon'):
    axis = getattr(call.module, 'axis', -1)
    return Layer(
      path, 'norm', shape, linears.diagonal(axis, call.module.epsilon)
    )
  if 'kernel' not in call.params or set(call.params) - {'kernel', 'bias'}:
    return None
  rest = (*call.args[1:], *call.kwargs.values())
  if call.stats or any(isinstance(x, jax.Array) for x in rest):
    return None
  linear = linears.replay(call)
  if not linears.affine(linear, call):
    return None
  ndim = call.params['kernel'].ndim
  dense = isinstance(call.module, _DENSE) or ndim == 2
  return Layer(path, 'dense' if dense else 'conv', shape, linear)


def _check(layer: Layer, variables: Variables) -> None:
  """Raises UserError unless the layer runs on the parameters at its path."""
  x = jax.ShapeDtypeStruct((1, *layer.shape), jnp.float32)
  try:
    own = parameters(layer, variables)
    jax.eval_shape(layer.linear, own, x)
  except (KeyError, TypeError, ValueError, FlaxError) as error:
    raise errors.UserError(
      f'layer {layer.path!r}: its parameters are not at params/{layer.path} '
      'as the layer takes them; scanned, mapped or renamed modules cannot be '
      'measured'
    ) from error


def slopes(layer: Layer, own: dict[str, Any]) -> Float[Array, 'c']:
  """What a BatchNorm of kind 'norm' multiplies each channel with."""
  pixel = jnp.ones((1,) * (len(layer.shape) + 1), own['var'].dtype)
  return layer.linear(own, pixel).reshape(-1)
