"""A network as linear stretches between the places where it is not linear.

Every value that depends on the image is a sum of linear maps of `Source`s: the
image itself, or what a nonlinear operation returned. Stretches are kept as
equations, so that everything between two sources is one linear map, also
across additions of branches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Longer stretches are cut by a source, to bound the recursion over them.
_MAX_DEPTH = 150


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """Where a linear stretch begins.

  Its difference between two images is at most `factor` times that of all its
  operands together, as one vector; the image has none.

  Attributes:
    name: the operation, and where it is.
    shape: of the value.
    operands: what it is computed from.
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
  """One result of an equation that is linear in the operands that are nodes.

  Attributes:
    name: of the operation.
    shape: of the value.
    sources: the sources it is a linear map of, in order of appearance.
    operands: nodes, and constants that are kept (a kernel, indices); None
      stands for a constant that is added, and so is no part of the linear map.
    shapes: of the operands.
    apply: (operands) -> the result.
    depth: how many equations lie between it and its sources.
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
    why: the operation that has none.
    sign_of: the node that was compared with zero, where that is all it is.
  """

  reason: str
  sign_of: Any = None


Node = Source | Linear


def is_node(value: Any) -> bool:
  """Whether a value depends on the image and has a bound."""
  return isinstance(value, (Source, Linear))


def norm_dtype() -> Any:
  """What norms are computed in, whatever the network computes in."""
  return jax.dtypes.canonicalize_dtype(float)


def linear_depth(node: Node) -> int:
  """Equations between a node and its sources."""
  return node.depth if isinstance(node, Linear) else 0


def linear_node(
  name: str,
  apply: Callable[..., jax.Array],
  shape: tuple[int, ...],
  operands: tuple[Any, ...],
  shapes: tuple[tuple[int, ...], ...],
) -> Node:
  """The node of an equation; see `Linear`."""
  nodes = [x for x in operands if is_node(x)]
  sources = tuple(dict.fromkeys(s for x in nodes for s in x.sources))
  deep = 1 + max(map(linear_depth, nodes))
  made = Linear(name, shape, sources, operands, shapes, apply, deep)
  if deep <= _MAX_DEPTH:
    return made
  return Source('end of a long linear stretch', shape, (made,))


def propagate(
  node: Node, source: Source, value: Float[Array, '...'], seen: dict
) -> Float[Array, '...'] | None:
  """What a linear stretch makes of a value at one of its sources.

  Args:
    node: the end of the stretch.
    source: where the value is; other sources are zero.
    value: of the shape of the source.
    seen: values of other nodes, by node; filled as they are computed.

  Returns:
    The value at the node; None for zero, where it does not depend on it.
  """
  if node is source:
    return value
  if isinstance(node, Source) or source not in node.sources:
    return None
  if node not in seen:
    found = []
    for operand, shape in zip(node.operands, node.shapes, strict=True):
      if is_node(operand):
        operand = propagate(operand, source, value, seen)
      found.append(
        jnp.zeros(shape, norm_dtype()) if operand is None else operand
      )
    seen[node] = node.apply(*found)
  return seen[node]


def linear_map(
  nodes: tuple[Node, ...], source: Source
) -> Callable[[Float[Array, '...']], tuple[jax.Array, ...]]:
  """The linear map from a source to some nodes, of those that depend on it."""

  def run(value):
    seen: dict = {}
    found = [propagate(node, source, value, seen) for node in nodes]
    return tuple(x for x in found if x is not None)

  return run
