"""What attacks raise, one value an image; and its gradient in the pixels.

Cross-entropy underflows for confident networks: where exp(-gap) is 0 in
float32 there is no gradient left. Margins are differences of logits and do not
saturate; all of them are positive exactly where the image is misclassified.
"""

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
    gradient: of the sum of the values, so that no image's is divided by n.
  """

  value: Float[Array, 'n']
  logits: Float[Array, 'n k']
  gradient: Float[Array, 'n h w c']


def _largest_other_logit(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Float[Array, 'n']:
  """The largest logit of another class."""
  own = jnp.arange(logits.shape[-1])[None, :] == label[:, None]
  return jnp.where(own, -jnp.inf, logits).max(-1)


def _label_logit(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Float[Array, 'n']:
  return jnp.take_along_axis(logits, label[:, None], -1)[:, 0]


def margin(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Float[Array, 'n']:
  """max over j != y of z_j - z_y (Towards Evaluating the Robustness of Neural
  Networks, arXiv 1608.04644, section V-A)."""
  return _largest_other_logit(logits, label) - _label_logit(logits, label)


def dlr(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Float[Array, 'n']:
  """The margin divided by the gap of the largest and the third largest logit.

  It does not change when logits are shifted or scaled.

  Raises:
    UserError: fewer than three classes.

  References:
    Difference of logits ratio, arXiv 2003.01690, equation 6.
  """
  errors.check(
    logits.shape[-1] >= 3,
    f"loss 'dlr' needs 3 classes, there are {logits.shape[-1]}; use 'margin'",
  )
  top = jax.lax.top_k(logits, 3)[0]
  return margin(logits, label) / (top[:, 0] - top[:, 2] + 1e-12)


LOSSES: dict[str, Loss] = {
  'cross_entropy': metrics.cross_entropy,
  'margin': margin,
  'dlr': dlr,
}


def loss_by_name(name: str) -> Loss:
  """The objective of this name.

  Raises:
    UserError: there is none; names the nearest one.
  """
  if name not in LOSSES:
    raise errors.unknown_name('loss', str(name), LOSSES)
  return LOSSES[name]


def evaluate(
  each: Loss, logits: Logits, image: jax.Array, label: jax.Array
) -> Evaluation:
  """An objective, the logits and the gradient, by one forward and one backward
  pass.

  Args:
    each: (logits [n, k], label [n]) -> values [n].
    logits: of images [n, h, w, c].
    image: where.
    label: y of the objective.
  """

  def total(x):
    found = logits(x).astype(jnp.float32)
    values = each(found, label)
    return values.sum(), (values, found)

  gradient, (values, found) = jax.grad(total, has_aux=True)(image)
  return Evaluation(values, found, gradient)
