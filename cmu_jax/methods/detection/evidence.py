"""What detectors look at: features of the suspect network and S_f."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from cmu_jax.core import jit, rng
from cmu_jax.core.types import (
  Batch,
  Given,
  InputStep,
  Model,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.training import metrics

# Wider features are projected: squared distances keep to about 6 %, and memory
# does not grow with the network.
_WIDEST = 512


class Evidence(NamedTuple):
  """The samples of S_tr as a suspect network sees them.

  Attributes:
    features: of images that are not augmented: penultimate features, or what
      else a detector looks at.
    label: as trained with.
    known: which rows are of S_f.
  """

  features: Float[np.ndarray, 'n d']
  label: Int[np.ndarray, 'n']
  known: Bool[np.ndarray, 'n']


Detector = Callable[[Evidence], Bool[np.ndarray, 'n']]
Look = Callable[..., Float[np.ndarray, 'n d']]


@functools.lru_cache(maxsize=32)
def _compiled(
  see: Callable, model: Model, inputs: InputStep, size: int
) -> Callable:
  """A jitted function from a split to what is seen, `size` at a time."""

  def look(key, variables, batch):
    def narrowed(image):
      return _narrow(key, see(model, variables, image))

    return metrics.in_blocks(narrowed, inputs, batch, size)

  return jit.looped(look)


def _narrow(
  key: PRNGKey, features: Float[jax.Array, 'n d']
) -> Float[jax.Array, 'n e']:
  """Random projections, to 512 numbers, of features that are wider."""
  width = features.shape[1]
  if width <= _WIDEST:
    return features
  matrix = jax.random.normal(key, (width, _WIDEST), features.dtype)
  return features @ (matrix * _WIDEST**-0.5)


def looking(see: Callable[..., jax.Array], most: int = 1024) -> Look:
  """What is seen of every image of a split; stamps are painted.

  Args:
    see: (model, variables, network input [b, h, w, c]) -> values [b, d];
      traceable, and one function for one compilation.
    most: images at a time, where it is not said.

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
    batch_size: int = most,
  ) -> Float[np.ndarray, 'n d']:
    size = min(batch_size, batch.label.shape[0])
    run = _compiled(see, model, inputs, size)
    return np.asarray(run(key, variables, batch))

  return look


def _penultimate(model: Model, variables: Variables, image: jax.Array):
  return model.features(variables, image)


# Penultimate features, in evaluation mode.
features = looking(_penultimate)


def _rows(samples: Samples) -> Int[np.ndarray, 'm']:
  return np.flatnonzero(np.asarray(samples.valid))


def collect(
  key: PRNGKey,
  model: Model,
  inputs: InputStep,
  variables: Variables,
  given: Given,
  batch_size: int = 1024,
  look: Look = features,
) -> Evidence:
  """The valid rows of `given.retain`, then those of `given.forget`.

  Args:
    key: random key, see `features`.
    model: the network.
    inputs: raw pixels to network input.
    variables: the suspect weights.
    given: has retain and forget.
    batch_size: images at a time.
    look: what is looked at, see `features`.
  """
  named = rng.named(key, 'projection')

  def part(samples, known):
    rows = _rows(samples)
    found = look(named, model, inputs, variables, samples.batch, batch_size)
    label = np.asarray(samples.batch.label)[rows]
    return Evidence(found[rows], label, np.full(rows.size, known))

  parts = part(given.retain, False), part(given.forget, True)
  return Evidence(*map(np.concatenate, zip(*parts, strict=True)))
