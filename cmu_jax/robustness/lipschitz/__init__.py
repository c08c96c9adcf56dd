"""An upper bound of the Lipschitz constant of a network, off its jaxpr.

The walk knows operations, not modules, so that it takes networks of any
framework: Flax linen and NNX, Equinox, plain functions.
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

__all__ = ['Bound', 'Stretch', 'bound', 'format_lines']

StretchKey = tuple[tuple[Node, ...], Source]


class Stretch(NamedTuple):
  """A linear stretch of a network.

  Attributes:
    start: the operation whose result it takes.
    end: the operation that takes its result.
    norm: its spectral norm.
  """

  start: str
  end: str
  norm: NormBound


class Bound(NamedTuple):
  """An upper bound of a Lipschitz constant.

  Attributes:
    value: the bound with the norms as estimated; None where there is none.
    upper: the bound with the upper margins of all norms, exceeded with at most
      the probability that was asked for; None where a norm has no margin.
    why: one sentence: how it was found, or which operation has no bound.
    parts: the linear stretches it is made of.
  """

  value: float | None
  upper: float | None
  reason: str
  stretches: tuple[Stretch, ...]


def _collect_stretches(
  nodes: tuple[Node, ...], end: str, into: dict[StretchKey, str], seen: set
) -> None:
  """Collects the stretches whose norms the bound of nodes is made of."""
  groups = (
    [nodes, *((n,) for n in nodes)] if _have_mixed_sources(nodes) else [nodes]
  )
  for group in groups:
    for source in _distinct_sources(group):
      into.setdefault(_stretch_key(group, source), end)
      if source not in seen:
        seen.add(source)
        _collect_stretches(source.operands, source.name, into, seen)


def _distinct_sources(nodes: tuple[Node, ...]) -> tuple[Source, ...]:
  return tuple(dict.fromkeys(s for node in nodes for s in node.sources))


def _stretch_key(nodes: tuple[Node, ...], source: Source) -> StretchKey:
  """A stretch: a source, and those of some nodes that depend on it."""
  return tuple(node for node in nodes if source in node.sources), source


def _have_mixed_sources(nodes: tuple[Node, ...]) -> bool:
  """Whether some operands depend on other sources than the rest."""
  return len({frozenset(node.sources) for node in nodes}) > 1


def _combine_norms(
  nodes: tuple[Node, ...],
  sizes: dict[StretchKey, float],
  seen: dict[Source, float],
) -> float:
  """How far nodes together, as one vector, can move when the image moves by 1.

  A sum of linear maps of sources: the sum of norms times what each source can
  move. Where operands have other sources, the root of the squares may be less.
  """

  def moved(source: Source) -> float:
    if source not in seen:
      inner = (
        _combine_norms(source.operands, sizes, seen) if source.operands else 1.0
      )
      seen[source] = source.factor * inner
    return seen[source]

  def added(group: tuple[Node, ...]) -> float:
    return sum(
      sizes[_stretch_key(group, s)] * moved(s) for s in _distinct_sources(group)
    )

  whole = added(nodes)
  if not _have_mixed_sources(nodes):
    return whole
  return min(whole, math.hypot(*(added((node,)) for node in nodes)))


def _stretch_norm(
  key: PRNGKey, pair: StretchKey, steps: int, risk: float
) -> NormBound:
  """The norm of a stretch; at once where it is no operation at all."""
  nodes, source = pair
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
  """An upper bound of the l2 Lipschitz constant of image -> logits.

  The bound is the product of the spectral norms of linear stretches (everything
  between two nonlinear operations is one linear map, BatchNorm in evaluation
  mode included) and of the slopes of what lies between them; where branches
  meet it is their sum. Known are sums, products with constants, convolutions,
  everything that moves or picks numbers, ReLU and its kin, tanh, sigmoid,
  softplus, ELU, CELU, SiLU and pooling. Anything else that the image touches
  (softmax, products of two activations, norms of activations) has no bound.

  Norms of small stretches are exact. Those of larger ones are estimates by
  Lanczos' method, which approach the truth from below: `value` is made of
  these, and may so be short by a little. `upper` has margins: it is exceeded
  with probability at most `risk`. Both are in exact arithmetic: the rounding
  of the network itself is not part of them.

  Args:
    key: of the random starts.
    apply: [1, *image_shape] -> logits, evaluation mode, weights bound.
    image_shape: (h, w, c) of one image as `apply` takes it.
    steps: of Lanczos' method, at most; more make `upper` tighter.
    risk: see above.
    dtype: of the image.

  Returns:
    The bound, or None and the operation that has none.

  Raises:
    UserError: `apply` returns other than one array.
  """
  output = walk.trace_network(apply, tuple(image_shape), dtype)
  if isinstance(output, Unbounded):
    return Bound(None, None, f'no finite bound: {output.reason}', ())
  if not graph.is_node(output):
    return Bound(0.0, 0.0, 'the logits do not depend on the image', ())
  pairs: dict[StretchKey, str] = {}
  _collect_stretches((output,), 'logits', pairs, set())
  share = risk / len(pairs)
  found: dict[StretchKey, NormBound] = {}
  with progress.bar('spectral norms', len(pairs), 'maps') as advance:
    for i, pair in enumerate(pairs):
      found[pair] = _stretch_norm(rng.fold_in(key, i), pair, steps, share)
      advance()
  return _assemble_bound(output, pairs, found, risk)


def _assemble_bound(
  output: Node,
  pairs: dict[StretchKey, str],
  found: dict[StretchKey, NormBound],
  risk: float,
) -> Bound:
  """The bound of the norms of all stretches."""
  value = _combine_norms((output,), {p: n.sigma for p, n in found.items()}, {})
  tops = {p: n.upper for p, n in found.items() if n.upper is not None}
  upper = (
    _combine_norms((output,), tops, {}) if len(tops) == len(found) else None
  )
  exact = sum(n.method != 'lanczos' for n in found.values())
  rest = [n.residual for n in found.values() if n.method == 'lanczos']
  why = f'{exact} of {len(found)} norms exact'
  if rest:
    why += (
      f', {len(rest)} converged estimates from below with residuals up to '
      f'{max(rest):.1e}; the margins hold with probability 1 - {risk:g}'
    )
  parts = tuple(Stretch(p[1].name, pairs[p], n) for p, n in found.items())
  return Bound(value, upper, why, parts)


def format_lines(found: Bound) -> list[str]:
  """The bound in words, for a report: a line for it, and one for its make."""
  if found.value is None:
    return [found.reason]
  above = '' if found.upper is None else f' (at most {found.upper:.4g})'
  return [f'Lipschitz bound {found.value:.4g}{above}', found.reason]
