r"""A march along one FGSM direction until the prediction changes.

  x_k = clip(b + k eps u(d loss(b) / dx)),  k = 1, 2, ..., up to `marches`

from b = x; an image that has not flipped by then restarts at x plus a small
random perturbation, with a new direction. The march is quicker than PGD in
balls of doubling radius, and passes the boundary by more.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cmu_jax.robustness.attacks import balls, objectives, protocol
from cmu_jax.robustness.attacks.protocol import Attack


class _State(NamedTuple):
  """The march of each image.

  Attributes:
    image: the iterate.
    success: whether the iterate is misclassified.
    gradients: number of gradients.
    trial: number of marches begun.
  """

  image: Float[Array, 'n h w c']
  success: Bool[Array, 'n']
  gradients: Int[Array, 'n']
  trial: Int[Array, '']


@functools.lru_cache(maxsize=64)
def march(
  radius: float,
  norm: str = 'l2',
  marches: int = 10,
  restarts: int = 20,
  loss: str = 'cross_entropy',
) -> Attack:
  """The FFGSM variant of AMUN's adversarial images.

  Args:
    radius: eps, the length of a step, and of the noise in each pixel.
    norm: 'l2', steps along the gradient of length eps; 'linf', its signs times
      eps.
    marches: steps before a restart.
    restarts: number of restarts at most.

  References:
    AMUN, arXiv 2503.00917, appendix on FFGSM (single steps of arXiv
    2001.03994). It gives no step length and no numbers of steps and restarts:
    the defaults are ours.
  """
  eps = protocol.check_positive(radius, 'radius')
  protocol.check_count(marches, 'marches')
  count, limit = protocol.check_steps(marches, restarts)
  balls.check_norm(norm)
  objective = objectives.loss_by_name(loss)

  def attack(key, logits, image, label):
    def is_flipped(x):
      return logits(x).argmax(-1) != label

    def run_march(state):
      noise = balls.draw_start(
        jax.random.fold_in(key, state.trial), image, eps, 'linf'
      )
      # Only restarts need noise: from the image itself the march is shortest.
      base = jnp.where(state.trial == 0, image, noise)
      gradient = objectives.evaluate(objective, logits, base, label).gradient
      unit = balls.steepest_direction(gradient, norm)

      def step(i, carry):
        stopped, success = carry
        x = jnp.clip(base + (i + 1) * eps * unit, 0.0, 1.0)
        x = protocol.select(success, stopped, x)
        # A frozen image stays frozen: the march stops at its first flip.
        return x, success | is_flipped(x)

      moved, success = jax.lax.fori_loop(
        0, count, step, (state.image, state.success)
      )
      # One gradient a march, and none for images that have finished.
      gradients = state.gradients + ~state.success
      return _State(moved, success, gradients, state.trial + 1)

    zeros = jnp.zeros(label.shape, jnp.int32)
    start = _State(image, is_flipped(image), zeros, jnp.int32(0))
    end = jax.lax.while_loop(
      lambda s: (s.trial <= limit) & ~s.success.all(), run_march, start
    )
    result = protocol.evaluate_images(logits, end.image, label)
    return result._replace(gradients=end.gradients)

  return protocol.with_checks(attack)
