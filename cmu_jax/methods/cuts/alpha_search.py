"""A whole alpha curve by one compiled program on device-resident images."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import jit, progress, tree, vectorize
from cmu_jax.core.types import Model, Network, Proxy, Variables
from cmu_jax.data import proxy_sets
from cmu_jax.methods.cuts import alpha_rules

Measure = Callable[[jax.Array, jax.Array], Any]
HeadInput = Literal['raw', 'normalized']

# Weights times pixels times alphas that take a CPU about a second.
_SECOND = 1e12


def _normalize_rows(features: Float[Array, 'n d']) -> Float[Array, 'n d']:
  size = jnp.linalg.norm(features, axis=1, keepdims=True)
  return features / jnp.maximum(size, jnp.finfo(features.dtype).tiny)


def _stem_outputs(
  model: Model, variables: Variables, tau: PyTree, image: Any
) -> Any:
  """What a curve takes of the images, once for a whole grid.

  A first layer is linear in its parameters: two products serve all
  coefficients, stem(theta - alpha tau) = stem(theta) - alpha stem(tau).
  """
  if model.stem is None:
    return image
  base = model.stem(variables, image)
  return base, model.stem(Variables(tau, variables.batch_stats), image)


@functools.lru_cache(maxsize=32)
def _stem_program(model: Model) -> Callable:
  return jit.compile_loop(functools.partial(_stem_outputs, model))


@functools.lru_cache(maxsize=32)
def _curve_program(
  model: Model,
  measure: Measure,
  head_input: HeadInput,
  how: vectorize.Strategy,
  chunk: int | None,
  whole: bool,
) -> Callable:
  """The jitted curve; cached so that seeds share one compilation.

  It takes images where it is the `whole` curve, else what `_seen` makes of
  them.
  """

  def curve(variables, tau, image, alphas):
    seen = _stem_outputs(model, variables, tau, image) if whole else image

    def at(alpha):
      params = tree.edit(variables.params, tau, alpha)
      edited = Variables(params, variables.batch_stats)
      if model.stem is None or model.trunk is None:
        features = model.features(edited, seen)
      else:
        base, slope = seen
        features = model.trunk(edited, base - alpha * slope)
      fed = (
        _normalize_rows(features) if head_input == 'normalized' else features
      )
      return measure(features, model.head(edited, fed))

    return vectorize.map_members(at, how, chunk)(alphas)

  return jit.compile_loop(curve)


def _is_quick(
  variables: Variables, tau: PyTree, image: Any, alphas: Any
) -> bool:
  """Whether a curve is over before a sign of progress is due, or is traced."""
  leaves = jax.tree.leaves((variables, tau, image, alphas))
  if any(isinstance(x, jax.core.Tracer) for x in leaves):
    return True
  weights = sum(map(np.size, jax.tree.leaves(variables.params)))
  return float(weights) * image.size * alphas.size < _SECOND


def _piece_size(points: int, chunk: int | None) -> int:
  """How many alphas to look at between two signs of progress.

  About a tenth of the grid, such that the last piece is filled best; whole
  chunks where members run side by side.
  """
  if chunk is not None:
    return min(points, chunk)
  sizes = sorted({-(-points // pieces) for pieces in range(6, 11)})
  return min(sizes, key=lambda size: -points % size)


def _run_in_pieces(
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
  how: vectorize.Strategy | None = None,
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
    how: how the grid is driven, see `vectorize.map_members`; None for the
      backend's best.
    chunk: with 'vmap', edited copies at a time; None for what 4 GiB hold.
    title: what the progress bar calls it.

  Returns:
    The result of `measure` stacked over the grid.
  """
  how = vectorize.default_strategy() if how is None else how
  if how == 'vmap' and chunk is None:
    size = sum(x.nbytes for x in jax.tree.leaves(variables.params))
    chunk = vectorize.chunk_size(size)
  size = _piece_size(alphas.shape[0], chunk if how == 'vmap' else None)
  whole = size == alphas.shape[0] or _is_quick(variables, tau, image, alphas)
  run = _curve_program(model, measure, head_input, how, chunk, whole)
  if whole:
    return run(variables, tau, image, alphas)
  seen = _stem_program(model)(variables, tau, image)
  at = functools.partial(run, variables, tau, seen)
  return _run_in_pieces(at, alphas, size, title)


Kind = Literal['label_noise', 'poison']


class Selection(NamedTuple):
  """How alpha is chosen.

  Attributes:
    kind: which objective applies.
    alphas: the grid; None for the published one of this kind.
    share: gamma, the share of classes that must stay predicted (label noise).
    head_input: 'raw', or 'normalized' as in the released code.
    patience: consecutive drops of J after which to stop; None for never.
    threshold: largest proxy attack success rate that qualifies (poison).
    target: the class that the trigger leads to (poison).
  """

  kind: Kind = 'label_noise'
  alphas: tuple[float, ...] | None = None
  class_share: float = 1.0
  head_input: HeadInput = 'raw'
  patience: int | None = None
  threshold: float = 0.01
  target: int = 0


@functools.lru_cache(maxsize=32)
def agreement_measure(k: int, share: float) -> Measure:
  """One function object per setting, so that compilations are shared."""
  return functools.partial(alpha_rules.agreement, k=k, class_share=share)


@functools.lru_cache(maxsize=32)
def _attack_rate_measure(target: int) -> Measure:
  return lambda features, logits: alpha_rules.attack_rate(logits, target)


def select_alpha(
  network: Network,
  variables: Variables,
  tau: PyTree,
  proxy: Proxy,
  *,
  selection: Selection,
  how: vectorize.Strategy | None = None,
) -> tuple[alpha_rules.AlphaChoice, dict[str, Float[np.ndarray, 'a']]]:
  """alpha_hat and the whole curve, from proxy images alone.

  Args:
    network: the model and its input step.
    variables: theta_mix.
    tau: the task vector.
    proxy: label noise uses the pool's images and no label; poison uses the
      triggered images that tau was built from.
    selection: grid and objective.
    how: how the grid is driven; None for the backend's best.

  Returns:
    The choice, and the curve: 'alpha' with J and its parts, or with
    'proxy_attack_success_rate'.

  Raises:
    UserError: fewer than 2 C proxy images (label noise).
  """
  run = functools.partial(
    curve, network.model, variables, tau, head_input=selection.head_input
  )
  if selection.kind == 'poison':
    grid = selection_grid(selection)
    batch = proxy_sets.draw_copy(proxy, 0)
    image = network.inputs.eval(batch.image, batch.has_trigger)
    rates = np.asarray(
      run(
        image,
        jnp.asarray(grid),
        _attack_rate_measure(selection.target),
        how=how,
      )
    )
    choice = alpha_rules.choose_smallest_below(grid, rates, selection.threshold)
    return choice, {'alpha': grid, 'proxy_attack_success_rate': rates}
  grid = selection_grid(selection)
  image = network.inputs.eval(proxy.image, None)
  classes = jax.eval_shape(network.model.apply, variables, image).shape[-1]
  k = alpha_rules.neighbour_count(image.shape[0], classes)
  parts = run(
    image,
    jnp.asarray(grid),
    agreement_measure(k, selection.class_share),
    how=how,
  )
  scores = {name: np.asarray(x) for name, x in parts._asdict().items()}
  choice = alpha_rules.choose_best(grid, scores['J'], selection.patience)
  return choice, {'alpha': grid, **scores}


def selection_grid(selection: Selection) -> Float[np.ndarray, 'a']:
  """The alphas to look at: the given ones or the published grid."""
  if selection.alphas is not None:
    return np.asarray(selection.alphas, np.float64)
  noise = selection.kind == 'label_noise'
  return alpha_rules.noise_grid() if noise else alpha_rules.poison_grid()
