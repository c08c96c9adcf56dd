"""Means of exponentials over a simplex, by a series of positive terms.

By Hermite and Genocchi, E exp(w.a) = (Q - 1)! exp[a_1, ..., a_Q], a divided
difference. Partial fractions cancel; the Taylor series about min a does not:
with b = a - min a, T_0 = 1 and T_k = cumsum(b T_{k-1}) / (Q - 1 + k)

  log E exp(w.a) = min a + log(1 + sum_k last(T_k))

Terms grow until k is about e times the spread max b. Gradients give
E[w_i exp(w.a)]: a divided difference with node i repeated.

Ensembles of a cosine classifier whose image features span a simplex.

Where the network up to its features is run once for each vertex, the rest of a
CLIP-like model is cheap enough to be integrated as exactly as one likes:
features u(w) = sum_i w_i u_i, logits s t_c'u(w) / |u(w)|.

Mean and covariance of predictions over a simplex: the variance diagnostic.

  E f   ~ f(c) + sum_i m_i D2f(c)[d_i, d_i] / (2 (alpha_0 + 1))
  Cov f ~ sum_i m_i (J d_i)(J d_i)' / (alpha_0 + 1)

An ensemble of n sampled networks has this covariance divided by n; the mean
over the simplex has none of it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.methods.simplex import estimates, visits
from cmu_jax.methods.simplex.geometry import TaskSimplex, frame
from cmu_jax.methods.task_vectors import leaves

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


SCORES = ('probs', 'logits', 'mean_exp')


def _unit(x: Any) -> Any:
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def head_ensemble(
  features: Float[Array, 'q *n d'],
  text_head: Float[Array, 'k d'],
  scale: float | Float[Array, ''],
  score: str = 'probs',
  normalize: bool = True,
  degree: int = 7,
) -> Float[Array, '*n k']:
  """The mean score over the simplex that the features of the vertices span.

  'logits' and 'probs' are means of logits and of their softmax along u(w),
  by a rule of the given degree (logits that are not normalised: exact).
  'mean_exp' is E exp(z_c) for each class, divided by its sum over classes, with
  logits z that lie between those of the vertices; exact by Hermite and
  Genocchi. It is an arithmetic mean of exponentiated similarities and no
  approximation of E softmax.

  Args:
    features: u_i of the vertices, along the first axis.
    text_head: one vector a class; of unit norm in CLIP.
    scale: what cosines are multiplied by, about 100 in CLIP.
    score: 'probs', 'logits' or 'mean_exp'.
    normalize: whether image features are divided by their norm.
    degree: of the rule, odd.

  Raises:
    UserError: an unknown score.
  """
  if score not in SCORES:
    raise errors.unknown_name('score', score, SCORES)

  def logits(u: Any) -> Any:
    kept = _unit(u) if normalize else u
    return scale * jnp.matmul(kept, text_head.T, precision='highest')

  if score == 'mean_exp':
    means = log_mean_exp_simplex(logits(features), 0)
    return jax.nn.softmax(means, axis=-1)
  if score == 'logits' and not normalize:
    return jnp.mean(logits(features), axis=0)
  chances = lambda u: jax.nn.softmax(logits(u), axis=-1)
  head = logits if score == 'logits' else chances
  return estimates.head_mean(head, features, features.shape[0], degree)


class Moments(NamedTuple):
  """What is known of the outputs from derivatives at the centroid.

  Attributes:
    mean: to second order.
    covariance: of the outputs of one input, to first order.
    centroid: the outputs at the centroid.
  """

  mean: Float[Array, '*n k']
  covariance: Float[Array, '*n k k']
  centroid: Float[Array, '*n k']


def _moments(fn: Callable, simplex: TaskSimplex, args: tuple) -> Moments:
  one = frame(simplex)
  options = estimates.MethodOptions()
  found = estimates.taylor(one, fn, args, 2, options, simplex.gram)
  slopes = visits.map_deviations(one, visits.slope(fn, one.skeleton), args)
  weights = (one.mean / (one.total + 1)).astype(slopes.dtype)
  covariance = jnp.einsum(
    'q,q...k,q...l->...kl', weights, slopes, slopes, precision='highest'
  )
  return Moments(found.value, covariance, found.centre)


@functools.lru_cache(maxsize=64)
def _program(fn: Callable, skeletons: tuple) -> Callable:
  def run(base, taus, scale, alpha, args):
    simplex = TaskSimplex(
      leaves.join(skeletons[0], *base),
      leaves.join(skeletons[1], *taus),
      scale,
      alpha,
    )
    return _moments(fn, simplex, args)

  return jax.jit(run)


def simplex_moments(
  fn: Callable[..., Any], simplex: TaskSimplex, *args: Any
) -> Moments:
  """Mean, covariance and centroid of outputs over a simplex.

  Args:
    fn: (params, *args) -> outputs [..., k], one array.
    simplex: base, task vectors, scale.
    *args: of the network.

  Raises:
    UserError: the simplex does not fit together, or the outputs are no array.
  """
  simplex.validate()
  shapes = jax.tree.leaves(jax.eval_shape(fn, simplex.base, *args))
  errors.check(
    len(shapes) == 1 and shapes[0].ndim,
    'simplex_moments: the network must return one array [..., k]',
  )
  if callable(simplex.taus):
    return _moments(fn, simplex, args)
  base, taus = leaves.split(simplex.base), leaves.split(simplex.taus)
  run = _program(fn, (base.skeleton, taus.skeleton))
  return run(base[:2], taus[:2], simplex.scale, simplex.alpha, args)
