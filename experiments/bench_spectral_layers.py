"""The convolutions that bench_spectral times, and their true norms."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import spectral_baselines
from jax import numpy as jnp

from cmu_jax import networks
from cmu_jax.core import jit
from cmu_jax.core.types import Variables
from cmu_jax.robustness import spectral

SIDE = 32


class Group(NamedTuple):
  """Convolutions of one shape.

  Attributes:
    name: kernel, stride and input in words.
    layers: the convolutions.
    parameters: of the layers, stacked.
    stride: along both axes.
  """

  name: str
  layers: tuple[spectral.Layer, ...]
  parameters: dict[str, jax.Array]
  stride: int


def groups(width: int) -> list[Group]:
  """Groups the convolutions of a freshly initialised ResNet-18 by shape."""
  shape = (SIDE, SIDE, 3)
  model = networks.make('resnet18', 10, shape, width=width)
  variables = jit.compile_cheaply(model.init)(
    jax.random.key(0), jnp.zeros((1, *shape))
  )
  by_shape: dict[Any, list[spectral.Layer]] = {}
  for layer in spectral.find_layers(model.apply, variables, shape):
    if layer.kind == 'conv':
      by_shape.setdefault((layer.linear, layer.shape), []).append(layer)
  return [_group(tuple(layers), variables) for layers in by_shape.values()]


def _group(layers: tuple[spectral.Layer, ...], variables: Variables) -> Group:
  layer = layers[0]
  parameters = [spectral.layer_parameters(x, variables) for x in layers]
  kernel = parameters[0]['kernel'].shape
  out = jax.eval_shape(
    layer.linear, parameters[0], jnp.zeros((1, *layer.shape))
  )
  stride = layer.shape[0] // out.shape[1]
  height, width, channels = layer.shape
  name = (
    f'{kernel[0]}x{kernel[1]}/{stride} {channels}-{kernel[3]} {height}x{width}'
  )
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parameters)
  return Group(name, layers, stacked, stride)


def reference(group: Group, i: int, dense: int) -> tuple[float, str]:
  """Returns the norm of a convolution, and its method in words."""
  layer = group.layers[i]
  with jax.enable_x64(True):
    parameters = {
      'kernel': np.asarray(group.parameters['kernel'][i], np.float64)
    }
    linear = jax.jit(lambda x: layer.linear(parameters, x))
    side = math.prod(layer.shape)
    if side <= dense:
      return _dense_norm(linear, layer.shape), 'dense, by eigenvalues of M^T M'
    estimate = lambda key: spectral.estimate_norm(
      key, linear, layer.shape, accuracy=1e-8, steps=150, restarts=40
    )
    result = jax.jit(estimate)(jax.random.key(1))
    method = f'float64, residual {float(result.residual):.0e}'
    return float(result.sigma), method


def _dense_norm(linear: Callable, shape: tuple[int, ...]) -> float:
  """The square root of the largest eigenvalue of M^T M as a matrix."""
  side = math.prod(shape)
  square = jax.jit(lambda x: jax.vjp(linear, x)[1](linear(x))[0])
  rows = []
  # Slices of the identity: all of it at once would not fit into memory.
  for start in range(0, side, 256):
    count = min(256, side - start)
    eye = np.zeros((count, side))
    eye[np.arange(count), start + np.arange(count)] = 1
    rows.append(np.asarray(square(eye.reshape(count, *shape))))
  matrix = np.concatenate(rows).reshape(side, side)
  return float(np.sqrt(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]))


def upper(group: Group) -> list[float] | None:
  """Computes Gram iteration's bounds; None for strides, which it lacks."""
  if group.stride != 1:
    return None
  kernels = group.parameters['kernel']
  pad = kernels.shape[1] // 2
  grid = tuple(extent + 2 * pad for extent in group.layers[0].shape[:2])
  return [
    float(spectral_baselines.gram_upper_bound(kernel, grid))
    for kernel in kernels
  ]
