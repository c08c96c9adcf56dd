r"""Auto-PGD: PGD with momentum whose step sizes need no tuning.

  z       = P(x_k + eta u(grad f(x_k)))
  x_{k+1} = P(x_k + a (z - x_k) + (1 - a)(x_k - x_{k-1})),   a = 0.75

eta starts at 2 eps. At checkpoints w_j an image that rose in too few of the
steps since the last one, or that neither found a better point nor had its step
halved there, halves eta and goes on from its best point.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cmu_jax.robustness.attacks import (
  balls,
  objectives,
  projected_gradient,
  protocol,
)
from cmu_jax.robustness.attacks.protocol import Attack

# Momentum, and the share of rising steps below which eta is halved.
_MOMENTUM, _MIN_RISING_SHARE = 0.75, 0.75


class _Iterate(NamedTuple):
  """Images with the objective and its gradient."""

  image: Float[Array, 'n h w c']
  value: Float[Array, 'n']
  gradient: Float[Array, 'n h w c']


class _State(NamedTuple):
  """A run.

  Attributes:
    now: the iterate.
    before: the one before it.
    best: the highest value so far.
    step: eta.
    rises: steps since the checkpoint that rose.
    halved: whether the last checkpoint halved eta.
    reached: the best value at the last checkpoint.
    found: the last iterate that was misclassified, else the image.
    hit: whether there was one.
  """

  current: _Iterate
  previous: Float[Array, 'n h w c']
  best: _Iterate
  step_size: Float[Array, 'n']
  rises: Int[Array, 'n']
  halved: Bool[Array, 'n']
  checkpoint_value: Float[Array, 'n']
  adversarial: Float[Array, 'n h w c']
  success: Bool[Array, 'n']


def checkpoints(steps: int) -> list[int]:
  """w_1 < w_2 < ... up to `steps`.

  p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), and
  w_j = ceil(p_j steps).
  """
  last, share, found = 0.0, 0.22, []
  while share <= 1 + 1e-9:
    found.append(math.ceil(share * steps - 1e-9))
    last, share = share, share + max(share - last - 0.03, 0.06)
  return sorted(set(found))


def _checkpoint_windows(steps: int) -> np.ndarray:
  """After each step: how many steps it closes a window of; 0 for none."""
  windows, last = np.zeros(steps, np.int32), 0
  for at in checkpoints(steps):
    windows[at - 1], last = at - last, at
  return windows


def _select(where: jax.Array, first: _Iterate, second: _Iterate) -> _Iterate:
  return jax.tree.map(
    lambda a, b: jnp.where(where.reshape(-1, *(1,) * (a.ndim - 1)), a, b),
    first,
    second,
  )


def _apply_checkpoint(state: _State, window: jax.Array) -> _State:
  """What a checkpoint does, if `window` is not 0."""
  here = window > 0
  few = state.rises < _MIN_RISING_SHARE * window
  stuck = ~state.halved & (state.best.value <= state.checkpoint_value)
  halve = here & (few | stuck)
  return state._replace(
    current=_select(halve, state.best, state.current),
    step_size=jnp.where(halve, state.step_size / 2, state.step_size),
    rises=jnp.where(here, 0, state.rises),
    halved=jnp.where(here, halve, state.halved),
    checkpoint_value=jnp.where(here, state.best.value, state.checkpoint_value),
  )


@functools.lru_cache(maxsize=64)
def autopgd(
  radius: float,
  norm: str = 'linf',
  steps: int = 100,
  restarts: int = 1,
  loss: str = 'cross_entropy',
) -> Attack:
  """Auto-PGD from a random point (APGD-CE, APGD-DLR, or on the margin).

  An image that was misclassified at any iterate is returned there, another one
  at the highest loss.

  Args:
    radius: eps, of pixels in [0, 1].
    norm: 'linf' or 'l2'.
    steps: of each run.
    restarts: runs; an image keeps its first success.
    loss: 'cross_entropy', 'dlr' (three classes or more) or 'margin'.

  Raises:
    UserError: a number that is not above 0, an unknown norm or loss.

  References:
    Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks, arXiv 2003.01690, algorithm 1 and section 3.
  """
  far = protocol.check_positive(radius, 'radius')
  count = protocol.check_count(steps, 'steps')
  protocol.check_count(restarts, 'restarts')
  balls.check_norm(norm)
  each = objectives.loss_by_name(loss)
  windows = _checkpoint_windows(count)

  def attack(key, logits, image, label):
    def see(x):
      at = objectives.evaluate(each, logits, x, label)
      return _Iterate(x, at.value, at.gradient), at.logits.argmax(-1) != label

    def move(i, state):
      now, step = state.current, balls.expand_to_pixels(state.step_size)
      ahead = now.image + step * balls.steepest_direction(now.gradient, norm)
      z = balls.project_images(image, ahead, far, norm)
      keep = jnp.where(i == 0, 1.0, _MOMENTUM)
      drift = (1 - keep) * (now.image - state.previous)
      pushed = now.image + keep * (z - now.image) + drift
      point, flipped = see(balls.project_images(image, pushed, far, norm))
      moved = state._replace(
        current=point,
        previous=now.image,
        best=_select(point.value > state.best.value, point, state.best),
        rises=state.rises + (point.value > now.value),
        adversarial=jnp.where(
          balls.expand_to_pixels(flipped), point.image, state.adversarial
        ),
        success=state.success | flipped,
      )
      return _apply_checkpoint(moved, jnp.asarray(windows)[i])

    start, flipped = see(balls.draw_start(key, image, far, norm))
    state = _State(
      start,
      start.image,
      start,
      jnp.full(label.shape, 2 * far, jnp.float32),
      jnp.zeros(label.shape, jnp.int32),
      jnp.zeros(label.shape, bool),
      start.value,
      start.image,
      flipped,
    )
    end = jax.lax.fori_loop(0, count, move, state)
    reached = balls.expand_to_pixels(end.success)
    return protocol.evaluate_images(
      logits, jnp.where(reached, end.adversarial, end.best.image), label
    )

  return protocol.with_checks(
    projected_gradient.with_restarts(attack, restarts)
  )
