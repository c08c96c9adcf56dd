r"""FGSM and FFGSM: one step.

FGSM   x' = x + eps sign(d loss / dx)
FFGSM  x' = P(x0 + alpha sign(d loss(x0) / dx)),  x0 uniform in the eps-cube

with P the projection on the cube, and everything clipped to [0, 1].
"""

import functools

from cmu_jax.robustness.attacks import kind, norms, objectives
from cmu_jax.robustness.attacks.kind import Attack


@functools.lru_cache(maxsize=64)
def fgsm(
  radius: float, norm: str = 'linf', loss: str = 'cross_entropy'
) -> Attack:
  """The fast gradient sign method; along the gradient itself in l2.

  Args:
    radius: eps, of pixels in [0, 1].
    norm: 'linf' or 'l2'.
    loss: 'cross_entropy', 'margin' or 'dlr'.

  Raises:
    UserError: a radius that is not above 0, an unknown norm or loss.

  References:
    Explaining and Harnessing Adversarial Examples, arXiv 1412.6572, section 4.
  """
  far = kind.positive(radius, 'radius')
  norms.check(norm)
  each = objectives.of(loss)

  def attack(key, logits, image, label):
    del key
    gradient = objectives.ascent(each, logits, image, label).gradient
    moved = image + far * norms.direction(gradient, norm)
    return kind.outcome(logits, norms.inside(image, moved, far, norm), label)

  return kind.checked(attack)


@functools.lru_cache(maxsize=64)
def ffgsm(radius: float, step: float, loss: str = 'cross_entropy') -> Attack:
  """FGSM from a random point of the linf ball.

  Args:
    radius: eps, of pixels in [0, 1].
    step: alpha; the paper takes 1.25 eps.
    loss: 'cross_entropy', 'margin' or 'dlr'.

  Raises:
    UserError: a radius or step that is not above 0, an unknown loss.

  References:
    Fast is better than free, arXiv 2001.03994, algorithm 3.
  """
  far = kind.positive(radius, 'radius')
  length = kind.positive(step, 'step')
  each = objectives.of(loss)

  def attack(key, logits, image, label):
    start = norms.random_start(key, image, far, 'linf')
    gradient = objectives.ascent(each, logits, start, label).gradient
    moved = start + length * norms.direction(gradient, 'linf')
    return kind.outcome(logits, norms.inside(image, moved, far, 'linf'), label)

  return kind.checked(attack)
