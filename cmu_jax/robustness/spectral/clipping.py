"""Clipping one implicitly linear layer, as a pure function.

Convolutions go down in the rounds of `lowering`; a dense kernel has the closed
form U min(S, c) V^T, and a BatchNorm |scale| <= c sqrt(var + epsilon).
"""

import math
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cmu_jax.core.types import PRNGKey
from cmu_jax.robustness.spectral import krylov, lowering, operators, parts
from cmu_jax.robustness.spectral.operators import Layer
from cmu_jax.robustness.spectral.parts import How

# Rescaling rounds in low precision, so that it may have to be done again.
_ATTEMPTS = 8


class Clipped(NamedTuple):
  """A layer after clipping.

  Attributes:
    own: its parameters, as `operators.parameters` has them.
    sigma: its norm, measured from a fresh start.
    before: its norm before.
    rounds: of descent that were made.
    factor: by which the kernel was rescaled in the end, 1 for not at all.
    vector: where sigma is reached, of norm 1.
  """

  own: Any
  sigma: Float[Array, '']
  before: Float[Array, '']
  rounds: Int[Array, '']
  factor: Float[Array, '']
  vector: Float[Array, '...']


class _Held(NamedTuple):
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
  seen: krylov.Norm
  before: Float[Array, '']
  looks: Int[Array, '']
  rounds: Int[Array, '']
  left: Int[Array, '']
  attempts: Int[Array, '']
  factor: Float[Array, '']
  done: Bool[Array, '']


def clip(
  key: PRNGKey,
  layer: Layer,
  own: dict[str, Any],
  bound: Float[Array, ''] | float,
  how: How,
) -> Clipped:
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
  old = parts.kernel(layer, own)
  look, draw = jax.random.split(key)

  def measured(held: _Held) -> krylov.Norm:
    stored = held.value.astype(old.dtype).astype(held.value.dtype)
    value = jnp.where(held.left > 0, held.value, stored)
    fitted = parts.with_kernel(layer, own, value)
    named = jax.random.fold_in(look, held.looks)
    return parts.measure(named, layer, fitted, how.audit, how.tolerance / 10)

  def advance(held: _Held) -> _Held:
    seen, first = measured(held), held.looks == 0
    limit = bound * jnp.where(first, 1 + how.tolerance, parts.slack(how))
    before = jnp.where(first, seen.sigma, held.before)
    held = held._replace(seen=seen, before=before, looks=held.looks + 1)
    high = seen.sigma > limit
    exact = first | (held.left == 0) | (old.dtype == held.value.dtype)
    return jax.lax.cond(
      high & (held.left > 0),
      lambda: _lowered(layer, own, bound, how, held),
      lambda: _settled(
        bound, high, exact, float(jnp.finfo(old.dtype).eps), held
      ),
    )

  begin = _begun(draw, layer, own, how)
  begin = begin._replace(
    seen=jax.tree.map(jnp.zeros_like, jax.eval_shape(measured, begin))
  )
  begin = begin._replace(before=begin.seen.sigma)
  end = jax.lax.while_loop(lambda held: ~held.done, advance, begin)
  over = end.before > bound * (1 + how.tolerance)
  kept = jnp.where(over, end.value.astype(old.dtype), old)
  fitted = parts.with_kernel(layer, own, kept)
  return Clipped(
    fitted,
    end.seen.sigma,
    end.before,
    end.rounds,
    end.factor,
    end.seen.vector,
  )


def _closed(layer: Layer, own: dict[str, Any]) -> bool:
  """Whether there is a closed form."""
  dense = layer.kind == 'dense' and parts.kernel(layer, own).ndim == 2
  return layer.kind == 'norm' or dense


def _begun(key: PRNGKey, layer: Layer, own: dict[str, Any], how: How) -> _Held:
  """Before the first measurement; directions are random."""
  value, none = parts.wide(parts.kernel(layer, own)), jnp.zeros((), jnp.int32)
  closed = _closed(layer, own)
  k = 1 if closed else min(how.directions, math.prod(layer.shape))
  return _Held(
    value,
    jax.random.normal(key, (k, *layer.shape)),
    krylov.Norm(*[jnp.zeros(())] * 3),
    jnp.zeros(()),
    none,
    none,
    none + (1 if closed else how.rounds),
    none,
    jnp.ones((), value.dtype),
    jnp.asarray(False),
  )


def _lowered(
  layer: Layer,
  own: dict[str, Any],
  bound: Float[Array, ''] | float,
  how: How,
  held: _Held,
) -> _Held:
  """By the closed form, or rounds of descent as long as they see a way down."""
  if _closed(layer, own):
    value = _cut(layer, own, bound)
    return held._replace(value=value, left=jnp.zeros_like(held.left))
  value, vector, rounds = lowering.descended(
    layer,
    own,
    bound,
    held.value,
    held.vector.at[-1].set(held.seen.vector),
    held.left,
    how,
  )
  # One at least, or rounding could keep measurement and descent apart forever.
  rounds = jnp.maximum(rounds, 1)
  return held._replace(
    value=value,
    vector=vector,
    rounds=held.rounds + rounds,
    left=held.left - rounds,
  )


def _cut(
  layer: Layer, own: dict[str, Any], bound: Float[Array, ''] | float
) -> jax.Array:
  """The nearest kernel or scale of a norm of at most c."""
  value = parts.wide(parts.kernel(layer, own))
  if layer.kind == 'norm':
    slope = jnp.abs(operators.slopes(layer, jax.tree.map(parts.wide, own)))
    return jnp.where(slope > bound, value * bound / slope, value)
  u, s, v = jnp.linalg.svd(value, full_matrices=False)
  with jax.default_matmul_precision('float32'):
    return value - (u * jnp.maximum(s - bound, 0)[None]) @ v


def _settled(
  bound: Float[Array, ''] | float,
  high: Bool[Array, ''],
  exact: Bool[Array, ''],
  epsilon: float,
  held: _Held,
) -> _Held:
  """Rescaled where it is still high, else done if stored values were seen."""
  done = jnp.where(high, held.attempts >= _ATTEMPTS, exact)
  # More each time: in low precision a factor near 1 changes nothing.
  factor = bound / held.seen.sigma * (1 - held.attempts * epsilon)
  factor = jnp.where(high & ~done, factor, 1).astype(held.factor.dtype)
  return held._replace(
    value=held.value * factor.astype(held.value.dtype),
    left=jnp.zeros_like(held.left),
    attempts=held.attempts + high,
    factor=held.factor * factor,
    done=done,
  )
