"""Defences by clean images, and by weights alone.

  fine_pruning      theta_u = Finetune(prune(theta_o, share), clean proxy)
  bn_recalibration  weights stay; every running mean and variance becomes that
                    of the clean proxy
  prune_outliers    channels with an outlying Lipschitz bound become 0

References:
  Zheng, Tang, Li and Liu, Data-free Backdoor Removal based on Channel
  Lipschitzness (CLP), arXiv 2208.03111, section 4.
  Liu, Dolan-Gavitt and Garg, Fine-Pruning: Defending Against Backdooring
  Attacks on Deep Neural Networks, arXiv 1805.12185, section 4.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from cmu_jax.core import errors, jit
from cmu_jax.core.types import (
  Batch,
  Method,
  Model,
  Network,
  Result,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, objectives
from cmu_jax.robustness import spectral
from cmu_jax.training import batch_norm, descent, train

# The paper prunes until the accuracy on clean validation images falls. Here
# the selection among these points decides.
_SHARES = (0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95)
# Of BatchNorm, in the variance.
_EPSILON = 1e-5


@functools.lru_cache(maxsize=32)
def _activity_program(network: Network, size: int) -> Callable:
  """A jitted function from images to mean magnitudes, `size` at a time."""

  def mean_magnitude(variables, image):
    count = image.shape[0]
    blocks = -(-count // size)
    rows = jnp.arange(blocks * size).reshape(blocks, size)

    def sum_block(index):
      # The last block repeats an image and gives it no weight.
      block = network.inputs.eval(image[jnp.minimum(index, count - 1)], None)
      magnitude = jnp.abs(network.model.features(variables, block))
      return jnp.sum(magnitude * (index < count)[:, None], axis=0)

    return jax.lax.map(sum_block, rows).sum(axis=0) / count

  return jit.compile_loop(mean_magnitude)


def mean_activity(
  network: Network, variables: Variables, batch: Batch, batch_size: int = 512
) -> Float[Array, 'd']:
  """The mean magnitude of every penultimate feature, in evaluation mode.

  Args:
    batch: clean images.
    batch_size: images at a time.
  """
  size = min(batch_size, batch.label.shape[0])
  return _activity_program(network, size)(variables, batch.image)


def active_channels(
  activity: Float[Array, 'd'], share: float | Float[Array, '']
) -> Bool[Array, 'd']:
  """Masks all channels but the round(share d) least active.

  Args:
    activity: mean magnitude of each channel.
    share: 0 to 1; may be traced.
  """
  # Ranks instead of a threshold: of equal channels the later ones stay.
  rank = jnp.argsort(jnp.argsort(activity, stable=True))
  return rank >= jnp.round(share * activity.shape[0])


def _mask_head(params: PyTree, mask: Bool[Array, 'd']) -> PyTree:
  """Cuts masked features off the head, in parameters or in a gradient."""
  head = params['head']
  kernel = head['kernel'] * mask[:, None].astype(head['kernel'].dtype)
  return {**params, 'head': {**head, 'kernel': kernel}}


def prune(variables: Variables, mask: Bool[Array, 'd']) -> Variables:
  """Removes the channels outside `mask` from a network.

  Raises:
    UserError: the network has no linear head of that many features.
  """
  params = variables.params
  head = params.get('head', {}) if isinstance(params, dict) else {}
  kernel = head.get('kernel')
  errors.check(
    kernel is not None and kernel.shape[0] == mask.shape[0],
    "fine-pruning needs the parameters of a linear head as params['head']"
    "['kernel'], one row a feature; leave fine_pruning out for this network",
  )
  return variables._replace(params=_mask_head(params, mask))


@finetuning.check_settings
def fine_pruning(network: Network, training: Training) -> Method:
  """Prunes the least active features, then trains on the clean proxy.

  Args:
    network: the model, with a linear head, and its input step.
    training: of the fine-tuning; 0 steps for pruning alone.

  References:
    arXiv 1805.12185.
  """
  phase = objectives.training_phase(network.model, 'clean', training.batch_size)
  # The projection keeps pruned features off in every step.
  recipe = descent.Recipe(
    (phase,), training.optimizer, network.inputs, _mask_head
  )

  # A backdoor lives in part in units that are silent on clean images.
  def prepare(key, variables: Variables, data: Any) -> Float[Array, 'd']:
    del key
    return mean_activity(network, variables, data.clean_proxy)

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    mask = active_channels(prepared, hyper['pruned_share'])
    start = prune(variables, mask)
    if not training.steps:
      return start, {'gradient_evaluations': 0}
    result, cost = descent.descend(
      key,
      recipe,
      descent.Start(
        start,
        {'clean': descent.whole_batch(data.clean_proxy)},
        training.steps,
        mask,
      ),
      session=train.Session('fine-tuning on the clean proxy'),
    )
    return result, {'gradient_evaluations': cost}

  grid = tuple({'pruned_share': share} for share in _SHARES)
  return Method(('clean_proxy',), prepare, solve, grid)


@finetuning.check_settings
def bn_recalibration(network: Network, *, batch_size: int = 512) -> Method:
  """Re-estimates the running statistics on the clean proxy.

  Predictions on ordinary images then no longer depend on statistics of the bad
  ones. Networks without BatchNorm stay as they are.

  Args:
    batch_size: largest number of images at a time.

  References:
    Averaging Weights Leads to Wider Optima and Better Generalization, arXiv
    1803.05407, section 3.2, re-estimates them so after a change of weights.
  """

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    del prepared, hyper
    clean = data.clean_proxy
    result = batch_norm.recalibrate(key, network, variables, clean, batch_size)
    return result, {'gradient_evaluations': 0}

  return Method(('clean_proxy',), lambda *_: None, solve)


def channel_bounds(
  layer: spectral.Layer, variables: Variables
) -> Float[Array, 'c']:
  """Bounds the Lipschitz constant of every channel of a normalised convolution.

  It is sigma_1 of the channel's kernel as a matrix, one row an input channel,
  times the slope of the BatchNorm behind it.

  Args:
    layer: of kind 'conv_norm'.
    variables: of the network.

  References:
    arXiv 2208.03111, equation 8.
  """
  params = spectral.layer_parameters(layer, variables)
  kernel = params['conv']['kernel']
  # A 1 x 1 kernel has the same form: any number of taps.
  channels = kernel.shape[-1]
  matrix = kernel.reshape(-1, *kernel.shape[-2:]).transpose(2, 1, 0)
  sigma = jnp.linalg.norm(matrix, 2, axis=(1, 2))
  norm = params['norm']
  slope = norm.get('scale', jnp.ones(channels)) / jnp.sqrt(
    norm['var'] + _EPSILON
  )
  return sigma * jnp.abs(slope)


def prune_outliers(
  model: Model,
  variables: Variables,
  shape: tuple[int, ...],
  reach: float = 3.0,
) -> tuple[Variables, int]:
  """Zeroes channels whose bound exceeds mean + reach deviations of its layer.

  Args:
    model: its convolutions and BatchNorms are linen modules.
    variables: of the network.
    shape: of an image as the network takes it, (h, w, c).
    reach: u of the paper; 3 there.

  Returns:
    The pruned network, and the number of pruned channels.

  References:
    arXiv 2208.03111, algorithm 1.
  """
  layers = spectral.find_layers(model.apply, variables, shape)
  params, count = variables.params, 0
  for layer in spectral.joint_layers(layers):
    bounds = channel_bounds(layer, variables)
    # Bounds of the layer alone: layers differ in scale.
    inliers = bounds <= bounds.mean() + reach * bounds.std(ddof=1)
    count += int((~inliers).sum())
    # The BatchNorm's scale and bias as well: the channel is then exactly 0.
    for path in (layer.path, str(layer.norm)):
      pruned = {
        name: x * inliers.reshape(*(1,) * (x.ndim - 1), -1)
        for name, x in spectral.subtree(params, path).items()
      }
      params = spectral.replace_subtree(params, path, pruned)
  return variables._replace(params=params), count
