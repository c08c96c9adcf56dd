r"""FGSM, FFGSM and PGD: steps up the loss, projected on a norm ball.

FGSM   x' = P(x + eps u(d loss / dx))
FFGSM  x' = P(x0 + alpha u(d loss(x0) / dx)),  x0 uniform in the ball
PGD    x_{t+1} = P(x_t + alpha u(d loss(x_t) / dx))

with u = sign (linf) or g / ||g|| (l2), and P the projection on the ball and on
[0, 1].
"""

import functools

import jax

from cmu_jax.core import errors
from cmu_jax.robustness.attacks import balls, objectives, protocol
from cmu_jax.robustness.attacks.protocol import Attack


def fgsm(
  radius: float, norm: str = 'linf', loss: str = 'cross_entropy'
) -> Attack:
  """The fast gradient sign method; along the gradient itself in l2.

  References:
    Explaining and Harnessing Adversarial Examples, arXiv 1412.6572, section 4.
  """
  return pgd(radius, norm, 1, radius, random_start=False, loss=loss)


def ffgsm(radius: float, step: float, loss: str = 'cross_entropy') -> Attack:
  """FGSM from a random point of the linf ball.

  Args:
    step: alpha; the paper takes 1.25 eps, so that a step reaches the boundary
      from any start.

  References:
    Fast is better than free, arXiv 2001.03994, algorithm 3.
  """
  return pgd(radius, 'linf', 1, step, loss=loss)


def with_restarts(attack: Attack, restarts: int) -> Attack:
  """Returns an attack that runs several times and keeps its successes.

  Args:
    attack: a random attack; each run has a key of its own.
    restarts: number of runs, 1 or more.
  """
  if restarts == 1:
    return attack

  def run(key, logits, image, label):
    def restart(i, best):
      folded = jax.random.fold_in(key, i)
      repeated = attack(folded, logits, image, label)
      return protocol.select(best.success, best, repeated)

    # The first run has the plain key, so one restart equals none.
    start = attack(key, logits, image, label)
    return jax.lax.fori_loop(1, restarts, restart, start)

  return run


# The caches of all factories make equal settings share one compilation.
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
    step: alpha; None for 2.5 radius / steps.
    random_start: begin at a uniform point of the ball, not at the image.

  Raises:
    UserError: restarts without a random start.

  References:
    Towards Deep Learning Models Resistant to Adversarial Attacks, arXiv
    1706.06083, section 2.1 and (step sizes) appendix.
  """
  eps = protocol.check_positive(radius, 'radius')
  count, runs = protocol.check_steps(steps, restarts)
  alpha = (
    2.5 * eps / count if step is None else protocol.check_positive(step, 'step')
  )
  balls.check_norm(norm)
  objective = objectives.loss_by_name(loss)
  errors.check(
    runs == 1 or random_start,
    f'{restarts} restarts without random_start are all the same; set '
    'random_start or restarts=1',
  )

  def attack(key, logits, image, label):
    def move(_, x):
      gradient = objectives.evaluate(objective, logits, x, label).gradient
      moved = x + alpha * balls.steepest_direction(gradient, norm)
      return balls.project_images(image, moved, eps, norm)

    start = balls.draw_start(key, image, eps, norm) if random_start else image
    end = jax.lax.fori_loop(0, count, move, start)
    return protocol.evaluate_images(logits, end, label)

  return protocol.with_checks(with_restarts(attack, restarts))
