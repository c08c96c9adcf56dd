"""The objectives that attacks maximize, and their gradients in the pixels."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cmu_jax.core import errors
from cmu_jax.training import metrics

Logits = Callable[[jax.Array], jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]


class Evaluation(NamedTuple):
  """An objective at n images.

  Attributes:
    value: of each image.
    logits: of each image, float32.
    gradient: of the sum of the values, so that no gradient is divided by n.
  """

  value: Float[Array, 'n']
  logits: Float[Array, 'n k']
  gradient: Float[Array, 'n h w c']


def margin(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Float[Array, 'n']:
  """max over j != y of z_j - z_y; positive exactly for misclassified images.

  References:
    Towards Evaluating the Robustness of Neural Networks, arXiv 1608.04644,
    section V-A.
  """
  is_label = jnp.arange(logits.shape[-1])[None, :] == label[:, None]
  largest_other = jnp.where(is_label, -jnp.inf, logits).max(-1)
  return largest_other - jnp.take_along_axis(logits, label[:, None], -1)[:, 0]


def dlr(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Float[Array, 'n']:
  """The margin divided by the gap of the largest and the third largest logit.

  Raises:
    UserError: fewer than three classes.

  References:
    Difference of logits ratio, arXiv 2003.01690, equation 6.
  """
  errors.check(
    logits.shape[-1] >= 3,
    f"loss 'dlr' needs 3 classes, there are {logits.shape[-1]}; use 'margin'",
  )
  # The gap makes the ratio invariant to shifts and scales of the logits.
  top = jax.lax.top_k(logits, 3)[0]
  return margin(logits, label) / (top[:, 0] - top[:, 2] + 1e-12)


# Cross-entropy underflows for confident networks: where exp(-gap) is 0 in
# float32, no gradient is left. Differences of logits do not saturate.
LOSSES: dict[str, Loss] = {
  'cross_entropy': metrics.cross_entropy,
  'margin': margin,
  'dlr': dlr,
}


def loss_by_name(name: str) -> Loss:
  """Returns an objective.

  Raises:
    UserError: an unknown name; suggests the nearest name.
  """
  if name not in LOSSES:
    raise errors.unknown_name('loss', str(name), LOSSES)
  return LOSSES[name]


def evaluate(
  loss: Loss, logits: Logits, image: jax.Array, label: jax.Array
) -> Evaluation:
  """Evaluates an objective and its gradient by one forward and backward pass.

  Args:
    loss: (logits [n, k], label [n]) -> values [n].
    logits: of images [n, h, w, c].
    image: the point of evaluation.
    label: y of the objective.
  """

  def total(x):
    outputs = logits(x).astype(jnp.float32)
    values = loss(outputs, label)
    return values.sum(), (values, outputs)

  gradient, (values, outputs) = jax.grad(total, has_aux=True)(image)
  return Evaluation(values, outputs, gradient)
