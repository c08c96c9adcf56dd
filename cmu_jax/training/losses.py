"""Losses: one value a sample, never reduced."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Float[Array, 'n']:
  """Softmax cross-entropy, in float32 whatever the network computes in."""
  return optax.softmax_cross_entropy_with_integer_labels(
    logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), label
  )
