"""What of a layer is clipped, how, and how its norm is measured."""

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey
from cmu_jax.robustness.spectral import operators, singular_values
from cmu_jax.robustness.spectral.operators import Layer


class ClipSettings(NamedTuple):
  """The settings of a clip; static.

  Attributes:
    directions: k, how many singular directions a round treats.
    steps: of gradient descent a round.
    rate: of descent on J; the exact minimum along the gradient caps it. None
      for always that minimum. The paper has .35.
    refresh: iterations of PowerQR a round, from the vectors of the last.
    rounds: at most; then the kernel is rescaled.
    tolerance: relative; a norm up to c (1 + tolerance) is left alone.
    audit: Lanczos steps of a run that judges a norm from a fresh start.
  """

  directions: int = 8
  steps: int = 5
  rate: float | None = 0.35
  refresh: int = 5
  rounds: int = 100
  tolerance: float = 1e-3
  audit_steps: int = 60


def check_settings(bound: float, how: ClipSettings) -> None:
  """Raises UserError unless the bound and the settings can be."""
  errors.check(
    0 < bound < float('inf'),
    f'bound {bound} of the spectral norms: give a positive number',
  )
  errors.check(
    1e-5 <= how.tolerance <= 0.5,
    f'tolerance {how.tolerance}: give 1e-5 to .5',
  )
  for name in ('rounds', 'directions', 'steps'):
    value = getattr(how, name)
    least = 0 if name == 'rounds' else 1
    errors.check(value >= least, f'{name} {value}: give {least} or more')
  errors.check(
    how.rate is None or how.rate > 0, f'rate {how.rate}: give more than 0'
  )


def get_kernel(layer: Layer, own: dict[str, Any]) -> jax.Array:
  """What of a layer is clipped: its kernel, or the scale of a BatchNorm."""
  if layer.kind == 'conv_norm':
    return own['conv']['kernel']
  return own['scale' if layer.kind == 'norm' else 'kernel']


def with_kernel(
  layer: Layer, own: dict[str, Any], value: jax.Array
) -> dict[str, Any]:
  """The parameters of a layer with another kernel or scale."""
  if layer.kind == 'conv_norm':
    return {**own, 'conv': {**own['conv'], 'kernel': value}}
  return {**own, 'scale' if layer.kind == 'norm' else 'kernel': value}


def measure_norm(
  key: PRNGKey,
  layer: Layer,
  own: dict[str, Any],
  steps: int = 60,
  accuracy: float = 1e-4,
) -> singular_values.LeadingNorm:
  """The norm of a layer from a fresh start; exact for a BatchNorm.

  Args:
    key: draws the start.
    layer: which.
    own: its parameters.
    steps: of a Lanczos run.
    accuracy: the relative residual to reach, in a few runs at most.
  """
  full = jax.tree.map(widen, own)
  if layer.kind == 'norm':
    sigma = jnp.max(jnp.abs(operators.channel_slopes(layer, full)))
    return singular_values.LeadingNorm(
      sigma, jnp.zeros(layer.shape), jnp.zeros(())
    )
  linear = lambda x: layer.linear(full, x)
  return singular_values.estimate_norm(
    key, linear, layer.shape, accuracy=accuracy, steps=steps
  )


def target_slack(how: ClipSettings) -> float:
  """Half of the tolerance, so that a second call finds nothing to do."""
  return 1 + how.tolerance / 2


def widen(leaf: jax.Array) -> jax.Array:
  """At least float32."""
  return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
