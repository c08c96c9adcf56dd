"""Ensembles of a cosine classifier whose image features span a simplex.

Where the network up to its features is run once for each vertex, the rest of a
CLIP-like model is cheap enough to be integrated as exactly as one likes:
features u(w) = sum_i w_i u_i, logits s t_c'u(w) / |u(w)|.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors
from cmu_jax.methods.simplex import estimates, series

SCORES = ('probs', 'logits', 'mean_exp')


def _unit(x: Any) -> Any:
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def head_ensemble(
  features: Float[Array, 'q *n d'],
  text_head: Float[Array, 'k d'],
  scale: float | Float[Array, ''],
  score: str = 'probs',
  normalize: bool = True,
  degree: int = 7,
) -> Float[Array, '*n k']:
  """The mean score over the simplex that the features of the vertices span.

  'logits' and 'probs' are means of logits and of their softmax along u(w),
  by a rule of the given degree (logits that are not normalised: exact).
  'mean_exp' is E exp(z_c) for each class, divided by its sum over classes, with
  logits z that lie between those of the vertices; exact by Hermite and
  Genocchi. It is an arithmetic mean of exponentiated similarities and no
  approximation of E softmax.

  Args:
    features: u_i of the vertices, along the first axis.
    text_head: one vector a class; of unit norm in CLIP.
    scale: what cosines are multiplied by, about 100 in CLIP.
    score: 'probs', 'logits' or 'mean_exp'.
    normalize: whether image features are divided by their norm.
    degree: of the rule, odd.

  Raises:
    UserError: an unknown score.
  """
  if score not in SCORES:
    raise errors.unknown('score', score, SCORES)

  def logits(u: Any) -> Any:
    kept = _unit(u) if normalize else u
    return scale * jnp.matmul(kept, text_head.T, precision='highest')

  if score == 'mean_exp':
    means = series.log_mean_exp_simplex(logits(features), 0)
    return jax.nn.softmax(means, axis=-1)
  if score == 'logits' and not normalize:
    return jnp.mean(logits(features), axis=0)
  chances = lambda u: jax.nn.softmax(logits(u), axis=-1)
  head = logits if score == 'logits' else chances
  return estimates.head_mean(head, features, features.shape[0], degree)
