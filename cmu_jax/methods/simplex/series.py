r"""Means of exponentials over a simplex, by a series of positive terms.

By Hermite and Genocchi, E exp(w.a) = (Q - 1)! exp[a_1, ..., a_Q], a divided
difference. Partial fractions cancel; the Taylor series about min a does not:
with b = a - min a, T_0 = 1 and T_k = cumsum(b T_{k-1}) / (Q - 1 + k)

  log E exp(w.a) = min a + log(1 + sum_k last(T_k))

Terms grow until k is about e times the spread max b. Gradients give
E[w_i exp(w.a)]: a divided difference with node i repeated.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_TRACED = 256
# Sums are divided by themselves beyond this size, so that none overflows.
_LARGE = 1e12


def _terms(b: Float[Array, '*n q'], terms: int | None) -> int:
  if terms is not None:
    return terms
  if isinstance(b, jax.core.Tracer):
    return _TRACED
  spread = float(np.max(np.asarray(b), initial=0))
  return 40 + math.ceil(4 * spread) if math.isfinite(spread) else 1


def log_mean_exp_simplex(
  node_values: Float[Array, '...'], axis: int = -1, terms: int | None = None
) -> Float[Array, '...']:
  """log E exp(w.a) with w uniform on the simplex.

  Args:
    node_values: a, the exponents at the vertices; vertices along one axis.
    axis: of the vertices.
    terms: of the series. By default enough for the spread at hand; inside of a
      transformation, where it is not known, 256, which is good for max a -
      min a up to 60; beyond that give more (4 times the spread).

  Returns:
    The values without that axis, to the accuracy of the dtype.
  """
  a = jnp.moveaxis(jnp.asarray(node_values), axis, -1)
  a = a.astype(jnp.promote_types(a.dtype, jnp.float32))
  q = a.shape[-1]
  least = jnp.min(a, axis=-1, keepdims=True)
  b = a - least
  count = _terms(b, terms)

  def step(carry, k):
    term, total, scale = carry
    term = jnp.cumsum(b * term, axis=-1) / (q - 1 + k)
    total = total + term[..., -1:]
    large = jax.lax.stop_gradient(jnp.where(total > _LARGE, total, 1))
    return (term / large, total / large, scale + jnp.log(large)), None

  nothing = jnp.zeros_like(least)
  begin = (jnp.ones_like(b), nothing, nothing)
  orders = jnp.arange(1, count + 1, dtype=a.dtype)
  (_, total, scale), _ = jax.lax.scan(step, begin, orders)
  # log1p keeps what log(1 + x) loses where all values nearly agree.
  small = jnp.log1p(total)
  positive = jnp.where(scale > 0, total + jnp.exp(-scale), 1)
  found = jnp.where(scale > 0, scale + jnp.log(positive), small)
  return (least + found)[..., 0]
