r"""Rounds of descent that bring a layer's singular values down.

Directions v_i with sigma_i > c are brought to c by gradient descent on the
kernel W (FastClip, arXiv 2402.16017, algorithm 2),

  J(W) = sum_i || f_W(v_i) - min(c / sigma_i, 1) f_W0(v_i) ||^2 / W_out,

with f without bias, and new directions after every round. The division by the
width W_out of the output is load-bearing: with the plain sum the authors' step
of .35 diverges.
"""

from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from cmu_jax.robustness.spectral import parts, power
from cmu_jax.robustness.spectral.operators import Layer
from cmu_jax.robustness.spectral.parts import How


def descended(
  layer: Layer,
  own: dict[str, Any],
  bound: Float[Array, ''] | float,
  value: jax.Array,
  vector: Float[Array, 'k ...'],
  most: Int[Array, ''],
  how: How,
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
  full = jax.tree.map(parts.wide, own)
  run = lambda w, x: layer.linear(parts.with_kernel(layer, full, w), x)
  goal = bound * parts.slack(how)

  def body(held):
    w, vector, _, i = held
    found = power.power_qr(
      jax.random.key(0),  # a start is given, so that nothing is drawn
      lambda x: run(w, x),
      layer.shape,
      k=len(vector),
      iterations=how.refresh,
      start=vector,
    )
    high = found.sigma[0] > goal
    scale = jnp.minimum(bound / found.sigma, 1)
    lower = lambda: steps(run, w, found.vector, scale, how)
    return jax.lax.cond(high, lower, lambda: w), found.vector, high, i + high

  def unfinished(held):
    return held[2] & (held[3] < most)

  begin = (value, vector, jnp.asarray(True), jnp.zeros((), jnp.int32))
  w, vector, _, rounds = jax.lax.while_loop(unfinished, body, begin)
  return w, vector, rounds


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
