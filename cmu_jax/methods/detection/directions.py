r"""Where the nearest other class lies: what a bad sample is held up by.

  d(x) = -g / |g|,   g = d (z_1 - z_2) / d x

for the two largest logits at x: the first step of DeepFool, towards an
adversarial image. An image with a trigger leaves the target class by way of its
trigger; an image under a wrong label, towards its own class.

References:
  DeepFool, arXiv 1511.04599, equation 7: the step to the nearest boundary of
  the linearised network.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from cmu_jax.core.types import Model, Variables
from cmu_jax.methods.detection import evidence

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


def _flat(
  model: Model, variables: Variables, image: Float[jax.Array, 'n h w c']
) -> Float[jax.Array, 'n d']:
  return steps(model, variables, image).reshape(image.shape[0], -1)


# Steps towards the nearest other class; a gradient takes more memory.
directions = evidence.looking(_flat, most=256)
