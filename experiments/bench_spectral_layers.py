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
    layers: which.
    own: their parameters, stacked.
    stride: along both axes.
  """

  name: str
  layers: tuple[spectral.Layer, ...]
  own: dict[str, jax.Array]
  stride: int


def groups(width: int) -> list[Group]:
  """The convolutions of a freshly initialised ResNet-18, by shape."""
  shape = (SIDE, SIDE, 3)
  model = networks.make('resnet18', 10, shape, width=width)
  variables = jit.compile_cheaply(model.init)(
    jax.random.key(0), jnp.zeros((1, *shape))
  )
  alike: dict[Any, list[spectral.Layer]] = {}
  for layer in spectral.find_layers(model.apply, variables, shape):
    if layer.kind == 'conv':
      alike.setdefault((layer.linear, layer.shape), []).append(layer)
  return [_group(tuple(part), variables) for part in alike.values()]


def _group(layers: tuple[spectral.Layer, ...], variables: Variables) -> Group:
  first = layers[0]
  own = [spectral.layer_parameters(layer, variables) for layer in layers]
  kernel = own[0]['kernel'].shape
  out = jax.eval_shape(first.linear, own[0], jnp.zeros((1, *first.shape)))
  stride = first.shape[0] // out.shape[1]
  height, width, channels = first.shape
  name = (
    f'{kernel[0]}x{kernel[1]}/{stride} {channels}-{kernel[3]} {height}x{width}'
  )
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
  return Group(name, layers, stacked, stride)


def reference(group: Group, i: int, dense: int) -> tuple[float, str]:
  """The norm of one convolution, and how it was found."""
  layer = group.layers[i]
  with jax.enable_x64(True):
    own = {'kernel': np.asarray(group.own['kernel'][i], np.float64)}
    linear = jax.jit(lambda x: layer.linear(own, x))
    side = math.prod(layer.shape)
    if side <= dense:
      return _dense(linear, layer.shape), 'dense, by eigenvalues of M^T M'
    seek = lambda key: spectral.estimate_norm(
      key, linear, layer.shape, accuracy=1e-8, steps=150, restarts=40
    )
    found = jax.jit(seek)(jax.random.key(1))
    words = f'float64, residual {float(found.residual):.0e}'
    return float(found.sigma), words


def _dense(linear: Callable, shape: tuple[int, ...]) -> float:
  """The square root of the largest eigenvalue of M^T M as a matrix."""
  side = math.prod(shape)
  square = jax.jit(lambda x: jax.vjp(linear, x)[1](linear(x))[0])
  rows = []
  for first in range(0, side, 256):
    count = min(256, side - first)
    eye = np.zeros((count, side))
    eye[np.arange(count), first + np.arange(count)] = 1
    rows.append(np.asarray(square(eye.reshape(count, *shape))))
  matrix = np.concatenate(rows).reshape(side, side)
  return float(np.sqrt(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]))


def upper(group: Group) -> list[float] | None:
  """Gram iteration's bounds; None for strides, which it does not cover."""
  if group.stride != 1:
    return None
  kernels = group.own['kernel']
  pad = kernels.shape[1] // 2
  grid = tuple(extent + 2 * pad for extent in group.layers[0].shape[:2])
  return [
    float(spectral_baselines.gram_upper_bound(kernel, grid))
    for kernel in kernels
  ]
