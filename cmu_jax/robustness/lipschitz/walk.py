"""The walk over a jaxpr that turns a network into a graph of sources."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from cmu_jax.core import errors
from cmu_jax.robustness.lipschitz import graph, rules
from cmu_jax.robustness.lipschitz.graph import Source, Unbounded

# Parameters of a primitive that hold the equations of its function.
_JAXPR_NAMES = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')
# The names of calls in all supported versions of JAX.
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
  inner = next(eqn.params[name] for name in _JAXPR_NAMES if name in eqn.params)
  closed = isinstance(inner, core.ClosedJaxpr)
  return inner if closed else core.ClosedJaxpr(inner, ())


def _function_name(eqn: Any, inner: core.ClosedJaxpr) -> str:
  """The name of the function behind a call."""
  return eqn.params.get('name') or inner.jaxpr.debug_info.func_name


def _depend_on_image(values: list[Any]) -> bool:
  return any(graph.is_node(v) or isinstance(v, Unbounded) for v in values)


def _evaluate_constants(eqn: Any, values: list[Any]) -> list[Any]:
  """Evaluates an equation of constants."""
  inner = _inner_jaxpr(eqn)
  if inner is not None:
    return interpret(inner, values)
  results = eqn.primitive.bind(*values, **eqn.params)
  return list(results) if eqn.primitive.multiple_results else [results]


def _interpret_call(
  eqn: Any, inner: core.ClosedJaxpr, values: list[Any]
) -> list[Any]:
  """Interprets a call of a function."""
  name = _function_name(eqn, inner)
  unary = len(values) == 1 and graph.is_node(values[0])
  slope = rules.known_slope(eqn, inner, name) if unary else None
  if slope is None:
    return interpret(inner, values)
  shape = tuple(eqn.outvars[0].aval.shape)
  return [Source(name, shape, (values[0],), slope)]


def _interpret_equation(eqn: Any, values: list[Any]) -> list[Any]:
  """Interprets an equation with an operand that depends on the image."""
  name, inner = eqn.primitive.name, _inner_jaxpr(eqn)
  if inner is not None:
    return _interpret_call(eqn, inner, values)
  nodes = [graph.is_node(v) for v in values]
  # Before the check for unbounded operands: the condition of a ramp is one.
  if name == 'select_n' and not isinstance(values[0], jax.Array):
    return rules.apply_ramp(eqn, values)
  unbounded = next((v for v in values if isinstance(v, Unbounded)), None)
  if unbounded is not None:
    return rules.unbounded_results(eqn, unbounded.reason)
  # A product of two nodes is quadratic in the image and has no bound.
  if name in rules.BILINEAR and sum(nodes) == 1:
    return rules.apply_linear(eqn, values, nodes)
  if name in rules.BILINEAR:
    reason = (
      f'{rules.source_name(eqn)}, a product of two values that depend on the '
      'image'
    )
    return rules.unbounded_results(eqn, reason)
  if name == 'concatenate' and graph.have_mixed_sources(values):
    return rules.join_values(eqn, values)
  if name in rules.LINEAR_SLOTS:
    positions = range(len(values))[rules.LINEAR_SLOTS[name]]
    slots = [i in positions for i in range(len(values))]
    if not any(n and not s for n, s in zip(nodes, slots, strict=True)):
      return rules.apply_linear(eqn, values, slots)
    return rules.unbounded_results(eqn)
  return rules.apply_nonlinear(eqn, values)


def interpret(closed: core.ClosedJaxpr, values: list[Any]) -> list[Any]:
  """Computes a jaxpr's outputs: constants, nodes, or unbounded values.

  Args:
    closed: the equations.
    values: of its inputs.
  """
  jaxpr = closed.jaxpr
  environment: dict[Any, Any] = {
    **dict(zip(jaxpr.constvars, closed.consts, strict=True)),
    **dict(zip(jaxpr.invars, values, strict=True)),
  }

  def read(var: Any) -> Any:
    value = var.val if isinstance(var, core.Literal) else environment[var]
    # Literals are Python numbers; random keys must stay as they are.
    is_constant = not _depend_on_image([value])
    if is_constant and not isinstance(value, jax.Array):
      return jnp.asarray(value)
    return value

  for eqn in jaxpr.eqns:
    operands = [read(var) for var in eqn.invars]
    # Constants are evaluated at once, so that the graph holds the image only.
    step = (
      _interpret_equation if _depend_on_image(operands) else _evaluate_constants
    )
    environment.update(zip(eqn.outvars, step(eqn, operands), strict=True))
  return [read(var) for var in jaxpr.outvars]


def trace_network(
  apply: Callable[[jax.Array], jax.Array],
  image_shape: tuple[int, ...],
  dtype: Any,
) -> Any:
  """Traces a network on one image; returns a constant, node, or unbounded.

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
