r"""Auto-PGD: PGD with momentum whose step sizes need no tuning.

  z       = P(x_k + eta u(grad f(x_k)))
  x_{k+1} = P(x_k + a (z - x_k) + (1 - a)(x_k - x_{k-1})),   a = 0.75

eta starts at 2 eps. At checkpoints w_j an image halves eta and continues from
its best point if too few steps since the last checkpoint raised the objective,
or if neither the best value nor eta has changed since then.
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

_MOMENTUM = 0.75
# Below this share of rising steps a checkpoint halves eta.
_MIN_RISING_SHARE = 0.75


class _Iterate(NamedTuple):
  """Images with the objective and its gradient."""

  image: Float[Array, 'n h w c']
  value: Float[Array, 'n']
  gradient: Float[Array, 'n h w c']


class _State(NamedTuple):
  """The state of a run.

  Attributes:
    current: the iterate.
    previous: the images of the iterate before it.
    best: the iterate with the highest value so far.
    step_size: eta.
    rises: number of rising steps since the last checkpoint.
    halved: whether the last checkpoint halved eta.
    checkpoint_value: the best value at the last checkpoint.
    adversarial: the last misclassified iterate; the start without any.
    success: whether some iterate was misclassified.
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
  """Returns w_1 < w_2 < ... up to `steps`.

  p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), and
  w_j = ceil(p_j steps).
  """
  previous, share, positions = 0.0, 0.22, []
  # The margins of 1e-9 undo rounding of the sums.
  while share <= 1 + 1e-9:
    positions.append(math.ceil(share * steps - 1e-9))
    previous, share = share, share + max(share - previous - 0.03, 0.06)
  return sorted(set(positions))


def _checkpoint_windows(steps: int) -> np.ndarray:
  """The length of the window that each step closes; 0 for none."""
  windows, previous = np.zeros(steps, np.int32), 0
  for position in checkpoints(steps):
    windows[position - 1], previous = position - previous, position
  return windows


def _initial_state(
  start: _Iterate, flipped: Bool[Array, 'n'], step_size: float
) -> _State:
  """The state before the first step."""
  return _State(
    current=start,
    previous=start.image,
    best=start,
    step_size=jnp.full(flipped.shape, step_size, jnp.float32),
    rises=jnp.zeros(flipped.shape, jnp.int32),
    # False, so that the first checkpoint may halve a run that is stuck.
    halved=jnp.zeros(flipped.shape, bool),
    checkpoint_value=start.value,
    adversarial=start.image,
    success=flipped,
  )


def _apply_checkpoint(state: _State, window: jax.Array) -> _State:
  """Halves step sizes at a checkpoint, which has a `window` above 0."""
  is_checkpoint = window > 0
  few_rises = state.rises < _MIN_RISING_SHARE * window
  stuck = ~state.halved & (state.best.value <= state.checkpoint_value)
  halve = is_checkpoint & (few_rises | stuck)
  # A smaller step restarts from the best point, as in the paper.
  return state._replace(
    current=protocol.select(halve, state.best, state.current),
    step_size=jnp.where(halve, state.step_size / 2, state.step_size),
    rises=jnp.where(is_checkpoint, 0, state.rises),
    halved=jnp.where(is_checkpoint, halve, state.halved),
    checkpoint_value=jnp.where(
      is_checkpoint, state.best.value, state.checkpoint_value
    ),
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

  The result is the last misclassified iterate of an image, or the iterate with
  the highest loss if there is none.

  References:
    Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks, arXiv 2003.01690, algorithm 1 and section 3.
  """
  eps = protocol.check_positive(radius, 'radius')
  count, _ = protocol.check_steps(steps, restarts)
  balls.check_norm(norm)
  objective = objectives.loss_by_name(loss)
  windows = _checkpoint_windows(count)

  def attack(key, logits, image, label):
    def evaluate(x):
      values = objectives.evaluate(objective, logits, x, label)
      iterate = _Iterate(x, values.value, values.gradient)
      return iterate, values.logits.argmax(-1) != label

    def move(i, state):
      current = state.current
      step = balls.expand_to_pixels(state.step_size)
      ahead = current.image + step * balls.steepest_direction(
        current.gradient, norm
      )
      z = balls.project_images(image, ahead, eps, norm)
      # The first step has no previous iterate to take momentum from.
      weight = jnp.where(i == 0, 1.0, _MOMENTUM)
      drift = (1 - weight) * (current.image - state.previous)
      pushed = current.image + weight * (z - current.image) + drift
      iterate, flipped = evaluate(
        balls.project_images(image, pushed, eps, norm)
      )
      moved = state._replace(
        current=iterate,
        previous=current.image,
        best=protocol.select(
          iterate.value > state.best.value, iterate, state.best
        ),
        # Rises count against the last iterate, the best value against all.
        rises=state.rises + (iterate.value > current.value),
        adversarial=protocol.select(flipped, iterate.image, state.adversarial),
        success=state.success | flipped,
      )
      return _apply_checkpoint(moved, jnp.asarray(windows)[i])

    start, flipped = evaluate(balls.draw_start(key, image, eps, norm))
    state = _initial_state(start, flipped, 2 * eps)
    end = jax.lax.fori_loop(0, count, move, state)
    # A later iterate may have left the misclassified region again.
    result = protocol.select(end.success, end.adversarial, end.best.image)
    return protocol.evaluate_images(logits, result, label)

  return protocol.with_checks(
    projected_gradient.with_restarts(attack, restarts)
  )
