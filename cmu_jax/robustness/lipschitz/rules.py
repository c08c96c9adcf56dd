"""The effect of each operation on a bound, by the name of its primitive.

An operation outside of these tables has no bound if it touches the image: the
rules never guess.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from cmu_jax.networks import layers
from cmu_jax.robustness.lipschitz import graph
from cmu_jax.robustness.lipschitz.graph import Source, Unbounded

# Identities, because a bound ignores rounding and placement.
IDENTITIES = (
  'convert_element_type',
  'reduce_precision',
  'copy',
  'copy_p',
  'stop_gradient',
  'sharding_constraint',
  'optimization_barrier',
)
_JOINTLY_LINEAR = (
  *('add', 'add_any', 'sub', 'neg', 'reduce_sum', 'reduce_window_sum'),
  *('cumsum', 'reshape', 'broadcast_in_dim', 'squeeze', 'expand_dims'),
  *('transpose', 'rev', 'concatenate', 'pad', 'real', *IDENTITIES),
)
_LINEAR_IN_FIRST = ('slice', 'dynamic_slice', 'gather', 'split', 'div')
# Linear in the operands at these positions together; others must be constant.
LINEAR_SLOTS: dict[str, slice] = {
  **dict.fromkeys(_JOINTLY_LINEAR, slice(None)),
  **dict.fromkeys(_LINEAR_IN_FIRST, slice(0, 1)),
  'select_n': slice(1, None),
  'dynamic_update_slice': slice(0, 2),
}
# Linear in one operand while the other is constant.
BILINEAR = (
  'mul',
  'dot_general',
  'conv_general_dilated',
  'canonical_convolution',
)
# The largest slope of elementwise functions.
SLOPES = {
  **dict.fromkeys(('abs', 'tanh', 'sin', 'cos', 'atan', 'asinh'), 1.0),
  'logistic': 0.25,
  'erf': 2 / math.sqrt(math.pi),
}
# Every result is an operand, or the largest or smallest of some operands.
SELECTIONS = ('max', 'min', 'clamp', 'reduce_max', 'reduce_min', 'sort')
WINDOW_SELECTIONS = ('reduce_window_max', 'reduce_window_min')
COMPARISONS = ('gt', 'ge', 'lt', 'le')
_SILU_SLOPE = 1.0998394
# sup |f'| of functions whose equations alone would give a looser bound.
KNOWN_FUNCTIONS: dict[str, tuple[Callable, float]] = {
  'softplus': (jax.nn.softplus, 1.0),
  'elu': (jax.nn.elu, 1.0),
  'hard_tanh': (jax.nn.hard_tanh, 1.0),
  'silu': (jax.nn.silu, _SILU_SLOPE),
  'swish': (jax.nn.silu, _SILU_SLOPE),
}


def source_name(eqn: Any) -> str:
  """Names an equation's operation, and its module if that is known."""
  module = '/'.join(
    name
    for name in str(eqn.source_info.name_stack).split('/')
    if name and '.' not in name
  )
  return f'{eqn.primitive.name} in {module}' if module else eqn.primitive.name


def _source(eqn: Any, nodes: tuple[Any, ...], factor: float = 1.0) -> Source:
  """The result of an equation, as the start of a new linear stretch."""
  shape = tuple(eqn.outvars[0].aval.shape)
  return Source(source_name(eqn), shape, nodes, factor)


def _widen_parameters(params: dict[str, Any]) -> dict[str, Any]:
  """Parameters of an equation that computes in `graph.norm_dtype()`."""
  names = ('preferred_element_type', 'new_dtype', 'out_dtype')
  changed = {
    name: graph.norm_dtype() for name in names if params.get(name) is not None
  }
  return {**params, **changed}


def _widen_constant(value: Any) -> jax.Array:
  """A constant of a linear map in `graph.norm_dtype()`; indices stay."""
  array = jnp.asarray(value)
  return array.astype(graph.norm_dtype()) if _is_floating(array) else array


def _is_floating(value: Any) -> bool:
  return jnp.issubdtype(value.dtype, jnp.floating)


def apply_linear(eqn: Any, values: list[Any], slots: list[bool]) -> list[Any]:
  """Applies an equation that is linear in the nodes among `values`.

  Args:
    eqn: of the jaxpr.
    values: constants and nodes.
    slots: whether each value is an operand of the linear map.
  """
  if not all(_is_floating(var.aval) for var in eqn.outvars):
    return unbounded_results(eqn)
  name, params = eqn.primitive.name, _widen_parameters(eqn.params)
  # A constant in a slot is added, and drops out of differences.
  operands = tuple(
    v if graph.is_node(v) else None if slot else _widen_constant(v)
    for v, slot in zip(values, slots, strict=True)
  )
  shapes = tuple(np.shape(v) for v in values)

  def apply(index: int, *args: jax.Array) -> jax.Array:
    if name in IDENTITIES:
      return args[index]
    results = eqn.primitive.bind(*args, **params)
    return results[index] if eqn.primitive.multiple_results else results

  return [
    graph.linear_node(
      name, functools.partial(apply, i), tuple(var.aval.shape), operands, shapes
    )
    for i, var in enumerate(eqn.outvars)
  ]


def unbounded_results(eqn: Any, reason: str = '') -> list[Any]:
  """The results of an equation without a bound."""
  return [Unbounded(reason or source_name(eqn))] * len(eqn.outvars)


def _count_windows(eqn: Any) -> int:
  """The largest number of pooling windows that contain one number."""
  params = eqn.params
  undilated = all(
    step == 1
    for name in ('base_dilation', 'window_dilation')
    for step in params[name]
  )
  counts = [
    -(-size // step) if undilated else size
    for size, step in zip(
      params['window_dimensions'], params['window_strides'], strict=True
    )
  ]
  return math.prod(counts)


def apply_ramp(eqn: Any, values: list[Any]) -> list[Any]:
  """Applies select(x > 0, a x, b x), of slope max(|a|, |b|)."""
  # Only multiples of the compared node make the selection continuous.
  base = values[0].sign_of if isinstance(values[0], Unbounded) else None
  slopes = [_scale_factor(value, base) for value in values[1:]]
  if base is None or None in slopes:
    return unbounded_results(eqn)
  steepest = max(slope for slope in slopes if slope is not None)
  return [_source(eqn, (base,), steepest)]


def _scale_factor(value: Any, base: Any) -> float | None:
  """The largest |c| if `value` is c times `base`; else None."""
  if value is base:
    return 1.0
  if isinstance(value, jax.Array):
    return None if np.any(np.asarray(value)) else 0.0
  product = isinstance(value, graph.Linear) and value.name == 'mul'
  if not product or base not in value.operands:
    return None
  factor = next(x for x in value.operands if x is not base)
  return float(np.abs(np.asarray(factor)).max(initial=0.0))


def known_slope(eqn: Any, inner: core.ClosedJaxpr, name: str) -> float | None:
  """The largest slope of a function of KNOWN_FUNCTIONS or CELU; else None."""
  aval = eqn.invars[0].aval
  if name == 'celu':
    # Its alpha is one of the literals of its equations.
    numbers = {
      float(v.val)
      for e in inner.jaxpr.eqns
      for v in e.invars
      if isinstance(v, core.Literal) and np.ndim(v.val) == 0
    }
    candidates = [lambda x, a=a: layers.celu(x, a) for a in numbers if a > 0]
    slope = 1.0
  elif name in KNOWN_FUNCTIONS:
    function, slope = KNOWN_FUNCTIONS[name]
    candidates = [function]
  else:
    return None
  # A user's function may have the same name, so the equations decide.
  for function in candidates:
    params = jax.make_jaxpr(function)(aval).jaxpr.eqns[0].params
    if str(params.get('jaxpr', params.get('call_jaxpr'))) == str(inner):
      return slope
  return None


def apply_nonlinear(eqn: Any, values: list[Any]) -> list[Any]:
  """Applies an equation that is not linear in its nodes."""
  name = eqn.primitive.name
  nodes = tuple(v for v in values if graph.is_node(v))
  if name in SLOPES:
    return [_source(eqn, nodes, SLOPES[name])]
  if name in SELECTIONS and len(eqn.outvars) == 1:
    return [_source(eqn, nodes)]
  if name in WINDOW_SELECTIONS:
    return [_source(eqn, nodes, math.sqrt(_count_windows(eqn)))]
  against_zero = len(nodes) == 1 and not any(
    np.any(np.asarray(v)) for v in values if not graph.is_node(v)
  )
  # The select that uses the comparison may be a ramp, which has a bound.
  if name in COMPARISONS and against_zero:
    return [Unbounded(source_name(eqn), nodes[0])]
  return unbounded_results(eqn)


def join_values(eqn: Any, values: list[Any]) -> list[Any]:
  """Concatenates values of different sources into a new source."""
  # As a linear map it would be a sum over all sources, although the root of
  # squares bounds it, and every later layer would look at every earlier layer.
  return [_source(eqn, tuple(v for v in values if graph.is_node(v)))]
