"""A whole alpha curve by one compiled program on device-resident images."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import jit, progress, tree, vectorize
from cmu_jax.core.types import Model, Variables

Measure = Callable[[jax.Array, jax.Array], Any]
HeadInput = Literal['raw', 'normalized']

# Weights times pixels times alphas that take a CPU about a second.
_SECOND = 1e12


def _unit(features: Float[Array, 'n d']) -> Float[Array, 'n d']:
  size = jnp.linalg.norm(features, axis=1, keepdims=True)
  return features / jnp.maximum(size, jnp.finfo(features.dtype).tiny)


def _seen(model: Model, variables: Variables, tau: PyTree, image: Any) -> Any:
  """What a curve takes of the images, once for a whole grid.

  A first layer is linear in its parameters: two products serve all
  coefficients, stem(theta - alpha tau) = stem(theta) - alpha stem(tau).
  """
  if model.stem is None:
    return image
  base = model.stem(variables, image)
  return base, model.stem(Variables(tau, variables.batch_stats), image)


@functools.lru_cache(maxsize=32)
def _seeing(model: Model) -> Callable:
  return jit.looped(functools.partial(_seen, model))


@functools.lru_cache(maxsize=32)
def _compiled(
  model: Model,
  measure: Measure,
  head_input: HeadInput,
  how: vectorize.How,
  chunk: int | None,
  whole: bool,
) -> Callable:
  """The jitted curve; cached so that seeds share one compilation.

  It takes images where it is the `whole` curve, else what `_seen` makes of
  them.
  """

  def curve(variables, tau, image, alphas):
    seen = _seen(model, variables, tau, image) if whole else image

    def at(alpha):
      params = tree.edit(variables.params, tau, alpha)
      edited = Variables(params, variables.batch_stats)
      if model.stem is None or model.trunk is None:
        features = model.features(edited, seen)
      else:
        base, slope = seen
        features = model.trunk(edited, base - alpha * slope)
      fed = _unit(features) if head_input == 'normalized' else features
      return measure(features, model.head(edited, fed))

    return vectorize.over(at, how, chunk)(alphas)

  return jit.looped(curve)


def _quick(variables: Variables, tau: PyTree, image: Any, alphas: Any) -> bool:
  """Whether a curve is over before a sign of progress is due, or is traced."""
  leaves = jax.tree.leaves((variables, tau, image, alphas))
  if any(isinstance(x, jax.core.Tracer) for x in leaves):
    return True
  weights = sum(map(np.size, jax.tree.leaves(variables.params)))
  return float(weights) * image.size * alphas.size < _SECOND


def _piece(points: int, chunk: int | None) -> int:
  """How many alphas to look at between two signs of progress.

  About a tenth of the grid, such that the last piece is filled best; whole
  chunks where members run side by side.
  """
  if chunk is not None:
    return min(points, chunk)
  sizes = sorted({-(-points // pieces) for pieces in range(6, 11)})
  return min(sizes, key=lambda size: -points % size)


def _in_pieces(
  run: Callable, alphas: Float[Array, 'a'], size: int, title: str
) -> Any:
  """run(alphas) by pieces of one size, hence by one compiled program."""
  points = alphas.shape[0]
  host = np.asarray(alphas)
  rows = np.minimum(np.arange(points + -points % size), points - 1)
  parts = []
  with progress.bar(title, points, unit='alphas') as advance:
    for piece in rows.reshape(-1, size):
      found = run(jnp.asarray(host[piece], alphas.dtype))
      parts.append(jax.block_until_ready(found))
      advance(min(size, points - size * (len(parts) - 1)))
  join = lambda *x: jnp.asarray(np.concatenate(x)[:points])
  return jax.tree.map(join, *parts)


def curve(
  model: Model,
  variables: Variables,
  tau: PyTree,
  image: Float[Array, 'n h w c'],
  alphas: Float[Array, 'a'],
  measure: Measure,
  *,
  head_input: HeadInput = 'raw',
  how: vectorize.How | None = None,
  chunk: int | None = None,
  title: str = 'alpha curve',
) -> Any:
  """measure(features, logits) of theta - alpha tau, for every alpha.

  Args:
    model: the network; a `stem` is computed once for the whole grid.
    variables: theta and its BatchNorm statistics, which are not edited.
    tau: the task vector, see `tree.task_vector`.
    image: normalised images.
    alphas: the grid, a points.
    measure: a function of penultimate features and logits. Pass the same
      object again to reuse the compilation.
    head_input: what the head is fed: 'raw' features, so logits are the
      model's own; or 'normalized' ones, as the released code of CUTS does.
    how: how the grid is driven, see `vectorize.over`; None for the backend's
      best.
    chunk: with 'vmap', edited copies at a time; None for what 4 GiB hold.
    title: what the progress bar calls it.

  Returns:
    The result of `measure` stacked over the grid.
  """
  how = vectorize.strategy() if how is None else how
  if how == 'vmap' and chunk is None:
    size = sum(x.nbytes for x in jax.tree.leaves(variables.params))
    chunk = vectorize.members(size)
  size = _piece(alphas.shape[0], chunk if how == 'vmap' else None)
  whole = size == alphas.shape[0] or _quick(variables, tau, image, alphas)
  run = _compiled(model, measure, head_input, how, chunk, whole)
  if whole:
    return run(variables, tau, image, alphas)
  seen = _seeing(model)(variables, tau, image)
  at = functools.partial(run, variables, tau, seen)
  return _in_pieces(at, alphas, size, title)
