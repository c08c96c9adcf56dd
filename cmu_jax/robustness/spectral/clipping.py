r"""Clipping one implicitly linear layer, as a pure function.

A dense kernel has the closed form U min(S, c) V^T, and a BatchNorm
|scale| <= c sqrt(var + epsilon). Directions v_i of a convolution with
sigma_i > c come down to c by gradient descent on the kernel W (FastClip, arXiv
2402.16017, algorithm 2),

  J(W) = sum_i || f_W(v_i) - min(c / sigma_i, 1) f_W0(v_i) ||^2 / W_out,

with f without bias, W_out the width of the output, and new directions after
every round.
"""

import math
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cmu_jax.core.types import PRNGKey
from cmu_jax.robustness.spectral import (
  layer_kernels,
  operators,
  singular_values,
)
from cmu_jax.robustness.spectral.layer_kernels import ClipSettings
from cmu_jax.robustness.spectral.operators import Layer

# Low precision rounds after rescaling, so that a norm may rise again.
_MAX_RESCALINGS = 8


class ClippedLayer(NamedTuple):
  """A layer after clipping.

  Attributes:
    parameters: as `operators.layer_parameters` returns them.
    sigma: its norm, measured from a fresh start.
    initial_sigma: its norm before the clip.
    rounds: number of rounds of descent.
    factor: of the final rescaling of the kernel, 1 for none.
    vector: the vector of norm 1 that reaches sigma.
  """

  parameters: Any
  sigma: Float[Array, '']
  initial_sigma: Float[Array, '']
  rounds: Int[Array, '']
  factor: Float[Array, '']
  vector: Float[Array, '...']


class _ClipProgress(NamedTuple):
  """The state of a clip.

  Attributes:
    value: the kernel, in float32 or wider.
    vector: singular directions from which the next round starts.
    measurement: the last measurement.
    initial_sigma: the norm of the initial measurement.
    measurements: number of measurements.
    rounds: number of rounds of descent.
    rounds_left: number of rounds that remain; with 0, measurements are of the
      kernel as it will be stored.
    attempts: number of rescalings.
    factor: product of all rescalings.
    finished: whether the norm is within the bound, or the attempts are over.
  """

  value: jax.Array
  vector: Float[Array, 'k ...']
  measurement: singular_values.LeadingNorm
  initial_sigma: Float[Array, '']
  measurements: Int[Array, '']
  rounds: Int[Array, '']
  rounds_left: Int[Array, '']
  attempts: Int[Array, '']
  factor: Float[Array, '']
  finished: Bool[Array, '']


def clip_layer(
  key: PRNGKey,
  layer: Layer,
  params: dict[str, Any],
  bound: Float[Array, ''] | float,
  settings: ClipSettings,
) -> ClippedLayer:
  """Brings the norm of one layer to at most c; pure and traceable.

  Args:
    key: of the random starts of all measurements.
    bound: c > 0.
    settings: of the clip.

  Returns:
    The layer with sigma <= c (1 + tolerance), in its original type; with
    unchanged bits if the norm was within the bound.
  """
  old = layer_kernels.get_kernel(layer, params)
  measure_key, start_key = jax.random.split(key)

  def measure(progress: _ClipProgress) -> singular_values.LeadingNorm:
    stored = progress.value.astype(old.dtype).astype(progress.value.dtype)
    value = jnp.where(progress.rounds_left > 0, progress.value, stored)
    return layer_kernels.measure_norm(
      jax.random.fold_in(measure_key, progress.measurements),
      layer,
      layer_kernels.with_kernel(layer, params, value),
      settings.audit_steps,
      settings.tolerance / 10,
    )

  # One loop measures and lowers, so that the program contains one measurement:
  # compiling it takes longer than running it on small layers.
  def advance(progress: _ClipProgress) -> _ClipProgress:
    is_initial = progress.measurements == 0
    slack = layer_kernels.target_slack(settings)
    limit = bound * jnp.where(is_initial, 1 + settings.tolerance, slack)
    progress = _record(progress, measure(progress))
    high = progress.measurement.sigma > limit
    same_type = old.dtype == progress.value.dtype
    exact = is_initial | (progress.rounds_left == 0) | same_type
    epsilon = float(jnp.finfo(old.dtype).eps)
    return jax.lax.cond(
      high & (progress.rounds_left > 0),
      lambda: _lower_norm(layer, params, bound, settings, progress),
      lambda: _rescale_or_finish(bound, high, exact, epsilon, progress),
    )

  begin = _initial_progress(start_key, layer, params, settings)
  # The loop needs the shapes and types of a measurement from the start.
  begin = begin._replace(
    measurement=jax.tree.map(jnp.zeros_like, jax.eval_shape(measure, begin))
  )
  begin = begin._replace(initial_sigma=begin.measurement.sigma)
  end = jax.lax.while_loop(lambda state: ~state.finished, advance, begin)
  # Unchanged layers keep their bits, which casts could alter.
  changed = end.initial_sigma > bound * (1 + settings.tolerance)
  value = jnp.where(changed, end.value.astype(old.dtype), old)
  return ClippedLayer(
    layer_kernels.with_kernel(layer, params, value),
    end.measurement.sigma,
    end.initial_sigma,
    end.rounds,
    end.factor,
    end.measurement.vector,
  )


def _record(
  progress: _ClipProgress, measurement: singular_values.LeadingNorm
) -> _ClipProgress:
  is_initial = progress.measurements == 0
  initial = jnp.where(is_initial, measurement.sigma, progress.initial_sigma)
  return progress._replace(
    measurement=measurement,
    initial_sigma=initial,
    measurements=progress.measurements + 1,
  )


def _has_closed_form(layer: Layer, params: dict[str, Any]) -> bool:
  # Dense kernels of more axes are no single matrix: they descend as well.
  dense = (
    layer.kind == 'dense' and layer_kernels.get_kernel(layer, params).ndim == 2
  )
  return layer.kind == 'norm' or dense


def _initial_progress(
  key: PRNGKey, layer: Layer, params: dict[str, Any], settings: ClipSettings
) -> _ClipProgress:
  """The state before the initial measurement; directions are random."""
  value = layer_kernels.widen(layer_kernels.get_kernel(layer, params))
  zero = jnp.zeros((), jnp.int32)
  closed = _has_closed_form(layer, params)
  # A closed form needs no directions, and it is done after a single round.
  k = 1 if closed else min(settings.directions, math.prod(layer.shape))
  return _ClipProgress(
    value,
    jax.random.normal(key, (k, *layer.shape), jnp.float32),
    singular_values.LeadingNorm(*[jnp.zeros(())] * 3),
    jnp.zeros(()),
    zero,
    zero,
    zero + (1 if closed else settings.rounds),
    zero,
    jnp.ones((), value.dtype),
    jnp.asarray(False),
  )


def _lower_norm(
  layer: Layer,
  params: dict[str, Any],
  bound: Float[Array, ''] | float,
  settings: ClipSettings,
  progress: _ClipProgress,
) -> _ClipProgress:
  """Lowers the norm by the closed form, or by rounds of descent."""
  if _has_closed_form(layer, params):
    return progress._replace(
      value=_clip_exactly(layer, params, bound),
      rounds_left=jnp.zeros_like(progress.rounds_left),
    )
  # The measured vector replaces the weakest direction, because descent must see
  # the direction that the measurement found too high.
  value, vector, rounds = _descend_kernel(
    layer,
    params,
    bound,
    settings,
    progress._replace(
      vector=progress.vector.at[-1].set(progress.measurement.vector)
    ),
  )
  # One at least, or rounding could keep measurement and descent apart forever.
  rounds = jnp.maximum(rounds, 1)
  return progress._replace(
    value=value,
    vector=vector,
    rounds=progress.rounds + rounds,
    rounds_left=progress.rounds_left - rounds,
  )


def _clip_exactly(
  layer: Layer, params: dict[str, Any], bound: Float[Array, ''] | float
) -> jax.Array:
  """The nearest kernel or scale with a norm of at most c."""
  value = layer_kernels.widen(layer_kernels.get_kernel(layer, params))
  if layer.kind == 'norm':
    wide = jax.tree.map(layer_kernels.widen, params)
    slope = jnp.abs(operators.channel_slopes(layer, wide))
    return jnp.where(slope > bound, value * bound / slope, value)
  u, s, v = jnp.linalg.svd(value, full_matrices=False)
  # Subtracting the excess leaves small singular values without rounding.
  with jax.default_matmul_precision('float32'):
    return value - (u * jnp.maximum(s - bound, 0)[None]) @ v


def _rescale_or_finish(
  bound: Float[Array, ''] | float,
  high: Bool[Array, ''],
  exact: Bool[Array, ''],
  epsilon: float,
  progress: _ClipProgress,
) -> _ClipProgress:
  """Rescales a norm that is still high; else finishes.

  Args:
    bound: c.
    high: whether the last measurement is above the limit.
    exact: whether the last measurement is of the kernel as stored.
    epsilon: of the stored type.
    progress: after the measurement.
  """
  finished = jnp.where(high, progress.attempts >= _MAX_RESCALINGS, exact)
  # More each time: in low precision a factor near 1 changes nothing.
  margin = 1 - progress.attempts * epsilon
  factor = bound / progress.measurement.sigma * margin
  factor = jnp.where(high & ~finished, factor, 1).astype(progress.factor.dtype)
  return progress._replace(
    value=progress.value * factor.astype(progress.value.dtype),
    rounds_left=jnp.zeros_like(progress.rounds_left),
    attempts=progress.attempts + high,
    factor=progress.factor * factor,
    finished=finished,
  )


def _descend_kernel(
  layer: Layer,
  params: dict[str, Any],
  bound: Float[Array, ''] | float,
  settings: ClipSettings,
  progress: _ClipProgress,
) -> tuple[jax.Array, Float[Array, 'k ...'], Int[Array, '']]:
  """Runs rounds of descent until their directions are within the bound.

  Returns:
    The kernel, the directions, and the number of rounds.
  """
  wide = jax.tree.map(layer_kernels.widen, params)
  run = lambda w, x: layer.linear(layer_kernels.with_kernel(layer, wide, w), x)
  goal = bound * layer_kernels.target_slack(settings)
  most = progress.rounds_left

  def body(carry):
    w, vector, _, i = carry
    spectrum = singular_values.power_qr(
      jax.random.key(0),  # unused, because `start` is given
      lambda x: run(w, x),
      layer.shape,
      k=len(vector),
      iterations=settings.refresh,
      start=vector,
    )
    high = spectrum.sigma[0] > goal
    scale = jnp.minimum(bound / spectrum.sigma, 1)
    lower = lambda: _gradient_steps(run, w, spectrum.vector, scale, settings)
    return jax.lax.cond(high, lower, lambda: w), spectrum.vector, high, i + high

  def is_unfinished(carry):
    return carry[2] & (carry[3] < most)

  zero = jnp.zeros((), jnp.int32)
  begin = (progress.value, progress.vector, jnp.asarray(True), zero)
  w, vector, _, rounds = jax.lax.while_loop(is_unfinished, body, begin)
  return w, vector, rounds


def descent_objective(
  run: Any,
  w: jax.Array,
  vector: Float[Array, 'k ...'],
  target: Float[Array, 'k ...'],
) -> Float[Array, '']:
  """J(W): squared distance of the images of k directions, over W_out."""
  image = run(w, vector)
  # With the plain sum the authors' step of .35 diverges.
  return jnp.sum(jnp.square(image - target)) / image.shape[-2]


def _gradient_steps(
  run: Any,
  w: jax.Array,
  vector: Float[Array, 'k ...'],
  scale: Float[Array, 'k'],
  settings: ClipSettings,
) -> jax.Array:
  """Makes gradient steps on J towards the scaled images of directions."""
  image = run(w, vector)
  target = image * scale.reshape(-1, *(1,) * (image.ndim - 1))

  def step(_, w):
    slope = jax.grad(descent_objective, 1)(run, w, vector, target)
    # J is quadratic in W: its minimum along the gradient is known.
    zero = jnp.zeros_like(target)
    curvature = 2 * descent_objective(run, slope, vector, zero)
    best = jnp.vdot(slope, slope) / jnp.where(curvature > 0, curvature, 1)
    rate = best if settings.rate is None else jnp.minimum(settings.rate, best)
    return w - rate * slope

  return jax.lax.fori_loop(0, settings.steps, step, w)
