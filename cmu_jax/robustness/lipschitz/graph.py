"""A network as linear stretches between its nonlinear operations.

Every value that depends on the image is a sum of linear maps of `Source`s: the
image itself, or the result of a nonlinear operation. Stretches are kept as
equations, so that everything between two sources is one linear map, also
across additions of branches.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# A source cuts longer stretches, to limit the recursion over them.
_MAX_DEPTH = 150


# Nodes compare by identity: equal equations may stand at different places.
@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """The start of a linear stretch.

  Its change between two images is at most `factor` times the change of all its
  operands together, as one vector; the image has no operands.

  Attributes:
    name: the operation and its module.
    shape: of the value.
    operands: the nodes that it is computed from.
    factor: see above.
  """

  name: str
  shape: tuple[int, ...]
  operands: tuple['Node', ...] = ()
  factor: float = 1.0

  @property
  def sources(self) -> tuple['Source', ...]:
    return (self,)


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
  """A result of an equation that is linear in its operands that are nodes.

  Attributes:
    name: of the operation.
    shape: of the value.
    sources: the sources that it depends on, in order of appearance.
    operands: nodes, and constants of the linear map (a kernel, indices); None
      for an added constant, which is no part of the linear map.
    shapes: of the operands.
    apply: (operands) -> the result.
    depth: largest number of equations between it and its sources.
  """

  name: str
  shape: tuple[int, ...]
  sources: tuple[Source, ...]
  operands: tuple[Any, ...]
  shapes: tuple[tuple[int, ...], ...]
  apply: Callable[..., jax.Array]
  depth: int


@dataclasses.dataclass(frozen=True, eq=False)
class Unbounded:
  """A value without a bound.

  Attributes:
    reason: the operation without a bound.
    sign_of: the node whose sign this comparison with zero gives; else None.
  """

  reason: str
  sign_of: Any = None


Node = Source | Linear


def is_node(value: Any) -> bool:
  """Returns whether a value depends on the image and has a bound."""
  return isinstance(value, (Source, Linear))


def have_mixed_sources(values: Sequence[Any]) -> bool:
  """Returns whether the nodes among some values have different sources."""
  return len({frozenset(v.sources) for v in values if is_node(v)}) > 1


def norm_dtype() -> Any:
  """The widest float in use, for norms of networks of any precision."""
  return jax.dtypes.canonicalize_dtype(float)


def linear_depth(node: Node) -> int:
  """The largest number of equations between a node and its sources."""
  return node.depth if isinstance(node, Linear) else 0


def linear_node(
  name: str,
  apply: Callable[..., jax.Array],
  shape: tuple[int, ...],
  operands: tuple[Any, ...],
  shapes: tuple[tuple[int, ...], ...],
) -> Node:
  """Makes the node of an equation; see `Linear`."""
  nodes = [x for x in operands if is_node(x)]
  # A dict keeps the order, which decides the random keys of norms.
  sources = tuple(dict.fromkeys(s for x in nodes for s in x.sources))
  depth = 1 + max(map(linear_depth, nodes))
  node = Linear(name, shape, sources, operands, shapes, apply, depth)
  # As a source of factor 1 the cut loosens the bound, but never breaks it.
  if depth <= _MAX_DEPTH:
    return node
  return Source('end of a long linear stretch', shape, (node,))


def propagate(
  node: Node, source: Source, value: Float[Array, '...'], cache: dict
) -> Float[Array, '...'] | None:
  """Propagates a value from a source to a node, with other sources at zero.

  Args:
    node: the end of the stretch.
    source: the start of the stretch.
    value: of the shape of the source.
    cache: values of other nodes, by node; filled here.

  Returns:
    The value at the node; None for zero, if it does not depend on the source.
  """
  if node is source:
    return value
  if isinstance(node, Source) or source not in node.sources:
    return None
  if node not in cache:
    values = []
    for operand, shape in zip(node.operands, node.shapes, strict=True):
      if is_node(operand):
        operand = propagate(operand, source, value, cache)
      values.append(
        jnp.zeros(shape, norm_dtype()) if operand is None else operand
      )
    # Branches share nodes: without the cache, work doubles at every fork.
    cache[node] = node.apply(*values)
  return cache[node]


def linear_map(
  nodes: tuple[Node, ...], source: Source
) -> Callable[[Float[Array, '...']], tuple[jax.Array, ...]]:
  """The linear map from a source to the nodes that depend on it."""

  def run(value):
    cache: dict = {}
    results = [propagate(node, source, value, cache) for node in nodes]
    return tuple(x for x in results if x is not None)

  return run
