r"""Estimates of the mean output over a simplex of networks.

With c the centroid, d_i the deviations of Q vertices, m_i = E[w_i] and alpha_0
the total of a Dirichlet distribution (1/Q and Q for the uniform one)

  taylor2  f(c) + sum_i m_i D2f(c)[d_i, d_i] / (2 (alpha_0 + 1))
  taylor3  and sum_i m_i D3f(c)[d_i, d_i, d_i] / (3 (alpha_0+1) (alpha_0+2))
  mc       the mean over n sampled networks
  mc_cv    the same less sum_i w_i Df(c)[d_i], whose mean is exactly 0
  tangent  E head(u), u the features of the linearised network

and the cubature rules of `cubature`. These are our closed forms for the
ensemble; the formula of the paper that proposes it is not public.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import errors
from cmu_jax.methods.simplex import cubature, visits
from cmu_jax.methods.simplex.geometry import Frame


class MethodOptions(NamedTuple):
  """The options of the methods; hashable.

  Attributes:
    directions: 'deviations', 'helmert' (one less) or a number of leading
      directions, of taylor2.
    degree: of 'grundmann_moeller' and of the head's mean under 'tangent'.
    n: samples of Monte Carlo.
    anchor: the point at which 'tangent' linearises the network: 'centroid' or
      'base'.
    head: features -> outputs, of 'tangent'; None for the features themselves.
  """

  directions: str | int = 'deviations'
  degree: int = 5
  n: int = 256
  anchor: str = 'centroid'
  head: Callable[..., PyTree] | None = None


@struct.dataclass
class MeanEstimate:
  """A mean and its by-products.

  Attributes:
    value: the mean output.
    centre: the output at the centroid, if the method computes it.
    variance: of every output to first order, if it is a by-product.
    error: standard error of Monte Carlo.
    visits: points and directions at which the network ran.
  """

  value: PyTree
  centre: PyTree = None
  variance: PyTree = None
  error: PyTree = None
  visits: int = struct.field(pytree_node=False, default=1)


def _add_scaled(a: PyTree, b: PyTree, factor: Any = 1.0) -> PyTree:
  return jax.tree.map(lambda x, y: x + factor * y, a, b)


def centroid(frame: Frame, fn: visits.Network, args: tuple) -> MeanEstimate:
  """Takes the output of the network in the middle."""
  outputs = visits.at_centre(frame, fn, args)
  return MeanEstimate(outputs, outputs)


def along_lines(
  frame: Frame, fn: visits.Network, args: tuple, rule: cubature.LineRule
) -> MeanEstimate:
  """Applies a rule on the lines from the centroid to the vertices."""
  count = frame.mean.shape[0]
  total = visits.fold(
    frame,
    visits.value(fn, frame.skeleton),
    np.arange(count),
    rule.share * frame.mean,
    args,
    rule.reach,
  )
  # With an alpha that is traced the weight is an array, and its value unknown.
  if not isinstance(rule.centre, jax.Array) and rule.centre == 0:
    return MeanEstimate(total, visits=count)
  centre = visits.at_centre(frame, fn, args)
  value = jax.tree.map(lambda x, y: rule.centre * x + y, centre, total)
  return MeanEstimate(value, centre, visits=count + 1)


def at_nodes(
  frame: Frame,
  fn: visits.Network,
  args: tuple,
  nodes: np.ndarray,
  weights: np.ndarray,
) -> MeanEstimate:
  """Applies a rule with any nodes."""
  total = visits.fold(
    frame,
    visits.value(fn, frame.skeleton),
    nodes.astype(frame.mean.dtype),
    weights.astype(frame.mean.dtype),
    args,
  )
  return MeanEstimate(total, visits=len(weights))


def helmert(mean: Float[Array, 'q']) -> Float[Array, 'r q']:
  """Builds q - 1 orthonormal rows that are orthogonal to sqrt(mean)."""
  root = jnp.sqrt(mean)
  cumulative = jnp.cumsum(mean)
  q = mean.shape[0]
  k = np.arange(1, q)
  rows = root[None, :] * root[k, None]
  rows = jnp.where(np.arange(q)[None, :] < k[:, None], rows, 0)
  rows = rows.at[k - 1, k].set(-cumulative[k - 1])
  return rows / jnp.sqrt(cumulative[k - 1] * cumulative[k])[:, None]


def _leading_directions(
  gram: Float[Array, 'q q'], mean: Float[Array, 'q'], rank: int
) -> Float[Array, 'r q']:
  """The combinations of deviations in which the simplex is widest."""
  root = jnp.sqrt(mean)
  # The Gram matrix of sqrt(m_i) d_i has the eigenvalues of the covariance; the
  # covariance itself has as many rows as the network has parameters.
  _, vectors = jnp.linalg.eigh(gram * root[:, None] * root[None, :])
  return vectors[:, ::-1][:, :rank].T


def _directions(
  frame: Frame, gram: Callable, choice: str | int
) -> tuple[Any, Any]:
  """Rows of `visits.fold` and the weights of their squares."""
  mean, q = frame.mean, frame.mean.shape[0]
  if choice == 'deviations':
    return np.arange(q), mean
  if choice == 'helmert':
    # With e_k = sum_i row_ki sqrt(mean_i) d_i the sum of e_k e_k' equals that
    # of mean_i d_i d_i', because sum_i mean_i d_i = 0. One direction is saved.
    rows = helmert(mean)
  else:
    errors.check(
      isinstance(choice, int) and choice >= 1,
      f"directions {choice!r} are none of 'deviations', 'helmert' or a rank of "
      '1 or more',
    )
    rows = _leading_directions(gram(), mean, min(int(choice), q - 1))
  return rows * jnp.sqrt(mean)[None, :], jnp.ones(rows.shape[0], mean.dtype)


def taylor(
  frame: Frame,
  fn: visits.Network,
  args: tuple,
  order: int,
  options: MethodOptions,
  gram: Callable,
) -> MeanEstimate:
  """Expands the outputs about the centroid; also gives their variance.

  Args:
    order: 2 or 3.
    options: of the method.
    gram: () -> inner products of the deviations, for a low rank.
  """
  # Another basis has the same quadratic form but not the same cubic form.
  choice = options.directions if order == 2 else 'deviations'
  rows, squares = _directions(frame, gram, choice)
  centre = visits.at_centre(frame, fn, args)
  variance, second, *third = visits.fold(
    frame,
    visits.derivatives(fn, frame.skeleton, order),
    rows,
    squares / (frame.total + 1),
    args,
  )
  value = _add_scaled(centre, second, 1 / 2)
  for term in third:
    value = _add_scaled(value, term, 1 / (3 * (frame.total + 2)))
  return MeanEstimate(value, centre, variance, visits=squares.shape[0] + 1)


def monte_carlo(
  frame: Frame,
  fn: visits.Network,
  args: tuple,
  rows: Float[Array, 'n q'],
  control: bool,
) -> MeanEstimate:
  """Averages over sampled networks, with a standard error.

  Args:
    rows: barycentric weights of the samples, two or more.
    control: subtract the linear term, whose mean is 0.
  """
  n, q = rows.shape
  centre = visits.at_centre(frame, fn, args)
  slopes = (
    visits.map_deviations(frame, visits.slope(fn, frame.skeleton), args)
    if control
    else None
  )
  # Differences from the centroid are averaged: the part that all networks have
  # in common would cost the variance its digits.
  mean, squares = visits.fold(
    frame,
    visits.residual(fn, frame.skeleton),
    rows,
    jnp.full(n, 1 / n, rows.dtype),
    args,
    context=(centre, slopes),
  )
  # Rounding may bring the variance of equal outputs below 0.
  error = jax.tree.map(
    lambda m, s: jnp.sqrt(jnp.maximum(s - m * m, 0) / (n - 1)), mean, squares
  )
  count = n + 1 + (q if control else 0)
  return MeanEstimate(_add_scaled(centre, mean), centre, None, error, count)


def head_mean(
  head: Callable[..., PyTree], corners: PyTree, q: int, degree: int
) -> PyTree:
  """Computes E head(sum_i w_i u_i) by a rule of the given degree.

  Args:
    head: features -> outputs.
    corners: u_i along a leading axis.
    q: the number of corners.
    degree: odd.
  """
  nodes, weights = cubature.simplex_weights(q, 'grundmann_moeller', degree)

  def at(row: Any) -> PyTree:
    features = jax.tree.map(
      lambda u: jnp.tensordot(row.astype(u.dtype), u, 1, precision='highest'),
      corners,
    )
    return visits.widen(head(features))

  def body(total: PyTree, pair: Any) -> tuple[PyTree, None]:
    row, weight = pair
    add = lambda t, x: t + weight.astype(x.dtype) * x
    return jax.tree.map(add, total, at(row)), None

  # A scan: high degrees have thousands of nodes, more than memory holds.
  dtype = jnp.result_type(*jax.tree.leaves(corners))
  rows, shares = jnp.asarray(nodes, dtype), jnp.asarray(weights, dtype)
  zero = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(at, rows[0])
  )
  return jax.lax.scan(body, zero, (rows, shares))[0]


def tangent(
  frame: Frame, fn: visits.Network, args: tuple, options: MethodOptions
) -> MeanEstimate:
  """Linearises the network at the frame's centre and keeps its head.

  Without a head the mean is that of the vertices.
  """
  q = frame.mean.shape[0]
  centre = visits.at_centre(frame, fn, args)
  slopes = visits.map_deviations(frame, visits.slope(fn, frame.skeleton), args)
  # f(centre) + Df(centre)[v_i - centre]; features in between are their means,
  # so the network itself runs no more.
  corners = jax.tree.map(lambda f, j: f[None] + j, centre, slopes)
  if options.head is None:
    value = jax.tree.map(
      lambda u: jnp.tensordot(
        frame.mean.astype(u.dtype), u, 1, precision='highest'
      ),
      corners,
    )
    return MeanEstimate(value, centre, visits=q + 1)
  value = head_mean(options.head, corners, q, options.degree)
  return MeanEstimate(value, visits.widen(options.head(centre)), visits=q + 1)
