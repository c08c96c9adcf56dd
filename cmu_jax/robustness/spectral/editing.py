"""The clip of trained weights, as a one-off edit."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Batch, Info, InputStep, Model, PRNGKey, Variables
from cmu_jax.robustness.spectral import network, operators, parts, statistics
from cmu_jax.robustness.spectral.clipping import Clipped
from cmu_jax.robustness.spectral.operators import Layer
from cmu_jax.robustness.spectral.parts import How
from cmu_jax.training import metrics

# Network input as it is.
_AS_IS = InputStep(
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
    layers: which; None for all of `operators.layers`. Those of
      `operators.joint` bring a convolution and its BatchNorm as one map below
      the bound, by the kernel.
    tolerance: 1e-5 to .5, relative.
    max_rounds: of descent for each layer.
    directions: singular directions that a round treats.
    steps: of descent a round.
    rate: of the steps; see `parts.How`.
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
  how = How(directions, steps, rate, 5, max_rounds, tolerance)
  parts.check(bound, how)
  apply = model.apply if isinstance(model, Model) else model
  chosen = _chosen(apply, variables, image_shape, layers)
  done, found = network.clipped(key, chosen, variables, bound, how)
  rows = [_row(*pair) for pair in zip(chosen, found, strict=True)]
  for row in rows:
    errors.check(
      row['after'] <= bound * (1 + tolerance),
      f'layer {row["path"]!r} stays at {row["after"]:.4g}: its norm does not '
      'follow its kernel; leave it out of layers',
    )
  made = {'before': variables, 'after': done}
  made['rescaled'] = rescaled(chosen, variables, rows)
  if images is not None:
    renewed = _renewal(key, model, inputs, chosen, images, _changed(rows))
    clip = statistics.clipping(key, bound, how)
    scale = statistics.scaling(key, bound, how)
    made['reestimated'] = renewed(done, clip)
    made['rescaled_reestimated'] = renewed(made['rescaled'], scale)
    done = made['reestimated']
    rows = _remeasured(key, chosen, done, rows)
  info: Info = {'bound': bound, 'tolerance': tolerance, 'layers': rows}
  info['accuracy'] = None
  if batch is not None:
    info['accuracy'] = {
      name: _accuracy(apply, one, batch, inputs) for name, one in made.items()
    }
  return done, info


def rescaled(
  layers: Iterable[Layer], variables: Variables, rows: list[dict[str, Any]]
) -> Variables:
  """The network with whole kernels scaled from 'before' to 'after'."""
  for layer, row in zip(layers, rows, strict=True):
    if row['after'] != row['before']:
      factor = row['after'] / row['before']
      variables = statistics.scaled(layer, variables, factor)
  return variables


def _renewal(
  key: PRNGKey,
  model: Any,
  inputs: InputStep | None,
  layers: tuple[Layer, ...],
  images: Batch,
  wanted: bool,
) -> Callable[[Variables, statistics.Lower], Variables]:
  """(variables, lower) -> `statistics.reestimated`, or variables as they are.

  Raises:
    UserError: not a Model, so that nobody knows how to train it.
  """
  errors.check(
    isinstance(model, Model),
    'clip_weights: images for running statistics need a Model, such as '
    'models.make gives; a function does not say how they are updated',
  )
  if not wanted:
    return lambda variables, lower: variables
  return lambda variables, lower: statistics.reestimated(
    key, model, inputs or _AS_IS, variables, layers, images, lower
  )


def _changed(rows: list[dict[str, Any]]) -> bool:
  return any(row['after'] != row['before'] for row in rows)


def _remeasured(
  key: PRNGKey,
  layers: tuple[Layer, ...],
  variables: Variables,
  rows: list[dict[str, Any]],
) -> list[dict[str, Any]]:
  """The rows with the norms of what depends on running statistics anew."""
  moving = [i for i, x in enumerate(layers) if x.kind in statistics.MOVING]
  found = network.norms(key, [layers[i] for i in moving], variables)
  after = dict(zip(moving, (float(x.sigma) for x in found), strict=True))
  return [
    {**row, 'after': after.get(i, row['after'])} for i, row in enumerate(rows)
  ]


def _row(layer: Layer, found: Clipped) -> dict[str, Any]:
  return {
    'path': layer.path,
    'kind': layer.kind,
    'before': float(found.before),
    'after': float(found.sigma),
    'rounds': int(found.rounds),
    'factor': float(found.factor),
  }


def _chosen(
  apply: Callable,
  variables: Variables,
  image_shape: tuple[int, ...],
  layers: Iterable[Layer] | None,
) -> tuple[Layer, ...]:
  if layers is None:
    layers = operators.layers(apply, variables, image_shape)
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
  found = metrics.predict(model, inputs or _AS_IS, variables, batch)
  return float(np.mean(found == np.asarray(batch.label)))
