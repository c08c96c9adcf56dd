r"""PGD: repeated steps up the loss, each projected on the ball.

x_{t+1} = P(x_t + alpha u(d loss(x_t) / dx)),  u = sign (linf), g / ||g|| (l2)
"""

import functools

import jax

from cmu_jax.core import errors
from cmu_jax.robustness.attacks import kind, norms, objectives
from cmu_jax.robustness.attacks.kind import Attack


def repeated(attack: Attack, restarts: int) -> Attack:
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
      return kind.either(best, attack(folded, logits, image, label))

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
  far = kind.positive(radius, 'radius')
  count = kind.counted(steps, 'steps')
  length = 2.5 * far / count if step is None else kind.positive(step, 'step')
  norms.check(norm)
  each = objectives.of(loss)
  errors.check(
    kind.counted(restarts, 'restarts') == 1 or random_start,
    f'{restarts} restarts without random_start are all the same; set '
    'random_start or restarts=1',
  )

  def attack(key, logits, image, label):
    def move(_, x):
      gradient = objectives.ascent(each, logits, x, label).gradient
      moved = x + length * norms.direction(gradient, norm)
      return norms.inside(image, moved, far, norm)

    start = norms.random_start(key, image, far, norm) if random_start else image
    return kind.outcome(logits, jax.lax.fori_loop(0, count, move, start), label)

  return kind.checked(repeated(attack, restarts))
