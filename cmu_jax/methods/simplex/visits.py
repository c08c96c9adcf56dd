"""A network at points of a simplex, and its derivatives along directions.

A visit is a function of (centre, direction, row, context, fixed, args). It is
made once for each network, so that vertices of a stream share a compilation;
vertices that are stacked are visited by one loop inside one program.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import errors
from cmu_jax.methods.simplex.geometry import Frame
from cmu_jax.methods.task_vectors import leaves

Network = Callable[..., PyTree]
Visit = Callable[..., PyTree]
BACKENDS = ('jvp', 'jet')


def widen(outputs: PyTree) -> PyTree:
  """Outputs in float32 at least: sums are made in it."""
  return jax.tree.map(lambda x: leaves.widen(jnp.asarray(x)), outputs)


def _bind_network(
  fn: Network, skeleton: leaves.Skeleton, fixed: list[Any], args: tuple
) -> Callable[[list[Any]], PyTree]:
  return lambda floats: widen(fn(leaves.join(skeleton, floats, fixed), *args))


@functools.lru_cache(maxsize=64)
def value(fn: Network, skeleton: leaves.Skeleton) -> Visit:
  """The outputs at centre + direction."""

  def visit(centre, direction, row, context, fixed, args):
    del row, context
    point = [c + d for c, d in zip(centre, direction, strict=True)]
    return _bind_network(fn, skeleton, fixed, args)(point)

  return visit


@functools.lru_cache(maxsize=64)
def centre_value(fn: Network, skeleton: leaves.Skeleton) -> Visit:
  """The outputs at the centre itself; the direction is not looked at."""

  def visit(centre, direction, row, context, fixed, args):
    del direction, row, context
    return _bind_network(fn, skeleton, fixed, args)(centre)

  return visit


@functools.lru_cache(maxsize=64)
def residual(fn: Network, skeleton: leaves.Skeleton) -> Visit:
  """What a sample differs from its expansion by, and the square of it.

  The context is (f(centre), slopes [q, ...] or None); the row holds the
  barycentric weights of the sample.
  """

  def visit(centre, direction, row, context, fixed, args):
    point = [c + d for c, d in zip(centre, direction, strict=True)]
    found = _bind_network(fn, skeleton, fixed, args)(point)
    start, slopes = context
    left = jax.tree.map(lambda x, y: x - y, found, start)
    if slopes is not None:
      left = jax.tree.map(
        lambda x, j: x - jnp.tensordot(row.astype(j.dtype), j, 1), left, slopes
      )
    return left, jax.tree.map(jnp.square, left)

  return visit


def _expand(run: Callable, centre: Any, direction: Any, order: int) -> list:
  """[f, Df[d], D2f[d, d], ...], by forward mode within forward mode."""
  nested = run
  for _ in range(order):
    nested = lambda point, g=nested: jax.jvp(g, (point,), (direction,))
  found = nested(centre)
  # Each level doubles the outputs; of order k they are all k-th derivatives
  # along d, whichever k of the levels they passed.
  firsts = []
  for level in range(order + 1):
    picked = found
    for depth in range(order):
      picked = picked[1 if depth < level else 0]
    firsts.append(picked)
  return firsts


def _by_jet(run: Callable, centre: Any, direction: Any, order: int) -> list:
  """The same by Taylor-mode propagation of one path through the network."""
  # Experimental in JAX: imported by those who ask for it.
  from jax.experimental import jet

  def along(t: jax.Array) -> PyTree:
    return run(
      [
        c + t.astype(c.dtype) * d
        for c, d in zip(centre, direction, strict=True)
      ]
    )

  dtype = jnp.result_type(*centre)
  zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
  start = jax.eval_shape(along, zero)
  flat = lambda t: tuple(jax.tree.leaves(along(t)))
  value, series = jet.jet(flat, (zero,), ((one,) + (zero,) * (order - 1),))
  whole = lambda rows: jax.tree.unflatten(jax.tree.structure(start), rows)
  orders = [list(column) for column in zip(*series, strict=True)]
  return [whole(list(value)), *map(whole, orders)]


@functools.lru_cache(maxsize=64)
def derivatives(
  fn: Network, skeleton: leaves.Skeleton, order: int, backend: str = 'jvp'
) -> Visit:
  """(Df[d]^2, D2f[d, d], ..., D^k f[d, ..., d]) at the centre."""
  if backend not in BACKENDS:
    raise errors.unknown_name('backend', backend, BACKENDS)
  expand = _expand if backend == 'jvp' else _by_jet

  def visit(centre, direction, row, context, fixed, args):
    del row, context
    run = _bind_network(fn, skeleton, fixed, args)
    steps = [
      jnp.asarray(d).astype(c.dtype)
      for c, d in zip(centre, direction, strict=True)
    ]
    slope, *rest = expand(run, centre, steps, order)[1:]
    return jax.tree.map(jnp.square, slope), *rest

  return visit


@functools.lru_cache(maxsize=64)
def slope(fn: Network, skeleton: leaves.Skeleton) -> Visit:
  """Df[d] at the centre along the direction."""

  def visit(centre, direction, row, context, fixed, args):
    del row, context
    run = _bind_network(fn, skeleton, fixed, args)
    steps = [
      jnp.asarray(d).astype(c.dtype)
      for c, d in zip(centre, direction, strict=True)
    ]
    return jax.jvp(run, (centre,), (steps,))[1]

  return visit


def at_centre(frame: Frame, fn: Network, args: tuple) -> PyTree:
  """f(centre)."""
  visit = centre_value(fn, frame.skeleton)
  run = jax.jit(visit) if frame.streamed else visit
  return run(frame.centre, None, None, None, frame.fixed, args)


def _scaled_direction(frame: Frame, row: Any, reach: Any) -> list[Any]:
  """A deviation by its position, or a combination by its coefficients."""
  single = np.ndim(row) == 0
  found = frame.deviation(row) if single else frame.combine(row)
  return [
    (reach * d).astype(c.dtype)
    for c, d in zip(frame.centre, found, strict=True)
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
  """sum_k weights_k visit(reach times direction k), one after another.

  Args:
    frame: where.
    visit: what to look at.
    rows: positions of deviations [n], or coefficients of combinations [n, q].
    weights: of the rows, [n].
    args: of the network.
    reach: a factor for all directions.
    context: for the visit.
  """

  def added(total: Any, found: Any, weight: Any) -> Any:
    return jax.tree.map(
      lambda t, x: t + weight.astype(x.dtype) * x, total, found
    )

  if frame.streamed:
    run, total = jax.jit(visit), None
    for row, weight in zip(np.asarray(rows), np.asarray(weights), strict=True):
      steps = _scaled_direction(frame, row, reach)
      found = run(frame.centre, steps, row, context, frame.fixed, args)
      zero = jax.tree.map(jnp.zeros_like, found) if total is None else total
      # Waiting keeps the next vectors off the device until this one is done.
      total = jax.block_until_ready(added(zero, found, weight))
    return total
  rows, weights = jnp.asarray(rows), jnp.asarray(weights)

  def at(row: Any) -> PyTree:
    steps = _scaled_direction(frame, row, reach)
    return visit(frame.centre, steps, row, context, frame.fixed, args)

  shapes = jax.eval_shape(at, rows[0])
  zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  body = lambda total, pair: (added(total, at(pair[0]), pair[1]), None)
  return jax.lax.scan(body, zero, (rows, weights))[0]


def map_deviations(frame: Frame, visit: Visit, args: tuple) -> PyTree:
  """What the visit finds along every deviation, stacked along a new axis."""
  count = frame.mean.shape[0]
  if frame.streamed:
    run = jax.jit(visit)
    found = [
      jax.block_until_ready(
        run(frame.centre, frame.deviation(i), i, None, frame.fixed, args)
      )
      for i in range(count)
    ]
    return jax.tree.map(lambda *rows: jnp.stack(rows), *found)
  return jax.lax.map(
    lambda i: visit(
      frame.centre, frame.deviation(i), i, None, frame.fixed, args
    ),
    jnp.arange(count),
  )
