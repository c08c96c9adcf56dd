"""Visits of a network to a simplex: values at points, derivatives along lines.

A visit is a function of (centre, direction, row, context, fixed, args). Each
network has one visit object, so that vertices of a stream share a compilation;
stacked vertices are visited by one loop inside one program.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.methods.simplex.geometry import Frame
from cmu_jax.methods.task_vectors import leaves

Network = Callable[..., PyTree]
Visit = Callable[..., PyTree]


def widen(outputs: PyTree) -> PyTree:
  """Casts outputs to float32 at least, because sums of them follow."""
  return jax.tree.map(lambda x: leaves.widen(jnp.asarray(x)), outputs)


def _bind_network(
  fn: Network, skeleton: leaves.Skeleton, fixed: list[Any], args: tuple
) -> Callable[[list[Any]], PyTree]:
  return lambda floats: widen(fn(leaves.join(skeleton, floats, fixed), *args))


# `jax.jit` compiles once for each function object, so the factories below are
# cached: a new closure for every vertex would compile every time.
@functools.lru_cache(maxsize=64)
def value(fn: Network, skeleton: leaves.Skeleton) -> Visit:
  """The outputs at centre + direction, or at the centre without direction."""

  def visit(centre, direction, row, context, fixed, args):
    del row, context
    # `skeleton` restores the dtypes of the parameters after a sum in float32.
    point = centre
    if direction is not None:
      point = [c + d for c, d in zip(centre, direction, strict=True)]
    return _bind_network(fn, skeleton, fixed, args)(point)

  return visit


@functools.lru_cache(maxsize=64)
def residual(fn: Network, skeleton: leaves.Skeleton) -> Visit:
  """The difference of a sample from its expansion, and its square.

  The context is (f(centre), slopes [q, ...] or None); the row holds the
  barycentric weights of the sample.
  """

  def visit(centre, direction, row, context, fixed, args):
    point = [c + d for c, d in zip(centre, direction, strict=True)]
    outputs = _bind_network(fn, skeleton, fixed, args)(point)
    start, slopes = context
    difference = jax.tree.map(lambda x, y: x - y, outputs, start)
    if slopes is not None:
      # Deviations sum to zero with the mean weights, so the linear term of a
      # sample has mean 0: subtracting it changes the variance alone.
      difference = jax.tree.map(
        lambda x, j: x - jnp.tensordot(row.astype(j.dtype), j, 1),
        difference,
        slopes,
      )
    return difference, jax.tree.map(jnp.square, difference)

  return visit


def _expand(run: Callable, centre: Any, direction: Any, order: int) -> list:
  """[f, Df[d], D2f[d, d], ...], by forward mode within forward mode."""
  nested = run
  for _ in range(order):
    nested = lambda point, g=nested: jax.jvp(g, (point,), (direction,))
  outputs = nested(centre)
  # Each level doubles the outputs. All outputs of order k are the same k-th
  # derivative along d, whichever k levels they passed.
  terms = []
  for level in range(order + 1):
    term = outputs
    for depth in range(order):
      term = term[1 if depth < level else 0]
    terms.append(term)
  return terms


def _cast_steps(centre: list[Any], direction: list[Any]) -> list[Any]:
  # `jax.jvp` refuses tangents whose dtype differs from that of the point.
  return [
    jnp.asarray(d).astype(c.dtype)
    for c, d in zip(centre, direction, strict=True)
  ]


@functools.lru_cache(maxsize=64)
def derivatives(fn: Network, skeleton: leaves.Skeleton, order: int) -> Visit:
  """(Df[d]^2, D2f[d, d], ..., D^k f[d, ..., d]) at the centre."""

  def visit(centre, direction, row, context, fixed, args):
    del row, context
    run = _bind_network(fn, skeleton, fixed, args)
    steps = _cast_steps(centre, direction)
    slope, *higher = _expand(run, centre, steps, order)[1:]
    # The mean of the squared slope is the variance to first order.
    return jax.tree.map(jnp.square, slope), *higher

  return visit


@functools.lru_cache(maxsize=64)
def slope(fn: Network, skeleton: leaves.Skeleton) -> Visit:
  """Df[d] at the centre along the direction."""

  def visit(centre, direction, row, context, fixed, args):
    del row, context
    run = _bind_network(fn, skeleton, fixed, args)
    steps = _cast_steps(centre, direction)
    return jax.jvp(run, (centre,), (steps,))[1]

  return visit


def at_centre(frame: Frame, fn: Network, args: tuple) -> PyTree:
  """Computes f(centre)."""
  visit = value(fn, frame.skeleton)
  # Stacked vertices are already inside a program; a stream runs on the host.
  run = jax.jit(visit) if frame.streamed else visit
  return run(frame.centre, None, None, None, frame.fixed, args)


def _scaled_direction(frame: Frame, row: Any, reach: Any) -> list[Any]:
  """A deviation by its position, or a combination by its coefficients."""
  is_position = np.ndim(row) == 0
  direction = frame.deviation(row) if is_position else frame.combine(row)
  return [
    (reach * d).astype(c.dtype)
    for c, d in zip(frame.centre, direction, strict=True)
  ]


def fold(
  frame: Frame,
  visit: Visit,
  rows: Any,
  weights: Any,
  args: tuple,
  reach: Any = 1.0,
  context: Any = None,
) -> PyTree:
  """Computes sum_k weights_k visit(reach times direction k) in sequence.

  Args:
    visit: the function to sum.
    rows: positions of deviations [n], or coefficients of combinations [n, q].
    weights: of the rows, [n].
    reach: a factor for all directions.
    context: for the visit.
  """

  def add(total: Any, outputs: Any, weight: Any) -> Any:
    return jax.tree.map(
      lambda t, x: t + weight.astype(x.dtype) * x, total, outputs
    )

  if frame.streamed:
    run, total = jax.jit(visit), None
    for row, weight in zip(np.asarray(rows), np.asarray(weights), strict=True):
      steps = _scaled_direction(frame, row, reach)
      outputs = run(frame.centre, steps, row, context, frame.fixed, args)
      zero = jax.tree.map(jnp.zeros_like, outputs) if total is None else total
      # Waiting keeps the next vectors off the device until this one is done.
      total = jax.block_until_ready(add(zero, outputs, weight))
    return total
  rows, weights = jnp.asarray(rows), jnp.asarray(weights)

  def at(row: Any) -> PyTree:
    steps = _scaled_direction(frame, row, reach)
    return visit(frame.centre, steps, row, context, frame.fixed, args)

  shapes = jax.eval_shape(at, rows[0])
  zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  body = lambda total, pair: (add(total, at(pair[0]), pair[1]), None)
  # A scan holds one visit in memory; `vmap` would hold all vertices.
  return jax.lax.scan(body, zero, (rows, weights))[0]


def map_deviations(frame: Frame, visit: Visit, args: tuple) -> PyTree:
  """Stacks the outputs of a visit along every deviation, on a new axis."""
  count = frame.mean.shape[0]
  run = jax.jit(visit) if frame.streamed else visit
  at = lambda i: run(
    frame.centre, frame.deviation(i), i, None, frame.fixed, args
  )
  if not frame.streamed:
    return jax.lax.map(at, jnp.arange(count))
  # Outputs are small; waiting frees the vectors of a visit before the next one.
  outputs = [jax.block_until_ready(at(i)) for i in range(count)]
  return jax.tree.map(lambda *rows: jnp.stack(rows), *outputs)
