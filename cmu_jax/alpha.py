"""A whole alpha curve as one compiled call on device-resident images."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax import jitting, sweep, tree
from cmu_jax.types import Model, Variables

Measure = Callable[[jax.Array, jax.Array], Any]
HeadInput = Literal['raw', 'normalized']


def _unit(features: Float[Array, 'n d']) -> Float[Array, 'n d']:
  size = jnp.linalg.norm(features, axis=1, keepdims=True)
  return features / jnp.maximum(size, jnp.finfo(features.dtype).tiny)


@functools.lru_cache(maxsize=32)
def _compiled(
  model: Model,
  measure: Measure,
  head_input: HeadInput,
  how: sweep.How,
  chunk: int | None,
) -> Callable:
  """The jitted curve; cached so that seeds share one compilation."""

  def curve(variables, tau, image, alphas):
    # The first layer is linear in its parameters: two products serve all
    # coefficients, stem(theta - alpha tau) = stem(theta) - alpha stem(tau).
    if model.stem is not None:
      base = model.stem(variables, image)
      slope = model.stem(Variables(tau, variables.batch_stats), image)

    def at(alpha):
      params = tree.edit(variables.params, tau, alpha)
      edited = Variables(params, variables.batch_stats)
      if model.stem is None or model.trunk is None:
        features = model.features(edited, image)
      else:
        features = model.trunk(edited, base - alpha * slope)
      seen = _unit(features) if head_input == 'normalized' else features
      return measure(features, model.head(edited, seen))

    return sweep.over(at, how, chunk)(alphas)

  return jitting.looped(curve)


def curve(
  model: Model,
  variables: Variables,
  tau: PyTree,
  image: Float[Array, 'n h w c'],
  alphas: Float[Array, 'a'],
  measure: Measure,
  *,
  head_input: HeadInput = 'raw',
  how: sweep.How | None = None,
  chunk: int | None = None,
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
    how: how the grid is driven, see `sweep.over`; None for the backend's best.
    chunk: with 'vmap', edited copies at a time; None for what 4 GiB hold.

  Returns:
    The result of `measure` stacked over the grid.
  """
  how = sweep.strategy() if how is None else how
  if how == 'vmap' and chunk is None:
    size = sum(x.nbytes for x in jax.tree.leaves(variables.params))
    chunk = sweep.members(size)
  run = _compiled(model, measure, head_input, how, chunk)
  return run(variables, tau, image, alphas)
