"""The clip of trained weights, as a one-off edit.

A clipped convolution has smaller outputs than the running statistics of the
BatchNorm behind it describe. Statistics of the clipped network bring means and
variances back in line. Smaller variances raise the BatchNorm's own norm; if it
is bounded, too, it is lowered again, which changes the input of the next
BatchNorm. One round for each BatchNorm settles all of them.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from cmu_jax import networks
from cmu_jax.core import errors, progress, rng
from cmu_jax.core.types import (
  Batch,
  Info,
  InputStep,
  Model,
  Network,
  PRNGKey,
  Variables,
)
from cmu_jax.robustness.spectral import (
  layer_kernels,
  network_layers,
  operators,
)
from cmu_jax.robustness.spectral.clipping import ClippedLayer
from cmu_jax.robustness.spectral.layer_kernels import ClipSettings
from cmu_jax.robustness.spectral.operators import Layer
from cmu_jax.training import batch_norm, metrics

LowerNorms = Callable[[tuple[Layer, ...], Variables], Variables]
_IDENTITY_STEP = InputStep(
  lambda key, image, stamp=None: image, lambda image, stamp=None: image
)


class ClipData(NamedTuple):
  """The images of a clip, all optional.

  Attributes:
    batch: images with labels for the accuracies; None for no accuracies.
    images: ordinary images for new running statistics, labels unused; None to
      keep the old statistics.
    inputs: raw pixels to network input.
  """

  batch: Batch | None = None
  images: Batch | None = None
  inputs: InputStep = _IDENTITY_STEP


_DEFAULT_SETTINGS, _NO_DATA = ClipSettings(), ClipData()


def clip_weights(
  key: PRNGKey,
  model: Model | Callable[..., Any],
  variables: Variables,
  image_shape: tuple[int, ...],
  bound: float,
  *,
  layers: Iterable[Layer] | None = None,
  settings: ClipSettings = _DEFAULT_SETTINGS,
  data: ClipData = _NO_DATA,
) -> tuple[Variables, Info]:
  """Clips the norm of every layer of a trained network to at most `bound`.

  Gradient descent lowers a convolution's kernel in rounds, until a measurement
  from a fresh start is within the bound; after the last round the kernel is
  rescaled. Dense kernels and BatchNorm scales have closed forms. Guarantees:

  * every layer's norm is at most bound (1 + tolerance);
  * a second call changes no bit;
  * layers within the bound keep their bits;
  * the tree and its types stay the same.

  Biases never change. With `data.images`, the running statistics become the
  statistics of the clipped network on them, if any layer was clipped, and norms
  above the bound are lowered again. Measurements are Lanczos runs to a residual
  of tolerance / 10, more exact than 2,000 iterations of the power method.

  Args:
    model: a Model, or (variables, image) -> logits in evaluation mode.
    image_shape: of one image as the network takes it, (h, w, c).
    bound: c > 0.
    layers: the layers to clip; None for all of `operators.find_layers`. Layers
      of `operators.joint_layers` bring a convolution and its BatchNorm as one
      map below the bound, by the kernel.
    settings: of the descent.
    data: images for accuracies and for running statistics.

  Returns:
    The network, and 'layers': a row for each with path, kind, 'before',
    'after', 'rounds' and 'factor' (of a final rescaling); 'accuracy', with a
    batch: 'before', 'after' and 'rescaled', of kernels merely scaled to the
    same norms, the baseline to beat, and with images 'reestimated' and
    'rescaled_reestimated', both with new running statistics; else None.

  Raises:
    UserError: no layer, settings out of range, a layer whose norm does not
      follow its kernel, or images for a function that is not a Model.
  """
  layer_kernels.check_settings(bound, settings)
  apply = model.apply if isinstance(model, Model) else model
  chosen = _choose_layers(apply, variables, image_shape, layers)
  clipped, results = network_layers.clip_layers(
    key, chosen, variables, bound, settings
  )
  rows = [_layer_row(*pair) for pair in zip(chosen, results, strict=True)]
  # For example a kernel that weight normalisation divides again.
  for row in rows:
    errors.check(
      row['after'] <= bound * (1 + settings.tolerance),
      f'layer {row["path"]!r} stays at {row["after"]:.4g}: its norm does not '
      'follow its kernel; leave it out of layers',
    )
  # Rescaled kernels have the same norms, so only the damage differs.
  variants = {'before': variables, 'after': clipped}
  variants['rescaled'] = rescale_layers(chosen, variables, rows)
  if data.images is not None:
    changed = any(row['after'] != row['before'] for row in rows)
    renew = _make_renewal(key, model, chosen, data, changed)
    lower = lower_by_clipping(key, bound, settings)
    scale = lower_by_scaling(key, bound, settings)
    clipped = renew(clipped, lower)
    variants['reestimated'] = clipped
    variants['rescaled_reestimated'] = renew(variants['rescaled'], scale)
    rows = _remeasure_rows(key, chosen, clipped, rows)
  # Accuracies are of the final weights, statistics included.
  accuracy = None
  if data.batch is not None:
    accuracy = {
      name: _accuracy(apply, variant, data.batch, data.inputs)
      for name, variant in variants.items()
    }
  info: Info = {'bound': bound, 'tolerance': settings.tolerance}
  return clipped, {**info, 'layers': rows, 'accuracy': accuracy}


def rescale_layers(
  layers: Iterable[Layer], variables: Variables, rows: list[dict[str, Any]]
) -> Variables:
  """Returns the network with whole kernels scaled from 'before' to 'after'."""
  for layer, row in zip(layers, rows, strict=True):
    # Equal norms mean an unclipped kernel, which keeps its bits.
    if row['after'] != row['before']:
      factor = row['after'] / row['before']
      variables = scale_layer(layer, variables, factor)
  return variables


def scale_layer(layer: Layer, variables: Variables, factor: float) -> Variables:
  """Returns the network with the kernel or scale of a layer times a factor."""
  params = operators.layer_parameters(layer, variables)
  old = layer_kernels.get_kernel(layer, params)
  # The factor is a Python float: it must not widen the kernel.
  value = (old * factor).astype(old.dtype)
  changed = layer_kernels.with_kernel(layer, params, value)
  return network_layers.replace_kernel(layer, variables, changed)


def reestimate_statistics(
  key: PRNGKey,
  model: Model,
  variables: Variables,
  layers: tuple[Layer, ...],
  data: ClipData,
  lower: LowerNorms,
) -> Variables:
  """Renews running statistics and lowers the norms that rise with them.

  Args:
    key: of the order of the images.
    variables: the network's, with norms within the bound.
    layers: the layers with bounded norms.
    data: its images give the statistics, without augmentation.
    lower: (layers, variables) -> variables with the norms of these layers
      within the bound, and the same arrays if no norm is above it.
  """
  network = Network(model, data.inputs)
  moving = tuple(
    layer for layer in layers if layer.kind in layer_kernels.STATISTICS_KINDS
  )
  assert data.images is not None
  with progress.bar('running statistics', len(moving) + 1, 'rounds') as advance:
    # The last round confirms that nothing moves any more.
    for _ in range(len(moving) + 1):
      renewed = batch_norm.recalibrate(
        rng.fold_in(key, 'order'), network, variables, data.images
      )
      # The inner clips would draw a bar for every round.
      with progress.mute():
        lowered = lower(moving, renewed) if moving else renewed
      # Statistics depend on parameters alone: equal parameters end the rounds.
      settled = _equal_leaves(lowered.params, variables.params)
      variables = lowered
      advance()
      if settled:
        break
  return variables


def lower_by_clipping(
  key: PRNGKey, bound: float, settings: ClipSettings
) -> LowerNorms:
  """A function that lowers norms by clipping."""
  return lambda layers, variables: network_layers.clip_layers(
    key, layers, variables, bound, settings
  )[0]


def lower_by_scaling(
  key: PRNGKey, bound: float, settings: ClipSettings
) -> LowerNorms:
  """A function that lowers norms by a factor a layer, the baseline to beat."""

  def lower(layers: tuple[Layer, ...], variables: Variables) -> Variables:
    # One by one: joint maps share kernels with their convolutions.
    for layer in layers:
      norm = network_layers.measure_layers(key, (layer,), variables)[0]
      sigma = float(norm.sigma)
      if sigma > bound * (1 + settings.tolerance):
        variables = scale_layer(layer, variables, bound / sigma)
    return variables

  return lower


def _make_renewal(
  key: PRNGKey,
  model: Any,
  layers: tuple[Layer, ...],
  data: ClipData,
  needed: bool,
) -> Callable[[Variables, LowerNorms], Variables]:
  """(variables, lower) -> variables with new statistics if `needed`.

  Raises:
    UserError: not a Model.
  """
  errors.check(
    isinstance(model, Model),
    'clip_weights: images for running statistics need a Model, such as '
    'networks.make gives; a function does not say how they are updated',
  )
  # Without a clip, new statistics would change a network for no reason.
  if not needed:
    return lambda variables, lower: variables
  return lambda variables, lower: reestimate_statistics(
    key, model, variables, layers, data, lower
  )


def _remeasure_rows(
  key: PRNGKey,
  layers: tuple[Layer, ...],
  variables: Variables,
  rows: list[dict[str, Any]],
) -> list[dict[str, Any]]:
  """The rows with new norms of the layers that depend on statistics."""
  # Norms of plain convolutions and dense layers cannot have moved.
  kinds = layer_kernels.STATISTICS_KINDS
  moving = [i for i, layer in enumerate(layers) if layer.kind in kinds]
  norms = network_layers.measure_layers(
    key, [layers[i] for i in moving], variables
  )
  sigmas = dict(zip(moving, (float(x.sigma) for x in norms), strict=True))
  return [
    {**row, 'after': sigmas.get(i, row['after'])} for i, row in enumerate(rows)
  ]


def _layer_row(layer: Layer, result: ClippedLayer) -> dict[str, Any]:
  return {
    'path': layer.path,
    'kind': layer.kind,
    'before': float(result.initial_sigma),
    'after': float(result.sigma),
    'rounds': int(result.rounds),
    'factor': float(result.factor),
  }


def _choose_layers(
  apply: Callable,
  variables: Variables,
  image_shape: tuple[int, ...],
  layers: Iterable[Layer] | None,
) -> tuple[Layer, ...]:
  """The given layers, or all layers of the network."""
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
  apply: Callable, variables: Variables, batch: Batch, inputs: InputStep
) -> float:
  """The share of a batch that a network classifies correctly."""
  # A plain function gives logits only: the head passes them on.
  model = networks.from_functions(apply, lambda variables, logits: logits)
  predicted = metrics.predict(Network(model, inputs), variables, batch)
  return float(np.mean(predicted == np.asarray(batch.label)))


def _equal_leaves(left: Any, right: Any) -> bool:
  pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)
