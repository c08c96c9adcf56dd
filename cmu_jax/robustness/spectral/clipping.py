"""Rounds of descent that bring a layer's singular values down.

Directions v_i with sigma_i > c are brought to c by gradient descent on the
kernel W (FastClip, arXiv 2402.16017, algorithm 2),

  J(W) = sum_i || f_W(v_i) - min(c / sigma_i, 1) f_W0(v_i) ||^2 / W_out,

with f without bias, and new directions after every round. The division by the
width W_out of the output is load-bearing: with the plain sum the authors' step
of .35 diverges.

Clipping one implicitly linear layer, as a pure function.

Convolutions go down in the rounds of `lowering`; a dense kernel has the closed
form U min(S, c) V^T, and a BatchNorm |scale| <= c sqrt(var + epsilon).
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


def descend_kernel(
  layer: Layer,
  own: dict[str, Any],
  bound: Float[Array, ''] | float,
  value: jax.Array,
  vector: Float[Array, 'k ...'],
  most: Int[Array, ''],
  how: ClipSettings,
) -> tuple[jax.Array, Float[Array, 'k ...'], Int[Array, '']]:
  """Rounds of descent until the directions that they follow are at the bound.

  Args:
    layer: which.
    own: its parameters.
    bound: c.
    value: the kernel, in float32 or wider.
    vector: directions to go on from, one of them where the norm is reached.
    most: rounds.
    how: settings.

  Returns:
    The kernel, the directions, and how many rounds it took.
  """
  full = jax.tree.map(layer_kernels.widen, own)
  run = lambda w, x: layer.linear(layer_kernels.with_kernel(layer, full, w), x)
  goal = bound * layer_kernels.target_slack(how)

  def body(held):
    w, vector, _, i = held
    found = singular_values.power_qr(
      jax.random.key(0),  # a start is given, so that nothing is drawn
      lambda x: run(w, x),
      layer.shape,
      k=len(vector),
      iterations=how.refresh,
      start=vector,
    )
    high = found.sigma[0] > goal
    scale = jnp.minimum(bound / found.sigma, 1)
    lower = lambda: _gradient_steps(run, w, found.vector, scale, how)
    return jax.lax.cond(high, lower, lambda: w), found.vector, high, i + high

  def unfinished(held):
    return held[2] & (held[3] < most)

  begin = (value, vector, jnp.asarray(True), jnp.zeros((), jnp.int32))
  w, vector, _, rounds = jax.lax.while_loop(unfinished, body, begin)
  return w, vector, rounds


def descent_objective(
  run: Any,
  w: jax.Array,
  vector: Float[Array, 'k ...'],
  target: Float[Array, 'k ...'],
) -> Float[Array, '']:
  """J(W): squared distance of the images of k directions, over W_out."""
  image = run(w, vector)
  return jnp.sum(jnp.square(image - target)) / image.shape[-2]


def _gradient_steps(
  run: Any,
  w: jax.Array,
  vector: Float[Array, 'k ...'],
  scale: Float[Array, 'k'],
  how: ClipSettings,
) -> jax.Array:
  """Gradient steps on J from where it is 0 up to the scaling."""
  image = run(w, vector)
  target = image * scale.reshape(-1, *(1,) * (image.ndim - 1))

  def step(_, w):
    slope = jax.grad(descent_objective, 1)(run, w, vector, target)
    turn = 2 * descent_objective(run, slope, vector, jnp.zeros_like(target))
    best = jnp.vdot(slope, slope) / jnp.where(turn > 0, turn, 1)
    rate = best if how.rate is None else jnp.minimum(how.rate, best)
    return w - rate * slope

  return jax.lax.fori_loop(0, how.steps, step, w)


# Rescaling rounds in low precision, so that it may have to be done again.
_MAX_RESCALINGS = 8


class ClippedLayer(NamedTuple):
  """A layer after clipping.

  Attributes:
    own: its parameters, as `operators.layer_parameters` has them.
    sigma: its norm, measured from a fresh start.
    before: its norm before.
    rounds: of descent that were made.
    factor: by which the kernel was rescaled in the end, 1 for not at all.
    vector: where sigma is reached, of norm 1.
  """

  parameters: Any
  sigma: Float[Array, '']
  initial_sigma: Float[Array, '']
  rounds: Int[Array, '']
  factor: Float[Array, '']
  vector: Float[Array, '...']


class _ClipProgress(NamedTuple):
  """A clip under way.

  Attributes:
    value: the kernel, in float32 or wider.
    vector: singular directions that rounds of descent go on from.
    seen: the last measurement.
    before: the first one.
    looks: measurements so far.
    rounds: of descent that were made.
    left: how many may still be made; 0: what is measured is the kernel as it
      will be stored.
    attempts: of rescaling.
    factor: all of them together.
    done: whether the last measurement was within the bound, or too many were
      not.
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
  own: dict[str, Any],
  bound: Float[Array, ''] | float,
  how: ClipSettings,
) -> ClippedLayer:
  """Brings the norm of one layer to at most c; pure and traceable.

  One loop measures and lowers, so that all measurements are one piece of the
  program: compiling it takes longer than running it on small layers.

  Args:
    key: draws the starts of all measurements.
    layer: which.
    own: its parameters.
    bound: c > 0.
    how: settings.

  Returns:
    The layer with sigma <= c (1 + tolerance), in the type it came in; with its
    old values, bit by bit, if that held already.
  """
  old = layer_kernels.get_kernel(layer, own)
  look, draw = jax.random.split(key)

  def measured(held: _ClipProgress) -> singular_values.LeadingNorm:
    stored = held.value.astype(old.dtype).astype(held.value.dtype)
    value = jnp.where(held.rounds_left > 0, held.value, stored)
    fitted = layer_kernels.with_kernel(layer, own, value)
    named = jax.random.fold_in(look, held.measurements)
    return layer_kernels.measure_norm(
      named, layer, fitted, how.audit_steps, how.tolerance / 10
    )

  def advance(held: _ClipProgress) -> _ClipProgress:
    seen, first = measured(held), held.measurements == 0
    limit = bound * jnp.where(
      first, 1 + how.tolerance, layer_kernels.target_slack(how)
    )
    before = jnp.where(first, seen.sigma, held.initial_sigma)
    held = held._replace(
      measurement=seen, initial_sigma=before, measurements=held.measurements + 1
    )
    high = seen.sigma > limit
    exact = first | (held.rounds_left == 0) | (old.dtype == held.value.dtype)
    return jax.lax.cond(
      high & (held.rounds_left > 0),
      lambda: _lower_norm(layer, own, bound, how, held),
      lambda: _rescale_or_finish(
        bound, high, exact, float(jnp.finfo(old.dtype).eps), held
      ),
    )

  begin = _initial_progress(draw, layer, own, how)
  begin = begin._replace(
    measurement=jax.tree.map(jnp.zeros_like, jax.eval_shape(measured, begin))
  )
  begin = begin._replace(initial_sigma=begin.measurement.sigma)
  end = jax.lax.while_loop(lambda held: ~held.finished, advance, begin)
  over = end.initial_sigma > bound * (1 + how.tolerance)
  kept = jnp.where(over, end.value.astype(old.dtype), old)
  fitted = layer_kernels.with_kernel(layer, own, kept)
  return ClippedLayer(
    fitted,
    end.measurement.sigma,
    end.initial_sigma,
    end.rounds,
    end.factor,
    end.measurement.vector,
  )


def _has_closed_form(layer: Layer, own: dict[str, Any]) -> bool:
  """Whether there is a closed form."""
  dense = (
    layer.kind == 'dense' and layer_kernels.get_kernel(layer, own).ndim == 2
  )
  return layer.kind == 'norm' or dense


def _initial_progress(
  key: PRNGKey, layer: Layer, own: dict[str, Any], how: ClipSettings
) -> _ClipProgress:
  """Before the first measurement; directions are random."""
  value, none = (
    layer_kernels.widen(layer_kernels.get_kernel(layer, own)),
    jnp.zeros((), jnp.int32),
  )
  closed = _has_closed_form(layer, own)
  k = 1 if closed else min(how.directions, math.prod(layer.shape))
  return _ClipProgress(
    value,
    jax.random.normal(key, (k, *layer.shape)),
    singular_values.LeadingNorm(*[jnp.zeros(())] * 3),
    jnp.zeros(()),
    none,
    none,
    none + (1 if closed else how.rounds),
    none,
    jnp.ones((), value.dtype),
    jnp.asarray(False),
  )


def _lower_norm(
  layer: Layer,
  own: dict[str, Any],
  bound: Float[Array, ''] | float,
  how: ClipSettings,
  held: _ClipProgress,
) -> _ClipProgress:
  """By the closed form, or rounds of descent as long as they see a way down."""
  if _has_closed_form(layer, own):
    value = _clip_exactly(layer, own, bound)
    return held._replace(
      value=value, rounds_left=jnp.zeros_like(held.rounds_left)
    )
  value, vector, rounds = descend_kernel(
    layer,
    own,
    bound,
    held.value,
    held.vector.at[-1].set(held.measurement.vector),
    held.rounds_left,
    how,
  )
  # One at least, or rounding could keep measurement and descent apart forever.
  rounds = jnp.maximum(rounds, 1)
  return held._replace(
    value=value,
    vector=vector,
    rounds=held.rounds + rounds,
    rounds_left=held.rounds_left - rounds,
  )


def _clip_exactly(
  layer: Layer, own: dict[str, Any], bound: Float[Array, ''] | float
) -> jax.Array:
  """The nearest kernel or scale of a norm of at most c."""
  value = layer_kernels.widen(layer_kernels.get_kernel(layer, own))
  if layer.kind == 'norm':
    slope = jnp.abs(
      operators.channel_slopes(layer, jax.tree.map(layer_kernels.widen, own))
    )
    return jnp.where(slope > bound, value * bound / slope, value)
  u, s, v = jnp.linalg.svd(value, full_matrices=False)
  with jax.default_matmul_precision('float32'):
    return value - (u * jnp.maximum(s - bound, 0)[None]) @ v


def _rescale_or_finish(
  bound: Float[Array, ''] | float,
  high: Bool[Array, ''],
  exact: Bool[Array, ''],
  epsilon: float,
  held: _ClipProgress,
) -> _ClipProgress:
  """Rescaled where it is still high, else done if stored values were seen."""
  done = jnp.where(high, held.attempts >= _MAX_RESCALINGS, exact)
  # More each time: in low precision a factor near 1 changes nothing.
  factor = bound / held.measurement.sigma * (1 - held.attempts * epsilon)
  factor = jnp.where(high & ~done, factor, 1).astype(held.factor.dtype)
  return held._replace(
    value=held.value * factor.astype(held.value.dtype),
    rounds_left=jnp.zeros_like(held.rounds_left),
    attempts=held.attempts + high,
    factor=held.factor * factor,
    finished=done,
  )
