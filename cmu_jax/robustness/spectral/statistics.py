"""Running statistics anew after a clip, with the bounds kept.

What a clipped convolution gives is smaller than what the running statistics of
the BatchNorm behind it are of. Statistics of the clipped network bring means
and variances back in line, and by smaller variances raise the BatchNorm's own
norm; where that is bounded too, it is lowered again, which changes what the
next BatchNorm sees. A round for each of them settles all of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cmu_jax.core import progress, rng
from cmu_jax.core.types import Batch, InputStep, Model, PRNGKey, Variables
from cmu_jax.robustness.spectral import network, operators, parts
from cmu_jax.robustness.spectral.operators import Layer
from cmu_jax.robustness.spectral.parts import How
from cmu_jax.training import batch_norm

Lower = Callable[[tuple[Layer, ...], Variables], Variables]
# Layers whose norm depends on running statistics.
MOVING = ('norm', 'conv_norm')


def reestimated(
  key: PRNGKey,
  model: Model,
  inputs: InputStep,
  variables: Variables,
  layers: tuple[Layer, ...],
  images: Batch,
  lower: Lower,
) -> Variables:
  """The network with running statistics of images, and norms brought down.

  Args:
    key: of the order of the images.
    model: the network.
    inputs: raw pixels to network input; images are not augmented.
    variables: the network's, its norms within the bound.
    layers: those whose norms are bounded.
    images: their labels are not looked at.
    lower: (layers, variables) -> variables with the norms of these layers
      within the bound, the same arrays where nothing is above it.
  """
  moving = tuple(layer for layer in layers if layer.kind in MOVING)
  with progress.bar('running statistics', len(moving) + 1, 'rounds') as advance:
    for _ in range(len(moving) + 1):
      fresh = batch_norm.recalibrated(
        rng.named(key, 'order'), model, inputs, variables, images
      )
      with progress.muted():
        lowered = lower(moving, fresh) if moving else fresh
      settled = _same(lowered.params, variables.params)
      variables = lowered
      advance()
      if settled:
        break
  return variables


def clipping(key: PRNGKey, bound: float, how: How) -> Lower:
  """Brings norms down as the clip does."""
  return lambda layers, variables: network.clipped(
    key, layers, variables, bound, how
  )[0]


def scaling(key: PRNGKey, bound: float, how: How) -> Lower:
  """Brings norms down by one factor a layer, the baseline to beat."""

  def lower(layers: tuple[Layer, ...], variables: Variables) -> Variables:
    for layer in layers:
      sigma = float(network.norms(key, (layer,), variables)[0].sigma)
      if sigma > bound * (1 + how.tolerance):
        variables = scaled(layer, variables, bound / sigma)
    return variables

  return lower


def scaled(layer: Layer, variables: Variables, factor: float) -> Variables:
  """The network with the kernel or scale of a layer times a factor."""
  own = operators.parameters(layer, variables)
  old = parts.kernel(layer, own)
  fresh = parts.with_kernel(layer, own, (old * factor).astype(old.dtype))
  return network.put(layer, variables, fresh)


def _same(first: Any, second: Any) -> bool:
  pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)
