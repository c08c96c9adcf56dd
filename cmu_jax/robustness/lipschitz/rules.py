"""What each operation does to a bound, by the name of its primitive.

An operation that is in none of these tables has no bound once it touches the
image: nothing is guessed.
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

# What they do beyond arithmetic (rounding, placement) has no part in a bound.
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
# Number by number, with this largest slope.
SLOPES = {
  **dict.fromkeys(('abs', 'tanh', 'sin', 'cos', 'atan', 'asinh'), 1.0),
  'logistic': 0.25,
  'erf': 2 / math.sqrt(math.pi),
}
# Every result is one of the operands, or the largest or smallest of some.
SELECTIONS = ('max', 'min', 'clamp', 'reduce_max', 'reduce_min', 'sort')
WINDOW_SELECTIONS = ('reduce_window_max', 'reduce_window_min')
COMPARISONS = ('gt', 'ge', 'lt', 'le')
# Functions that are more than the sum of their parts: sup |f'|.
_SILU_SLOPE = 1.0998394
KNOWN_FUNCTIONS: dict[str, tuple[Callable, float]] = {
  'softplus': (jax.nn.softplus, 1.0),
  'elu': (jax.nn.elu, 1.0),
  'hard_tanh': (jax.nn.hard_tanh, 1.0),
  'silu': (jax.nn.silu, _SILU_SLOPE),
  'swish': (jax.nn.silu, _SILU_SLOPE),
}


def source_name(eqn: Any) -> str:
  """An equation's operation, and the module it is in if that is known."""
  where = '/'.join(
    part
    for part in str(eqn.source_info.name_stack).split('/')
    if part and '.' not in part
  )
  return f'{eqn.primitive.name} in {where}' if where else eqn.primitive.name


def _widen_parameters(params: dict[str, Any]) -> dict[str, Any]:
  """Parameters of an equation that computes in `graph.norm_dtype()`."""
  dtype = graph.norm_dtype()
  changed = {
    name: dtype
    for name in ('preferred_element_type', 'new_dtype', 'out_dtype')
    if params.get(name) is not None
  }
  return {**params, **changed}


def _widen_constant(value: Any) -> jax.Array:
  """A constant of a linear map: numbers in `graph.norm_dtype()`, indices as
  is."""
  array = jnp.asarray(value)
  floating = jnp.issubdtype(array.dtype, jnp.floating)
  return array.astype(graph.norm_dtype()) if floating else array


def _is_floating(aval: Any) -> bool:
  return jnp.issubdtype(aval.dtype, jnp.floating)


def apply_linear(eqn: Any, values: list[Any], slots: list[bool]) -> list[Any]:
  """The results of an equation that is linear in the nodes among `values`.

  Args:
    eqn: of the jaxpr.
    values: constants and nodes.
    slots: for each, whether it is an operand of the linear map; a constant
      there is added, and so drops out.
  """
  if not all(_is_floating(var.aval) for var in eqn.outvars):
    return unbounded_results(eqn)
  name, params = eqn.primitive.name, _widen_parameters(eqn.params)
  operands = tuple(
    v if graph.is_node(v) else None if slot else _widen_constant(v)
    for v, slot in zip(values, slots, strict=True)
  )
  shapes = tuple(np.shape(v) for v in values)

  def apply(index: int, *args: jax.Array) -> jax.Array:
    if name in IDENTITIES:
      return args[index]
    found = eqn.primitive.bind(*args, **params)
    return found[index] if eqn.primitive.multiple_results else found

  return [
    graph.linear_node(
      name, functools.partial(apply, i), tuple(var.aval.shape), operands, shapes
    )
    for i, var in enumerate(eqn.outvars)
  ]


def unbounded_results(eqn: Any, why: str = '') -> list[Any]:
  """The results of an equation that has no bound."""
  return [Unbounded(why or source_name(eqn))] * len(eqn.outvars)


def _count_windows(eqn: Any) -> int:
  """In how many windows of a pooling a number can be."""
  params = eqn.params
  plain = all(
    step == 1
    for name in ('base_dilation', 'window_dilation')
    for step in params[name]
  )
  counts = [
    -(-size // step) if plain else size
    for size, step in zip(
      params['window_dimensions'], params['window_strides'], strict=True
    )
  ]
  return math.prod(counts)


def apply_ramp(eqn: Any, values: list[Any]) -> list[Any]:
  """select(x > 0, a x, b x): continuous, of slope max(|a|, |b|)."""
  base = values[0].sign_of if isinstance(values[0], Unbounded) else None
  slopes = [_scale_factor(value, base) for value in values[1:]]
  if base is None or None in slopes:
    return unbounded_results(eqn)
  steepest = max(slope for slope in slopes if slope is not None)
  shape = tuple(eqn.outvars[0].aval.shape)
  return [Source(source_name(eqn), shape, (base,), steepest)]


def _scale_factor(value: Any, base: Any) -> float | None:
  """The largest |c| where `value` is c times `base`; None if it is not."""
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
  """The largest slope of a function that is known by name, and by text.

  A function of that name counts only if it consists of the very equations that
  the known one has.
  """
  aval = eqn.invars[0].aval
  if name == 'celu':
    numbers = {
      float(v.val)
      for e in inner.jaxpr.eqns
      for v in e.invars
      if isinstance(v, core.Literal) and np.ndim(v.val) == 0
    }
    alike = [lambda x, a=a: layers.celu(x, a) for a in numbers if a > 0]
    slope = 1.0
  elif name in KNOWN_FUNCTIONS:
    function, slope = KNOWN_FUNCTIONS[name]
    alike = [function]
  else:
    return None
  for function in alike:
    made = jax.make_jaxpr(function)(aval).jaxpr.eqns[0].params
    if str(made.get('jaxpr', made.get('call_jaxpr'))) == str(inner):
      return slope
  return None


def apply_nonlinear(eqn: Any, values: list[Any]) -> list[Any]:
  """The results of an equation that is not linear in its nodes."""
  name = eqn.primitive.name
  nodes = tuple(v for v in values if graph.is_node(v))
  shape = tuple(eqn.outvars[0].aval.shape)
  if name in SLOPES:
    return [Source(source_name(eqn), shape, nodes, SLOPES[name])]
  if name in SELECTIONS and len(eqn.outvars) == 1:
    return [Source(source_name(eqn), shape, nodes)]
  if name in WINDOW_SELECTIONS:
    factor = math.sqrt(_count_windows(eqn))
    return [Source(source_name(eqn), shape, nodes, factor)]
  zero = len(nodes) == 1 and not any(
    np.any(np.asarray(v)) for v in values if not graph.is_node(v)
  )
  if name in COMPARISONS and zero:
    return [Unbounded(source_name(eqn), nodes[0])]
  return unbounded_results(eqn)


def have_mixed_sources(values: list[Any]) -> bool:
  """Whether the nodes among some values depend on different sources."""
  return len({frozenset(v.sources) for v in values if graph.is_node(v)}) > 1


def join_values(eqn: Any, values: list[Any]) -> list[Any]:
  """Values side by side, as a source of its own.

  As a linear map of all their sources it would be a sum where the root of
  squares does, and every later layer would look at every earlier one.
  """
  nodes = tuple(v for v in values if graph.is_node(v))
  return [Source(source_name(eqn), tuple(eqn.outvars[0].aval.shape), nodes)]
