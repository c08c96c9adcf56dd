"""The alpha curve as one compiled program, and the published choice on it."""

import functools
import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import array_checks, errors, jit, progress, tree, vectorize
from cmu_jax.core.types import Model, Network, Proxy, Variables
from cmu_jax.data import proxy_sets
from cmu_jax.methods.cuts import alpha_rules
from cmu_jax.training import metrics

Measure = Callable[[jax.Array, jax.Array], Any]
HeadInput = Literal['raw', 'normalized']
Kind = Literal['label_noise', 'poison']

# Weights times pixels times alphas that take a CPU about a second.
_SECOND = 1e12


class Drive(NamedTuple):
  """The way to compute a curve; the numbers do not depend on it.

  Attributes:
    strategy: see `vectorize.map_members`; None for the backend's best.
    chunk: with 'vmap', edited copies at a time; None for what 4 GiB hold.
    title: of the progress bar.
  """

  strategy: vectorize.Strategy | None = None
  chunk: int | None = None
  title: str = 'alpha curve'


def _stem_outputs(
  model: Model, variables: Variables, tau: PyTree, image: Any
) -> Any:
  """The outputs of the first layer for theta and for tau, or the images."""
  if model.stem is None:
    return image
  # A first layer is linear in its parameters. Two products serve all alphas:
  # stem(theta - alpha tau) = stem(theta) - alpha stem(tau).
  base = model.stem(variables, image)
  return base, model.stem(Variables(tau, variables.batch_stats), image)


@functools.lru_cache(maxsize=32)
def _stem_program(model: Model) -> Callable:
  return jit.compile_loop(functools.partial(_stem_outputs, model))


# Cached, so that seeds share one compilation.
@functools.lru_cache(maxsize=32)
def _curve_program(
  model: Model,
  measure: Measure,
  head_input: HeadInput,
  strategy: vectorize.Strategy,
  chunk: int | None,
  from_images: bool,
) -> Callable:
  """The jitted curve, from images or from the outputs of the stem."""

  def curve(variables, tau, image, alphas):
    if from_images:
      image = _stem_outputs(model, variables, tau, image)

    def measure_at(alpha):
      params = tree.edit(variables.params, tau, alpha)
      edited = Variables(params, variables.batch_stats)
      if model.stem is None or model.trunk is None:
        features = model.features(edited, image)
      else:
        base, slope = image
        features = model.trunk(edited, base - alpha * slope)
      normalized = head_input == 'normalized'
      fed = alpha_rules.normalize_rows(features) if normalized else features
      return measure(features, model.head(edited, fed))

    return vectorize.map_members(measure_at, strategy, chunk)(alphas)

  return jit.compile_loop(curve)


def _is_quick(
  variables: Variables, tau: PyTree, image: Any, alphas: Any
) -> bool:
  """Checks for a curve that ends before a sign of progress is due."""
  leaves = jax.tree.leaves((variables, tau, image, alphas))
  # Inside another program there is nothing to report to.
  if any(isinstance(x, jax.core.Tracer) for x in leaves):
    return True
  weights = sum(map(np.size, jax.tree.leaves(variables.params)))
  return float(weights) * image.size * alphas.size < _SECOND


def _piece_size(points: int, chunk: int | None) -> int:
  """The number of alphas between two signs of progress."""
  if chunk is not None:
    return min(points, chunk)
  # About a tenth of the grid. All pieces have one size, for one compilation:
  # the size that repeats the fewest alphas in the last piece wins.
  sizes = sorted({-(-points // pieces) for pieces in range(6, 11)})
  return min(sizes, key=lambda size: -points % size)


def _run_in_pieces(
  run: Callable, alphas: Float[Array, 'a'], size: int, title: str
) -> Any:
  """Runs a curve by pieces of one size, hence by one compiled program."""
  points = alphas.shape[0]
  host = np.asarray(alphas)
  rows = np.minimum(np.arange(points + -points % size), points - 1)
  parts = []
  with progress.bar(title, points, unit='alphas') as advance:
    for piece in rows.reshape(-1, size):
      values = run(jnp.asarray(host[piece], alphas.dtype))
      parts.append(jax.block_until_ready(values))
      advance(min(size, points - size * (len(parts) - 1)))
  join = lambda *x: jnp.asarray(np.concatenate(x)[:points])
  return jax.tree.map(join, *parts)


def curve(
  model: Model,
  variables: Variables,
  tau: PyTree,
  image: Float[Array, 'n h w c'],
  alphas: Any,
  measure: Measure,
  *,
  head_input: HeadInput = 'raw',
  drive: Drive | None = None,
) -> Any:
  """Computes measure(features, logits) of theta - alpha tau for every alpha.

  Args:
    model: the network; a `stem` is computed once for the whole grid.
    variables: theta and its BatchNorm statistics, which are not edited.
    tau: the task vector, see `tree.task_vector`.
    image: normalised images.
    alphas: the grid, a numbers [a].
    measure: a function of penultimate features and logits. The same object
      again reuses the compilation.
    head_input: the input of the head: 'raw' features, so logits are the model's
      own; or 'normalized' features, as in the released code of CUTS.
    drive: the way to compute it; None for the default.

  Returns:
    The result of `measure` stacked over the grid.

  Raises:
    UserError: a grid that is no vector of finite numbers, or a tau of another
      network.
  """
  array_checks.check_type('model', model, Model)
  array_checks.check_type('variables', variables, Variables)
  array_checks.check_callable(
    'measure', measure, 'a function (features, logits)'
  )
  array_checks.check_array('image', image)
  array_checks.check_image_axes('images', image.shape)
  errors.check(
    not isinstance(alphas, str), f'alphas is {alphas!r}; give numbers'
  )
  alphas = jnp.asarray(alphas)
  array_checks.check_same_shapes('parameters and tau', variables.params, tau)
  errors.check(
    alphas.ndim == 1
    and alphas.size
    and (array_checks.is_traced(alphas) or np.isfinite(alphas).all()),
    f'alphas of shape {alphas.shape} are no grid: give a vector of finite '
    'numbers, such as jnp.linspace(0, 1, 21)',
  )
  strategy, chunk, title = drive or Drive()
  strategy = strategy or vectorize.default_strategy()
  if strategy == 'vmap' and chunk is None:
    size = sum(x.nbytes for x in jax.tree.leaves(variables.params))
    chunk = vectorize.chunk_size(size)
  size = _piece_size(alphas.shape[0], chunk if strategy == 'vmap' else None)
  at_once = size == alphas.shape[0] or _is_quick(variables, tau, image, alphas)
  run = _curve_program(model, measure, head_input, strategy, chunk, at_once)
  if at_once:
    return run(variables, tau, image, alphas)
  stem = _stem_program(model)(variables, tau, image)
  run_piece = functools.partial(run, variables, tau, stem)
  return _run_in_pieces(run_piece, alphas, size, title)


class Selection(NamedTuple):
  """The rule that chooses alpha.

  Attributes:
    kind: of the objective.
    alphas: the grid; None for the published grid of this kind.
    class_share: gamma, the share of classes that must stay predicted (label
      noise).
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


# One function object a setting: a curve is compiled for a measure.
@functools.lru_cache(maxsize=32)
def agreement_measure(k: int, class_share: float) -> Measure:
  """The measure of label noise, see `alpha_rules.agreement`."""
  return functools.partial(alpha_rules.agreement, k=k, class_share=class_share)


@functools.lru_cache(maxsize=32)
def _attack_rate_measure(target: int) -> Measure:
  return lambda features, logits: alpha_rules.attack_rate(logits, target)


def predicted_class(
  features: Float[Array, 'n d'], logits: Float[Array, 'n c']
) -> jax.Array:
  """A measure: the predicted class of every image."""
  del features
  return jnp.argmax(logits, axis=1)


def select_alpha(
  network: Network,
  variables: Variables,
  tau: PyTree,
  proxy: Proxy,
  *,
  selection: Selection,
) -> tuple[alpha_rules.AlphaChoice, dict[str, Float[np.ndarray, 'a']]]:
  """Selects alpha_hat on the whole curve, from proxy images alone.

  Args:
    network: the model and its input step; images are not augmented.
    variables: theta_mix.
    tau: the task vector.
    proxy: label noise uses the pool's images and no label; poison uses the
      triggered images that tau was built from.
    selection: grid and objective.

  Returns:
    The choice, and the curve: 'alpha' with J and its parts, or with
    'proxy_attack_success_rate'.

  Raises:
    UserError: fewer than 2 C proxy images (label noise), a target that is no
      class, or a tau of another network.
  """
  array_checks.check_type('network', network, Network)
  array_checks.check_type('variables', variables, Variables)
  array_checks.check_type('proxy', proxy, Proxy)
  array_checks.check_type('selection', selection, Selection)
  # Every other text would be read as poison.
  if selection.kind not in typing.get_args(Kind):
    raise errors.unknown_name(
      'kind of selection', selection.kind, typing.get_args(Kind)
    )
  array_checks.check_same_shapes('parameters and tau', variables.params, tau)
  grid = selection_grid(selection)
  run = functools.partial(
    curve,
    network.model,
    variables,
    tau,
    alphas=jnp.asarray(grid),
    head_input=selection.head_input,
  )
  if selection.kind == 'poison':
    batch = proxy_sets.draw_copy(proxy, 0)
    image = network.inputs.eval(batch.image, batch.has_trigger)
    classes = jax.eval_shape(network.model.apply, variables, image).shape[-1]
    # Nothing is sent to a class that does not exist: every alpha would do.
    errors.check(
      0 <= selection.target < classes,
      f'target is {selection.target}; the network has classes 0 to '
      f'{classes - 1}',
    )
    measure = _attack_rate_measure(selection.target)
    rates = np.asarray(run(image, measure=measure))
    choice = alpha_rules.choose_smallest_below(grid, rates, selection.threshold)
    return choice, {'alpha': grid, 'proxy_attack_success_rate': rates}
  classes = metrics.count_classes(network, variables, proxy.image)
  image = network.inputs.eval(proxy.image, None)
  k = alpha_rules.neighbour_count(image.shape[0], classes)
  parts = run(image, measure=agreement_measure(k, selection.class_share))
  scores = {name: np.asarray(x) for name, x in parts._asdict().items()}
  choice = alpha_rules.choose_best(grid, scores['J'], selection.patience)
  return choice, {'alpha': grid, **scores}


def selection_grid(selection: Selection) -> Float[np.ndarray, 'a']:
  """The alphas of a selection, or the published grid of its kind."""
  if selection.alphas is not None:
    return np.asarray(selection.alphas, np.float64)
  noise = selection.kind == 'label_noise'
  return alpha_rules.noise_grid() if noise else alpha_rules.poison_grid()
