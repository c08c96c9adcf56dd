"""Mean and covariance of predictions over a simplex: the variance diagnostic.

  E f   ~ f(c) + sum_i m_i D2f(c)[d_i, d_i] / (2 (alpha_0 + 1))
  Cov f ~ sum_i m_i (J d_i)(J d_i)' / (alpha_0 + 1)

An ensemble of n sampled networks has this covariance divided by n; the mean
over the simplex has none of it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.methods.simplex import estimates, visits
from cmu_jax.methods.simplex.geometry import TaskSimplex, frame
from cmu_jax.methods.task_vectors import leaves


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
  options = estimates.Options()
  found = estimates.taylor(one, fn, args, 2, options, simplex.gram)
  slopes = visits.each(one, visits.slope(fn, one.skeleton), args)
  weights = (one.mean / (one.total + 1)).astype(slopes.dtype)
  covariance = jnp.einsum(
    'q,q...k,q...l->...kl', weights, slopes, slopes, precision='highest'
  )
  return Moments(found.value, covariance, found.centre)


@functools.lru_cache(maxsize=64)
def _program(fn: Callable, skeletons: tuple) -> Callable:
  def run(base, taus, scale, alpha, args):
    simplex = TaskSimplex(
      leaves.joined(skeletons[0], *base),
      leaves.joined(skeletons[1], *taus),
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
  simplex.checked()
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
