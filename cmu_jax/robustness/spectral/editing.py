"""Running statistics anew after a clip, with the bounds kept.

What a clipped convolution gives is smaller than what the running statistics of
the BatchNorm behind it are of. Statistics of the clipped network bring means
and variances back in line, and by smaller variances raise the BatchNorm's own
norm; where that is bounded too, it is lowered again, which changes what the
next BatchNorm sees. A round for each of them settles all of them.

The clip of trained weights, as a one-off edit.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from cmu_jax import networks
from cmu_jax.core import errors, progress, rng
from cmu_jax.core.types import Batch, Info, InputStep, Model, PRNGKey, Variables
from cmu_jax.robustness.spectral import layer_kernels, network, operators
from cmu_jax.robustness.spectral.clipping import ClippedLayer
from cmu_jax.robustness.spectral.layer_kernels import ClipSettings
from cmu_jax.robustness.spectral.operators import Layer
from cmu_jax.training import batch_norm, metrics

LowerNorms = Callable[[tuple[Layer, ...], Variables], Variables]
# Layers whose norm depends on running statistics.
STATISTICS_KINDS = ('norm', 'conv_norm')


def reestimate_statistics(
  key: PRNGKey,
  model: Model,
  inputs: InputStep,
  variables: Variables,
  layers: tuple[Layer, ...],
  images: Batch,
  lower: LowerNorms,
) -> Variables:
  """The network with running statistics of images, and norms brought down.

  Args:
    key: of the order of the images.
    model: the network.
    inputs: raw pixels to network input; images are not augmented.
    variables: the network's, its norms within the bound.
    layers: those whose norms are bounded.
    images: their labels are not looked at.
    lower: (layers, variables) -> variables with the norms of these layers
      within the bound, the same arrays where nothing is above it.
  """
  moving = tuple(layer for layer in layers if layer.kind in STATISTICS_KINDS)
  with progress.bar('running statistics', len(moving) + 1, 'rounds') as advance:
    for _ in range(len(moving) + 1):
      fresh = batch_norm.recalibrate(
        rng.fold_in(key, 'order'), model, inputs, variables, images
      )
      with progress.mute():
        lowered = lower(moving, fresh) if moving else fresh
      settled = _equal_leaves(lowered.params, variables.params)
      variables = lowered
      advance()
      if settled:
        break
  return variables


def lower_by_clipping(
  key: PRNGKey, bound: float, how: ClipSettings
) -> LowerNorms:
  """Brings norms down as the clip does."""
  return lambda layers, variables: network.clip_layers(
    key, layers, variables, bound, how
  )[0]


def lower_by_scaling(
  key: PRNGKey, bound: float, how: ClipSettings
) -> LowerNorms:
  """Brings norms down by one factor a layer, the baseline to beat."""

  def lower(layers: tuple[Layer, ...], variables: Variables) -> Variables:
    for layer in layers:
      sigma = float(network.measure_layers(key, (layer,), variables)[0].sigma)
      if sigma > bound * (1 + how.tolerance):
        variables = scale_layer(layer, variables, bound / sigma)
    return variables

  return lower


def scale_layer(layer: Layer, variables: Variables, factor: float) -> Variables:
  """The network with the kernel or scale of a layer times a factor."""
  own = operators.layer_parameters(layer, variables)
  old = layer_kernels.get_kernel(layer, own)
  fresh = layer_kernels.with_kernel(
    layer, own, (old * factor).astype(old.dtype)
  )
  return network.replace_kernel(layer, variables, fresh)


def _equal_leaves(first: Any, second: Any) -> bool:
  pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)


# Network input as it is.
_IDENTITY_STEP = InputStep(
  lambda key, image, stamp=None: image, lambda image, stamp=None: image
)


def clip_weights(
  key: PRNGKey,
  model: Model | Callable[..., Any],
  variables: Variables,
  image_shape: tuple[int, ...],
  bound: float,
  *,
  layers: Iterable[Layer] | None = None,
  tolerance: float = 1e-3,
  max_rounds: int = 100,
  directions: int = 8,
  steps: int = 5,
  rate: float | None = 0.35,
  batch: Batch | None = None,
  inputs: InputStep | None = None,
  images: Batch | None = None,
) -> tuple[Variables, Info]:
  """Trained weights with the norm of every layer at most `bound`.

  Rounds of gradient descent on a convolution's kernel, until a measurement
  from a fresh start is at most the bound; after `max_rounds` the kernel is
  rescaled. Dense kernels and BatchNorm scales have closed forms. It holds that

  * every layer's norm is at most bound (1 + tolerance);
  * a second call changes nothing, bit by bit;
  * layers within the bound keep their values, bit by bit;
  * the tree and its types stay as they are.

  Biases are left alone, and so are running statistics unless `images` are
  given: if anything was clipped, these become the statistics of the clipped
  network on them, and what then rises above the bound is lowered again. What
  is measured from are Lanczos runs of a residual of tolerance / 10, which find
  more than 2,000 iterations of the power method do.

  Args:
    key: draws the starts.
    model: a Model, or (variables, image) -> logits in evaluation mode.
    variables: the network's.
    image_shape: of one image as the network takes it, (h, w, c).
    bound: c > 0.
    layers: which; None for all of `operators.find_layers`. Those of
      `operators.joint_layers` bring a convolution and its BatchNorm as one map
      below the bound, by the kernel.
    tolerance: 1e-5 to .5, relative.
    max_rounds: of descent for each layer.
    directions: singular directions that a round treats.
    steps: of descent a round.
    rate: of the steps; see `layer_kernels.ClipSettings`.
    batch: images with labels for the accuracies; None for none.
    inputs: raw pixels to network input; None where the batch has that already.
    images: ordinary images for new running statistics, labels unused; None to
      leave these as they are.

  Returns:
    The network, and 'layers': a row for each with path, kind, 'before',
    'after', 'rounds' and 'factor' (of a final rescaling); 'accuracy', with a
    batch: 'before', 'after' and 'rescaled', that of kernels merely scaled to
    the same norms, the baseline to beat, and with images 'reestimated' and
    'rescaled_reestimated', both with new running statistics; else None.

  Raises:
    UserError: no layer, or settings out of range, or a layer whose norm does
      not follow its kernel, or images for what is not a Model.
  """
  how = ClipSettings(directions, steps, rate, 5, max_rounds, tolerance)
  layer_kernels.check_settings(bound, how)
  apply = model.apply if isinstance(model, Model) else model
  chosen = _choose_layers(apply, variables, image_shape, layers)
  done, found = network.clip_layers(key, chosen, variables, bound, how)
  rows = [_layer_row(*pair) for pair in zip(chosen, found, strict=True)]
  for row in rows:
    errors.check(
      row['after'] <= bound * (1 + tolerance),
      f'layer {row["path"]!r} stays at {row["after"]:.4g}: its norm does not '
      'follow its kernel; leave it out of layers',
    )
  made = {'before': variables, 'after': done}
  made['rescaled'] = rescale_layers(chosen, variables, rows)
  if images is not None:
    renewed = _make_renewal(
      key, model, inputs, chosen, images, _any_changed(rows)
    )
    clip = lower_by_clipping(key, bound, how)
    scale = lower_by_scaling(key, bound, how)
    made['reestimated'] = renewed(done, clip)
    made['rescaled_reestimated'] = renewed(made['rescaled'], scale)
    done = made['reestimated']
    rows = _remeasure_rows(key, chosen, done, rows)
  info: Info = {'bound': bound, 'tolerance': tolerance, 'layers': rows}
  info['accuracy'] = None
  if batch is not None:
    info['accuracy'] = {
      name: _accuracy(apply, one, batch, inputs) for name, one in made.items()
    }
  return done, info


def rescale_layers(
  layers: Iterable[Layer], variables: Variables, rows: list[dict[str, Any]]
) -> Variables:
  """The network with whole kernels scaled from 'before' to 'after'."""
  for layer, row in zip(layers, rows, strict=True):
    if row['after'] != row['before']:
      factor = row['after'] / row['before']
      variables = scale_layer(layer, variables, factor)
  return variables


def _make_renewal(
  key: PRNGKey,
  model: Any,
  inputs: InputStep | None,
  layers: tuple[Layer, ...],
  images: Batch,
  wanted: bool,
) -> Callable[[Variables, LowerNorms], Variables]:
  """(variables, lower) -> `editing.reestimate_statistics`, or variables as
  they are.

  Raises:
    UserError: not a Model, so that nobody knows how to train it.
  """
  errors.check(
    isinstance(model, Model),
    'clip_weights: images for running statistics need a Model, such as '
    'networks.make gives; a function does not say how they are updated',
  )
  if not wanted:
    return lambda variables, lower: variables
  return lambda variables, lower: reestimate_statistics(
    key, model, inputs or _IDENTITY_STEP, variables, layers, images, lower
  )


def _any_changed(rows: list[dict[str, Any]]) -> bool:
  return any(row['after'] != row['before'] for row in rows)


def _remeasure_rows(
  key: PRNGKey,
  layers: tuple[Layer, ...],
  variables: Variables,
  rows: list[dict[str, Any]],
) -> list[dict[str, Any]]:
  """The rows with the norms of what depends on running statistics anew."""
  moving = [i for i, x in enumerate(layers) if x.kind in STATISTICS_KINDS]
  found = network.measure_layers(key, [layers[i] for i in moving], variables)
  after = dict(zip(moving, (float(x.sigma) for x in found), strict=True))
  return [
    {**row, 'after': after.get(i, row['after'])} for i, row in enumerate(rows)
  ]


def _layer_row(layer: Layer, found: ClippedLayer) -> dict[str, Any]:
  return {
    'path': layer.path,
    'kind': layer.kind,
    'before': float(found.initial_sigma),
    'after': float(found.sigma),
    'rounds': int(found.rounds),
    'factor': float(found.factor),
  }


def _choose_layers(
  apply: Callable,
  variables: Variables,
  image_shape: tuple[int, ...],
  layers: Iterable[Layer] | None,
) -> tuple[Layer, ...]:
  if layers is None:
    layers = operators.find_layers(apply, variables, image_shape)
  chosen = tuple(layers)
  errors.check(
    chosen,
    'no implicitly linear layer: only modules of flax.linen are found; pass '
    'layers=',
  )
  return chosen


def _accuracy(
  apply: Callable, variables: Variables, batch: Batch, inputs: InputStep | None
) -> float:
  """The share of a batch that a network classifies right."""
  model = networks.from_functions(apply, lambda variables, logits: logits)
  found = metrics.predict(model, inputs or _IDENTITY_STEP, variables, batch)
  return float(np.mean(found == np.asarray(batch.label)))
