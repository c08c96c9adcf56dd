r"""The data of detectors: features of the suspect network, labels, and S_f.

Features are penultimate ones, or the direction to the nearest other class,

  d(x) = -g / |g|,   g = d (z_1 - z_2) / d x

for the two largest logits at x: the first step of DeepFool towards an
adversarial image. An image with a trigger leaves the target class along its
trigger; an image with a wrong label leaves it towards its own class.

References:
  DeepFool, arXiv 1511.04599, equation 7: the step to the nearest boundary of
  the linearised network.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from cmu_jax.core import jit, rng
from cmu_jax.core.types import (
  Batch,
  MethodInputs,
  Model,
  Network,
  PRNGKey,
  Variables,
)
from cmu_jax.training import metrics

# Wider features are projected: squared distances keep to about 6 %, and memory
# does not grow with the network.
_MAX_WIDTH = 512

# A network whose logits are equal everywhere has no gradient to normalise.
_TINY = 1e-30


class DetectorData(NamedTuple):
  """The samples of S_tr as a suspect network represents them.

  Attributes:
    features: of images without augmentation.
    label: as trained with.
    identified: rows of S_f.
  """

  features: Float[np.ndarray, 'n d']
  label: Int[np.ndarray, 'n']
  identified: Bool[np.ndarray, 'n']


Detector = Callable[[DetectorData], Bool[np.ndarray, 'n']]
# (key, network, variables, batch, batch_size) -> features.
FeatureExtractor = Callable[..., Float[np.ndarray, 'n d']]


# Keyed by the function object: a lambda made anew would compile every time.
@functools.lru_cache(maxsize=32)
def _extraction_program(
  function: Callable, network: Network, size: int
) -> Callable:
  """(key, variables, batch) -> features, `size` images at a time."""

  def run(key, variables, batch):
    # Projected inside the loop: wide features never exist for all images.
    narrow = lambda image: _project(
      key, function(network.model, variables, image)
    )
    return metrics.map_blocks(narrow, network.inputs, batch, size)

  return jit.compile_loop(run)


def _project(
  key: PRNGKey, features: Float[jax.Array, 'n d']
) -> Float[jax.Array, 'n e']:
  width = features.shape[1]
  if width <= _MAX_WIDTH:
    return features
  matrix = jax.random.normal(key, (width, _MAX_WIDTH), features.dtype)
  return features @ (matrix * _MAX_WIDTH**-0.5)


def _extract(
  function: Callable[..., jax.Array],
  key: PRNGKey,
  network: Network,
  variables: Variables,
  batch: Batch,
  batch_size: int = 1024,
) -> Float[np.ndarray, 'n d']:
  """Applies a function to every image of a split; paints triggers.

  Args:
    function: (model, variables, network input [b, h, w, c]) -> values [b, d];
      traceable.
    key: seeds the projection of more than 512 values.
    batch: n images.
    batch_size: images at a time.
  """
  size = min(batch_size, batch.label.shape[0])
  run = _extraction_program(function, network, size)
  return np.asarray(run(key, variables, batch))


def _penultimate(model: Model, variables: Variables, image: jax.Array):
  return model.features(variables, image)


def boundary_steps(
  model: Model, variables: Variables, image: Float[jax.Array, 'n h w c']
) -> Float[jax.Array, 'n h w c']:
  """Computes unit vectors towards the runner-up class; 0 without a gradient.

  Args:
    image: network input.
  """

  def total_margin(x):
    best = jax.lax.top_k(model.apply(variables, x), 2)[0]
    # In evaluation mode images do not interact, so the gradient of the sum is
    # the gradient of every margin.
    return jnp.sum(best[:, 0] - best[:, 1])

  slope = jax.grad(total_margin)(image)
  size = jnp.sqrt(jnp.sum(slope**2, axis=(1, 2, 3), keepdims=True))
  return -slope / jnp.maximum(size, _TINY)


def _flat_steps(
  model: Model, variables: Variables, image: Float[jax.Array, 'n h w c']
) -> Float[jax.Array, 'n d']:
  return boundary_steps(model, variables, image).reshape(image.shape[0], -1)


@functools.lru_cache(maxsize=32)
def _answer_program(network: Network, size: int) -> Callable:
  """(key, variables, batch) -> logits and features side by side, [n, k + d]."""

  def run(key, variables, batch):
    def answer(image):
      features = network.model.features(variables, image)
      logits = network.model.head(variables, features)
      return jnp.concatenate([logits, _project(key, features)], axis=1)

    return metrics.map_blocks(answer, network.inputs, batch, size)

  return jit.compile_loop(run)


def answer_images(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  batch: Batch,
  batch_size: int = 1024,
) -> Float[np.ndarray, 'n e']:
  """Computes logits and penultimate features in a single pass.

  Args:
    key: seeds the projection of wide features.
    network: k classes.
    variables: of the network.
    batch: n images.
    batch_size: images at a time.

  Returns:
    Logits in the first k columns, features in the others.
  """
  run = _answer_program(network, min(batch_size, batch.label.shape[0]))
  return np.asarray(run(key, variables, batch))


penultimate_features = functools.partial(_extract, _penultimate)
boundary_directions = functools.partial(_extract, _flat_steps)


def collect(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  data: MethodInputs,
  batch_size: int = 1024,
  extract: FeatureExtractor = penultimate_features,
) -> DetectorData:
  """Collects the valid rows of `data.retain`, then those of `data.forget`.

  Args:
    key: seeds the projection of wide features.
    variables: the suspect weights.
    data: has retain and forget.
    batch_size: images at a time.
    extract: the features.
  """
  # One key for both sets: their projections must agree.
  projection_key = rng.fold_in(key, 'projection')

  def collect_set(samples, identified):
    rows = np.flatnonzero(np.asarray(samples.valid))
    features = extract(
      projection_key, network, variables, samples.batch, batch_size
    )
    label = np.asarray(samples.batch.label)[rows]
    return DetectorData(features[rows], label, np.full(rows.size, identified))

  sets = collect_set(data.retain, False), collect_set(data.forget, True)
  return DetectorData(*map(np.concatenate, zip(*sets, strict=True)))
