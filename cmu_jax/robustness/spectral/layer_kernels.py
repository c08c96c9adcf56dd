"""The kernel of a layer: access, the settings of a clip, and its norm."""

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey
from cmu_jax.robustness.spectral import operators, singular_values
from cmu_jax.robustness.spectral.operators import Layer

# Layers whose norm depends on running statistics.
STATISTICS_KINDS = ('norm', 'conv_norm')


class ClipSettings(NamedTuple):
  """The static settings of a clip.

  Attributes:
    directions: k, the number of singular directions that a round treats.
    steps: of gradient descent a round.
    rate: of descent on J, capped by the exact minimum along the gradient. None
      for always that minimum. The paper has .35.
    refresh: iterations of PowerQR a round, from the vectors of the last round.
    rounds: at most, before the kernel is rescaled.
    tolerance: relative; a norm up to c (1 + tolerance) needs no clip.
    audit_steps: Lanczos steps of a measurement from a fresh start.
  """

  directions: int = 8
  steps: int = 5
  rate: float | None = 0.35
  refresh: int = 5
  rounds: int = 100
  tolerance: float = 1e-3
  audit_steps: int = 60


def check_settings(bound: float, settings: ClipSettings) -> None:
  """Raises UserError for a bound or settings out of range."""
  errors.check(
    0 < bound < float('inf'),
    f'bound {bound} of the spectral norms: give a positive number',
  )
  # Float32 norms are not exact enough for a smaller tolerance.
  errors.check(
    1e-5 <= settings.tolerance <= 0.5,
    f'tolerance {settings.tolerance}: give 1e-5 to .5',
  )
  for name in ('rounds', 'directions', 'steps'):
    value = getattr(settings, name)
    least = 0 if name == 'rounds' else 1
    errors.check(value >= least, f'{name} {value}: give {least} or more')
  rate = settings.rate
  errors.check(rate is None or rate > 0, f'rate {rate}: give more than 0')


def target_slack(settings: ClipSettings) -> float:
  """The factor of the bound at which a clip may stop."""
  # Half of the tolerance, so that a second call has nothing to do.
  return 1 + settings.tolerance / 2


def kernel_name(layer: Layer) -> str:
  """The parameter that a clip changes: a kernel, or a BatchNorm's scale."""
  return 'scale' if layer.kind == 'norm' else 'kernel'


def get_kernel(layer: Layer, params: dict[str, Any]) -> jax.Array:
  """The kernel of a layer, or the scale of a BatchNorm."""
  if layer.kind == 'conv_norm':
    return params['conv']['kernel']
  return params[kernel_name(layer)]


def with_kernel(
  layer: Layer, params: dict[str, Any], value: jax.Array
) -> dict[str, Any]:
  """The parameters of a layer with another kernel or scale."""
  if layer.kind == 'conv_norm':
    return {**params, 'conv': {**params['conv'], 'kernel': value}}
  return {**params, kernel_name(layer): value}


def measure_norm(
  key: PRNGKey,
  layer: Layer,
  params: dict[str, Any],
  steps: int = 60,
  accuracy: float = 1e-4,
) -> singular_values.LeadingNorm:
  """Measures the norm of a layer from a fresh start; exact for a BatchNorm.

  Args:
    steps: of a Lanczos run.
    accuracy: the relative residual to reach, within a few runs.
  """
  wide = jax.tree.map(widen, params)
  if layer.kind == 'norm':
    sigma = jnp.max(jnp.abs(operators.channel_slopes(layer, wide)))
    # The maximum has no vector; callers need arrays of the same shapes.
    vector, residual = jnp.zeros(layer.shape), jnp.zeros(())
    return singular_values.LeadingNorm(sigma, vector, residual)
  linear = lambda x: layer.linear(wide, x)
  return singular_values.estimate_norm(
    key, linear, layer.shape, accuracy=accuracy, steps=steps
  )


def widen(leaf: jax.Array) -> jax.Array:
  """Casts to at least float32."""
  return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
