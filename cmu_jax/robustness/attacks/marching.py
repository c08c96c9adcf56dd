r"""Marching along one FGSM direction until the prediction changes.

  x_k = clip(b + k eps u(d loss(b) / dx)),  k = 1, 2, ..., up to `marches`

from b = x; an image that has not flipped by then begins again at x plus a small
random perturbation, with a direction of its own. It is quicker than PGD in
balls of doubling radius, and goes further than it has to.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cmu_jax.robustness.attacks import balls, objectives, protocol
from cmu_jax.robustness.attacks.protocol import Attack


class _State(NamedTuple):
  """Where each image is.

  Attributes:
    image: as far as it got.
    done: whether it is misclassified there.
    spent: gradients taken.
    trial: how often marches began.
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

  The paper gives neither the length of a step nor how often it marches and
  restarts: the defaults are ours.

  Args:
    radius: eps, the length of a step, and of the noise in each pixel.
    norm: 'l2', steps along the gradient of length eps; 'linf', its signs times
      eps.
    marches: steps before it begins again.
    restarts: how often it does.
    loss: 'cross_entropy', 'margin' or 'dlr'.

  Raises:
    UserError: a number that is not above 0, an unknown norm or loss.

  References:
    AMUN, arXiv 2503.00917, appendix on FFGSM (single steps of arXiv
    2001.03994).
  """
  length = protocol.check_positive(radius, 'radius')
  count = protocol.check_count(marches, 'marches')
  most = protocol.check_count(restarts, 'restarts')
  balls.check_norm(norm)
  each = objectives.loss_by_name(loss)

  def attack(key, logits, image, label):
    def flipped(x):
      return logits(x).argmax(-1) != label

    def begin(state):
      noise = balls.draw_start(
        jax.random.fold_in(key, state.trial), image, length, 'linf'
      )
      base = jnp.where(state.trial == 0, image, noise)
      gradient = objectives.evaluate(each, logits, base, label).gradient
      unit = balls.steepest_direction(gradient, norm)

      def step(i, now):
        x = jnp.clip(base + (i + 1) * length * unit, 0.0, 1.0)
        x = jnp.where(balls.expand_to_pixels(now[1]), now[0], x)
        return x, now[1] | flipped(x)

      found, done = jax.lax.fori_loop(
        0, count, step, (state.image, state.success)
      )
      spent = state.gradients + ~state.success
      return _State(found, done, spent, state.trial + 1)

    none = jnp.zeros(label.shape, jnp.int32)
    start = _State(image, flipped(image), none, jnp.int32(0))
    end = jax.lax.while_loop(
      lambda s: (s.trial <= most) & ~s.success.all(), begin, start
    )
    found = protocol.evaluate_images(logits, end.image, label)
    return found._replace(gradients=end.gradients)

  return protocol.with_checks(attack)
