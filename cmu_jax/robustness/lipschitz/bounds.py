"""An upper bound of the Lipschitz constant of a network, from its jaxpr.

The bound knows operations, not modules, so it takes networks of any framework:
Flax linen and NNX, Equinox, plain functions.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmu_jax.core import progress, rng
from cmu_jax.core.types import PRNGKey
from cmu_jax.robustness.lipschitz import graph, operator_norms, walk
from cmu_jax.robustness.lipschitz.graph import Node, Source, Unbounded
from cmu_jax.robustness.lipschitz.operator_norms import NormBound

StretchKey = tuple[tuple[Node, ...], Source]


class Stretch(NamedTuple):
  """A linear stretch of a network.

  Attributes:
    start: the operation that gives its input.
    end: the operation that takes its output.
    norm: its spectral norm.
  """

  start: str
  end: str
  norm: NormBound


class Bound(NamedTuple):
  """An upper bound of a Lipschitz constant.

  Attributes:
    value: the bound from the estimated norms; None without a bound.
    upper: the bound from the upper margins of all norms, exceeded with at most
      the requested probability; None if a norm has no margin.
    reason: one sentence: how exact the norms are, or the operation without a
      bound.
    stretches: the linear stretches of the bound.
  """

  value: float | None
  upper: float | None
  reason: str
  stretches: tuple[Stretch, ...]


def _collect_stretches(
  nodes: tuple[Node, ...],
  end: str,
  into: dict[StretchKey, str],
  visited: set[Source],
) -> None:
  """Collects the stretches whose norms the bound of nodes needs."""
  # Both bounds of `_combine_norms` need their norms.
  groups = [nodes]
  if graph.have_mixed_sources(nodes):
    groups += [(node,) for node in nodes]
  for group in groups:
    for source in _distinct_sources(group):
      into.setdefault(_stretch_key(group, source), end)
      if source not in visited:
        visited.add(source)
        _collect_stretches(source.operands, source.name, into, visited)


def _distinct_sources(nodes: tuple[Node, ...]) -> tuple[Source, ...]:
  return tuple(dict.fromkeys(s for node in nodes for s in node.sources))


def _stretch_key(nodes: tuple[Node, ...], source: Source) -> StretchKey:
  """A stretch: a source, and the nodes that depend on it."""
  return tuple(node for node in nodes if source in node.sources), source


def _combine_norms(
  nodes: tuple[Node, ...],
  norms: dict[StretchKey, float],
  cache: dict[Source, float],
) -> float:
  """Bounds the change of nodes, as one vector, if the image changes by 1."""

  def source_change(source: Source) -> float:
    if source not in cache:
      inner = (
        _combine_norms(source.operands, norms, cache)
        if source.operands
        else 1.0
      )
      # The image has no operands: its own change is 1.
      cache[source] = source.factor * inner
    return cache[source]

  # A sum of linear maps of sources: norms times the change of each source.
  def sum_changes(group: tuple[Node, ...]) -> float:
    return sum(
      norms[_stretch_key(group, source)] * source_change(source)
      for source in _distinct_sources(group)
    )

  total = sum_changes(nodes)
  if not graph.have_mixed_sources(nodes):
    return total
  # If operands have different sources, the root of their squares may be less.
  return min(total, math.hypot(*(sum_changes((node,)) for node in nodes)))


def _stretch_norm(
  key: PRNGKey, stretch: StretchKey, steps: int, risk: float
) -> NormBound:
  """The norm of a stretch."""
  nodes, source = stretch
  # A node that is its own source has no operation between.
  if nodes == (source,):
    return NormBound(1.0, 1.0, 0.0, 0, 'identity')
  linear = graph.linear_map(nodes, source)
  return operator_norms.spectral_norm(
    key, linear, source.shape, graph.norm_dtype(), steps=steps, risk=risk
  )


def bound(
  key: PRNGKey,
  apply: Callable[[jax.Array], jax.Array],
  image_shape: tuple[int, ...],
  *,
  steps: int = 100,
  risk: float = 1e-6,
  dtype: Any = jnp.float32,
) -> Bound:
  """Bounds the l2 Lipschitz constant of image -> logits from above.

  The bound is the product of the spectral norms of linear stretches (everything
  between two nonlinear operations is one linear map, BatchNorm in evaluation
  mode included) and of the slopes between them; branches that meet add up. It
  supports sums, products with constants, convolutions, all moves and selections
  of numbers, ReLU and its kin, tanh, sigmoid, softplus, ELU, CELU, SiLU and
  pooling. Any other operation on the image (softmax, products of two
  activations, norms of activations) has no bound.

  Norms of small stretches are exact. Norms of larger stretches are estimates by
  Lanczos' method from below, so `value` may be slightly too small. `upper` has
  margins: the constant exceeds it with probability at most `risk`. Both hold in
  exact arithmetic and ignore the rounding of the network.

  Args:
    apply: [1, *image_shape] -> logits, evaluation mode, weights bound.
    image_shape: (h, w, c) of one image as `apply` takes it.
    steps: of Lanczos' method, at most; more steps make `upper` tighter.
    risk: probability that the constant exceeds `upper`.
    dtype: of the image.

  Returns:
    The bound, or None and the operation without a bound.

  Raises:
    UserError: `apply` returns other than one array.
  """
  output = walk.trace_network(apply, tuple(image_shape), dtype)
  # An unbounded value that never reaches the logits does no harm.
  if isinstance(output, Unbounded):
    return Bound(None, None, f'no finite bound: {output.reason}', ())
  if not graph.is_node(output):
    return Bound(0.0, 0.0, 'the logits do not depend on the image', ())
  stretches: dict[StretchKey, str] = {}
  _collect_stretches((output,), 'logits', stretches, set())
  # By the union bound, all margins together hold with the wanted risk.
  share = risk / len(stretches)
  norms: dict[StretchKey, NormBound] = {}
  with progress.bar('spectral norms', len(stretches), 'maps') as advance:
    for i, stretch in enumerate(stretches):
      norms[stretch] = _stretch_norm(rng.fold_in(key, i), stretch, steps, share)
      advance()
  return _assemble_bound(output, stretches, norms, risk)


def _assemble_bound(
  output: Node,
  stretches: dict[StretchKey, str],
  norms: dict[StretchKey, NormBound],
  risk: float,
) -> Bound:
  """Combines the norms of all stretches into a bound."""
  value = _combine_norms((output,), {p: n.sigma for p, n in norms.items()}, {})
  uppers = {p: n.upper for p, n in norms.items() if n.upper is not None}
  upper = (
    _combine_norms((output,), uppers, {}) if len(uppers) == len(norms) else None
  )
  residuals = [n.residual for n in norms.values() if n.method == 'lanczos']
  reason = f'{len(norms) - len(residuals)} of {len(norms)} norms exact'
  if residuals:
    reason += (
      f', {len(residuals)} converged estimates from below with residuals up to '
      f'{max(residuals):.1e}; the margins hold with probability 1 - {risk:g}'
    )
  rows = tuple(Stretch(p[1].name, stretches[p], n) for p, n in norms.items())
  return Bound(value, upper, reason, rows)
