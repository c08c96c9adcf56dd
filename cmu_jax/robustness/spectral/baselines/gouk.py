"""Whole kernels divided when their norm is above a bound (1804.04368).

  W <- W / max(1, sigma / c)

with sigma by a few power iterations on the layer itself, after every step.
"""

from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core.types import PRNGKey
from cmu_jax.robustness.spectral import parts, power
from cmu_jax.robustness.spectral.operators import Layer


def projected(
  key: PRNGKey,
  layer: Layer,
  own: dict[str, Any],
  bound: float | Float[Array, ''],
  *,
  iterations: int = 5,
  start: jax.Array | None = None,
) -> tuple[dict[str, Any], power.Spectrum]:
  """A layer of which the measured norm is at most `bound`.

  Power iteration approaches the norm from below, so that few iterations leave
  the true norm above the bound.

  Args:
    key: draws the start.
    layer: a convolution or dense layer.
    own: its parameters.
    bound: c > 0.
    iterations: of the power method.
    start: vector [1, *shape] of the last call.

  Returns:
    The parameters, and what was measured before the division.
  """
  found = power.power_qr(
    key,
    lambda x: layer.linear(own, x),
    layer.shape,
    iterations=iterations,
    start=start,
  )
  kernel = parts.kernel(layer, own)
  scaled = kernel / jnp.maximum(1, found.sigma[0] / bound)
  return parts.with_kernel(layer, own, scaled.astype(kernel.dtype)), found
