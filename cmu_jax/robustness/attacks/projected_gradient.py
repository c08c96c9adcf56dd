"""FGSM and FFGSM: one step.

FGSM   x' = x + eps sign(d loss / dx)
FFGSM  x' = P(x0 + alpha sign(d loss(x0) / dx)),  x0 uniform in the eps-cube

with P the projection on the cube, and everything clipped to [0, 1].

PGD: repeated steps up the loss, each projected on the ball.

x_{t+1} = P(x_t + alpha u(d loss(x_t) / dx)),  u = sign (linf), g / ||g|| (l2)
"""

import functools

import jax

from cmu_jax.core import errors
from cmu_jax.robustness.attacks import balls, objectives, protocol
from cmu_jax.robustness.attacks.protocol import Attack


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
  far = protocol.check_positive(radius, 'radius')
  balls.check_norm(norm)
  each = objectives.loss_by_name(loss)

  def attack(key, logits, image, label):
    del key
    gradient = objectives.evaluate(each, logits, image, label).gradient
    moved = image + far * balls.steepest_direction(gradient, norm)
    return protocol.evaluate_images(
      logits, balls.project_images(image, moved, far, norm), label
    )

  return protocol.with_checks(attack)


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
  far = protocol.check_positive(radius, 'radius')
  length = protocol.check_positive(step, 'step')
  each = objectives.loss_by_name(loss)

  def attack(key, logits, image, label):
    start = balls.draw_start(key, image, far, 'linf')
    gradient = objectives.evaluate(each, logits, start, label).gradient
    moved = start + length * balls.steepest_direction(gradient, 'linf')
    return protocol.evaluate_images(
      logits, balls.project_images(image, moved, far, 'linf'), label
    )

  return protocol.with_checks(attack)


def with_restarts(attack: Attack, restarts: int) -> Attack:
  """An attack begun afresh, from keys of their own; successes are kept.

  Args:
    attack: what is repeated; with one key it always does the same.
    restarts: how often it runs, 1 or more.
  """
  if restarts == 1:
    return attack

  def run(key, logits, image, label):
    def again(i, best):
      folded = jax.random.fold_in(key, i)
      return protocol.prefer_success(best, attack(folded, logits, image, label))

    first = attack(key, logits, image, label)
    return jax.lax.fori_loop(1, restarts, again, first)

  return run


@functools.lru_cache(maxsize=64)
def pgd(
  radius: float,
  norm: str = 'linf',
  steps: int = 50,
  step: float | None = None,
  random_start: bool = True,
  restarts: int = 1,
  loss: str = 'cross_entropy',
) -> Attack:
  """Projected gradient ascent; returns the last iterate.

  Args:
    radius: eps, of pixels in [0, 1].
    norm: 'linf' or 'l2'.
    steps: of each run.
    step: alpha; None for 2.5 radius / steps.
    random_start: begin at a uniform point of the ball, not at the image.
    restarts: runs; an image keeps its first success.
    loss: 'cross_entropy'; 'margin' or 'dlr', which do not saturate.

  Raises:
    UserError: a number that is not above 0, an unknown norm or loss, or
      restarts of what is not random.

  References:
    Towards Deep Learning Models Resistant to Adversarial Attacks, arXiv
    1706.06083, section 2.1 and (step sizes) appendix.
  """
  far = protocol.check_positive(radius, 'radius')
  count = protocol.check_count(steps, 'steps')
  length = (
    2.5 * far / count if step is None else protocol.check_positive(step, 'step')
  )
  balls.check_norm(norm)
  each = objectives.loss_by_name(loss)
  errors.check(
    protocol.check_count(restarts, 'restarts') == 1 or random_start,
    f'{restarts} restarts without random_start are all the same; set '
    'random_start or restarts=1',
  )

  def attack(key, logits, image, label):
    def move(_, x):
      gradient = objectives.evaluate(each, logits, x, label).gradient
      moved = x + length * balls.steepest_direction(gradient, norm)
      return balls.project_images(image, moved, far, norm)

    start = balls.draw_start(key, image, far, norm) if random_start else image
    return protocol.evaluate_images(
      logits, jax.lax.fori_loop(0, count, move, start), label
    )

  return protocol.with_checks(with_restarts(attack, restarts))
