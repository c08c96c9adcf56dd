"""The walk over a jaxpr that turns a network into a graph of sources."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from cmu_jax.core import errors
from cmu_jax.robustness.lipschitz import graph, rules
from cmu_jax.robustness.lipschitz.graph import Source, Unbounded

# Where a primitive keeps the equations that it stands for.
_JAXPR_NAMES = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')
_CALLS = (
  'jit',
  'pjit',
  'closed_call',
  'core_call',
  'remat2',
  'checkpoint',
  'custom_jvp_call',
  'custom_vjp_call',
  'custom_vjp_call_jaxpr',
)


def _inner_jaxpr(eqn: Any) -> core.ClosedJaxpr | None:
  """The equations behind a call; None for other operations."""
  if eqn.primitive.name not in _CALLS:
    return None
  found = next(eqn.params[name] for name in _JAXPR_NAMES if name in eqn.params)
  closed = isinstance(found, core.ClosedJaxpr)
  return found if closed else core.ClosedJaxpr(found, ())


def _function_name(eqn: Any, inner: core.ClosedJaxpr) -> str:
  """The name of the function behind a call."""
  return eqn.params.get('name') or inner.jaxpr.debug_info.func_name


def _depend_on_image(values: list[Any]) -> bool:
  return any(graph.is_node(v) or isinstance(v, Unbounded) for v in values)


def _evaluate_constants(eqn: Any, values: list[Any]) -> list[Any]:
  """An equation of constants."""
  inner = _inner_jaxpr(eqn)
  if inner is not None:
    return interpret(inner, values)
  found = eqn.primitive.bind(*values, **eqn.params)
  return list(found) if eqn.primitive.multiple_results else [found]


def _interpret_equation(eqn: Any, values: list[Any]) -> list[Any]:
  """The results of an equation, of which some operand is no constant."""
  name, inner = eqn.primitive.name, _inner_jaxpr(eqn)
  if inner is not None:
    alone = len(values) == 1 and graph.is_node(values[0])
    slope = (
      rules.known_slope(eqn, inner, _function_name(eqn, inner))
      if alone
      else None
    )
    if slope is None:
      return interpret(inner, values)
    shape = tuple(eqn.outvars[0].aval.shape)
    return [Source(_function_name(eqn, inner), shape, (values[0],), slope)]
  nodes = [graph.is_node(v) for v in values]
  if name == 'select_n' and not isinstance(values[0], jax.Array):
    return rules.apply_ramp(eqn, values)
  without = next((v for v in values if isinstance(v, Unbounded)), None)
  if without is not None:
    return rules.unbounded_results(eqn, without.reason)
  if name in rules.BILINEAR and sum(nodes) == 1:
    return rules.apply_linear(eqn, values, nodes)
  if name in rules.BILINEAR:
    what = f'{rules.source_name(eqn)}, a product of two values that depend on'
    return rules.unbounded_results(eqn, f'{what} the image')
  if name == 'concatenate' and rules.have_mixed_sources(values):
    return rules.join_values(eqn, values)
  if name in rules.LINEAR_SLOTS:
    here = range(len(values))[rules.LINEAR_SLOTS[name]]
    slots = [i in here for i in range(len(values))]
    if not any(n and not s for n, s in zip(nodes, slots, strict=True)):
      return rules.apply_linear(eqn, values, slots)
    return rules.unbounded_results(eqn)
  return rules.apply_nonlinear(eqn, values)


def interpret(closed: core.ClosedJaxpr, values: list[Any]) -> list[Any]:
  """The values of a jaxpr's outputs: constants, nodes, or lost.

  Args:
    closed: the equations.
    values: of its inputs.
  """
  jaxpr = closed.jaxpr
  known: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
  known.update(zip(jaxpr.invars, values, strict=True))

  def read(var: Any) -> Any:
    value = var.val if isinstance(var, core.Literal) else known[var]
    plain = not graph.is_node(value) and not isinstance(value, Unbounded)
    key = plain and isinstance(value, jax.Array)
    return value if key or not plain else jnp.asarray(value)

  for eqn in jaxpr.eqns:
    found = [read(var) for var in eqn.invars]
    made = (
      _interpret_equation(eqn, found)
      if _depend_on_image(found)
      else _evaluate_constants(eqn, found)
    )
    known.update(zip(eqn.outvars, made, strict=True))
  return [read(var) for var in jaxpr.outvars]


def trace_network(
  apply: Callable[[jax.Array], jax.Array],
  image_shape: tuple[int, ...],
  dtype: Any,
) -> Any:
  """The output of a network of one image: a constant, a node, or lost.

  Raises:
    UserError: it returns other than one array.
  """
  image = jax.ShapeDtypeStruct((1, *image_shape), dtype)
  closed = jax.make_jaxpr(apply)(image)
  errors.check(
    len(closed.out_avals) == 1,
    f'the network returns {len(closed.out_avals)} arrays; bind one that returns'
    ' the logits alone',
  )
  return interpret(closed, [Source('image', image.shape)])[0]
