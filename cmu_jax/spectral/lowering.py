r"""Rounds of descent that bring a layer's singular values down.

Directions v_i with sigma_i > c are brought to c by gradient descent on the
kernel W (FastClip, arXiv 2402.16017, algorithm 2),

  J(W) = sum_i || f_W(v_i) - min(c / sigma_i, 1) f_W0(v_i) ||^2 / W_out,

with f without bias, and new directions after every round. The division by the
width W_out of the output is load-bearing: with the plain sum the authors' step
of .35 diverges.
"""

import math
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from cmu_jax.spectral import krylov, parts, power
from cmu_jax.spectral.operators import Layer
from cmu_jax.spectral.parts import How
from cmu_jax.types import PRNGKey


def descended(
  key: PRNGKey,
  layer: Layer,
  own: dict[str, Any],
  bound: Float[Array, ''] | float,
  vector: Float[Array, '...'],
  how: How,
) -> tuple[jax.Array, Int[Array, '']]:
  """Rounds of descent until a fresh start finds no norm above the bound.

  Args:
    key: draws further directions and the fresh starts.
    layer: which.
    own: its parameters.
    bound: c.
    vector: where the layer's norm is reached.
    how: settings.

  Returns:
    The kernel, in float32 or wider, and how many rounds it took.
  """
  full = jax.tree.map(parts.wide, own)
  run = lambda w, x: layer.linear(parts.with_kernel(layer, full, w), x)
  goal = bound * parts.slack(how)

  def refreshed(w, vector, i):
    """Directions from the last ones and, once those are low, a fresh start."""
    warm = power.power_qr(
      key,
      lambda x: run(w, x),
      layer.shape,
      k=len(vector),
      iterations=how.refresh,
      start=vector,
    )
    fresh = lambda: parts.measure(
      jax.random.fold_in(key, i),
      layer,
      parts.with_kernel(layer, full, w),
      how.audit,
      how.tolerance / 10,
    )
    last = krylov.Norm(
      warm.sigma[-1], warm.vector[-1], jnp.zeros_like(warm.sigma[0])
    )
    found = jax.lax.cond(warm.sigma[0] <= goal, fresh, lambda: last)
    vector = warm.vector.at[-1].set(found.vector)
    return warm.sigma.at[-1].set(found.sigma), vector

  def body(held):
    w, _, vector, i = held
    sigma, vector = refreshed(w, vector, i)
    high = jnp.max(sigma) > goal
    lower = lambda: steps(run, w, vector, jnp.minimum(bound / sigma, 1), how)
    return jax.lax.cond(high, lower, lambda: w), high, vector, i + high

  def unfinished(held):
    return held[1] & (held[3] < how.rounds)

  k = min(how.directions, math.prod(layer.shape))
  start = jax.random.normal(key, (k, *layer.shape), vector.dtype)
  w, none = parts.kernel(layer, full), jnp.zeros((), jnp.int32)
  begin = (w, jnp.asarray(True), start.at[0].set(vector), none)
  w, _, _, rounds = jax.lax.while_loop(unfinished, body, begin)
  return w, rounds


def objective(
  run: Any,
  w: jax.Array,
  vector: Float[Array, 'k ...'],
  target: Float[Array, 'k ...'],
) -> Float[Array, '']:
  """J(W): squared distance of the images of k directions, over W_out."""
  image = run(w, vector)
  return jnp.sum(jnp.square(image - target)) / image.shape[-2]


def steps(
  run: Any,
  w: jax.Array,
  vector: Float[Array, 'k ...'],
  scale: Float[Array, 'k'],
  how: How,
) -> jax.Array:
  """Gradient steps on J from where it is 0 up to the scaling."""
  image = run(w, vector)
  target = image * scale.reshape(-1, *(1,) * (image.ndim - 1))

  def step(_, w):
    slope = jax.grad(objective, 1)(run, w, vector, target)
    turn = 2 * objective(run, slope, vector, jnp.zeros_like(target))
    best = jnp.vdot(slope, slope) / jnp.where(turn > 0, turn, 1)
    rate = best if how.rate is None else jnp.minimum(how.rate, best)
    return w - rate * slope

  return jax.lax.fori_loop(0, how.steps, step, w)
