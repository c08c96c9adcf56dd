r"""Where the nearest other class lies: what a bad sample is held up by.

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

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cmu_jax import jitting, metrics
from cmu_jax.detection import evidence
from cmu_jax.types import Batch, InputStep, Model, PRNGKey, Variables

# Where two logits are equal in every direction there is none.
_TINY = 1e-30


def steps(
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


@functools.lru_cache(maxsize=32)
def _compiled(model: Model, inputs: InputStep, size: int) -> Callable:
  """A jitted function from a split to its steps, `size` at a time."""

  def look(key, variables, batch):
    def see(image):
      found = steps(model, variables, image)
      return evidence.narrow(key, found.reshape(image.shape[0], -1))

    return metrics.in_blocks(see, inputs, batch, size)

  return jitting.looped(look)


def directions(
  key: PRNGKey,
  model: Model,
  inputs: InputStep,
  variables: Variables,
  batch: Batch,
  batch_size: int = 256,
) -> Float[np.ndarray, 'n d']:
  """Steps towards the nearest other class of a split; stamps are painted.

  Args:
    key: of the projection to 512 numbers, where inputs are larger.
    model: the network.
    inputs: raw pixels to network input.
    variables: its weights.
    batch: n images.
    batch_size: images at a time.
  """
  size = min(batch_size, batch.label.shape[0])
  return np.asarray(_compiled(model, inputs, size)(key, variables, batch))
