"""What detectors look at: features of the suspect network and S_f.

Where the nearest other class lies: what a bad sample is held up by.

  d(x) = -g / |g|,   g = d (z_1 - z_2) / d x

for the two largest logits at x: the first step of DeepFool, towards an
adversarial image. An image with a trigger leaves the target class by way of its
trigger; an image under a wrong label, towards its own class.

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
  InputStep,
  MethodInputs,
  Model,
  Network,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.training import metrics

# Wider features are projected: squared distances keep to about 6 %, and memory
# does not grow with the network.
_MAX_WIDTH = 512


class DetectorData(NamedTuple):
  """The samples of S_tr as a suspect network sees them.

  Attributes:
    features: of images that are not augmented: penultimate features, or what
      else a detector looks at.
    label: as trained with.
    known: which rows are of S_f.
  """

  features: Float[np.ndarray, 'n d']
  label: Int[np.ndarray, 'n']
  identified: Bool[np.ndarray, 'n']


Detector = Callable[[DetectorData], Bool[np.ndarray, 'n']]
FeatureExtractor = Callable[..., Float[np.ndarray, 'n d']]


@functools.lru_cache(maxsize=32)
def _extraction_program(see: Callable, network: Network, size: int) -> Callable:
  """A jitted function from a split to what is seen, `size` at a time."""

  def look(key, variables, batch):
    def narrowed(image):
      return _project(key, see(network.model, variables, image))

    return metrics.map_blocks(narrowed, network.inputs, batch, size)

  return jit.compile_loop(look)


def _project(
  key: PRNGKey, features: Float[jax.Array, 'n d']
) -> Float[jax.Array, 'n e']:
  """Random projections, to 512 numbers, of features that are wider."""
  width = features.shape[1]
  if width <= _MAX_WIDTH:
    return features
  matrix = jax.random.normal(key, (width, _MAX_WIDTH), features.dtype)
  return features @ (matrix * _MAX_WIDTH**-0.5)


def feature_extractor(
  function: Callable[..., jax.Array], batch_size: int = 1024
) -> FeatureExtractor:
  """What is seen of every image of a split; stamps are painted.

  Args:
    function: (model, variables, network input [b, h, w, c]) -> values [b, d];
      traceable, and one function for one compilation.
    batch_size: images at a time, where it is not said.

  Returns:
    (key, model, inputs, variables, batch, batch_size) -> [n, d]; the key is of
    the projection to 512 numbers, where there are more.
  """

  def look(
    key: PRNGKey,
    model: Model,
    inputs: InputStep,
    variables: Variables,
    batch: Batch,
    batch_size: int = batch_size,
  ) -> Float[np.ndarray, 'n d']:
    size = min(batch_size, batch.label.shape[0])
    run = _extraction_program(function, Network(model, inputs), size)
    return np.asarray(run(key, variables, batch))

  return look


def _penultimate(model: Model, variables: Variables, image: jax.Array):
  return model.features(variables, image)


# Penultimate features, in evaluation mode.
penultimate_features = feature_extractor(_penultimate)


def _valid_rows(samples: Samples) -> Int[np.ndarray, 'm']:
  return np.flatnonzero(np.asarray(samples.valid))


def collect(
  key: PRNGKey,
  network: Network,
  variables: Variables,
  data: MethodInputs,
  batch_size: int = 1024,
  extract: FeatureExtractor = penultimate_features,
) -> DetectorData:
  """The valid rows of `given.retain`, then those of `given.forget`.

  Args:
    key: random key, see `features`.
    network: the model and its input step.
    variables: the suspect weights.
    data: has retain and forget.
    batch_size: images at a time.
    extract: what is looked at, see `features`.
  """
  named = rng.fold_in(key, 'projection')

  def part(samples, known):
    rows = _valid_rows(samples)
    found = extract(
      named, network.model, network.inputs, variables, samples.batch, batch_size
    )
    label = np.asarray(samples.batch.label)[rows]
    return DetectorData(found[rows], label, np.full(rows.size, known))

  parts = part(data.retain, False), part(data.forget, True)
  return DetectorData(*map(np.concatenate, zip(*parts, strict=True)))


# Where two logits are equal in every direction there is none.
_TINY = 1e-30


def boundary_steps(
  model: Model, variables: Variables, image: Float[jax.Array, 'n h w c']
) -> Float[jax.Array, 'n h w c']:
  """Unit vectors in l2 towards the runner-up class; 0 without a gradient.

  Args:
    model: the network.
    variables: its weights.
    image: network input.
  """

  def margin(x):
    best = jax.lax.top_k(model.apply(variables, x), 2)[0]
    return jnp.sum(best[:, 0] - best[:, 1])

  slope = jax.grad(margin)(image)
  size = jnp.sqrt(jnp.sum(slope**2, axis=(1, 2, 3), keepdims=True))
  return -slope / jnp.maximum(size, _TINY)


def _flat_steps(
  model: Model, variables: Variables, image: Float[jax.Array, 'n h w c']
) -> Float[jax.Array, 'n d']:
  return boundary_steps(model, variables, image).reshape(image.shape[0], -1)


# Steps towards the nearest other class; a gradient takes more memory.
boundary_directions = feature_extractor(_flat_steps, batch_size=256)
