r"""The search for a near adversarial image: PGD in balls of doubling radius.

For each image, from eps = eps_init: up to `steps` steps of PGD in the ball of
radius eps; the first flip freezes the image, and after the last step eps
doubles. In [0, 1]^d no eps above D matters (sqrt(d) in l2, 1 in linf), so that
the search gives up after ceil(log2(D / eps_init)) doublings.

The whole batch is one loop, in which each image has its own radius. An image
switches from the cross-entropy to the margin if a run brings no flip, or if the
gradient vanishes, as it does for confident networks.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cmu_jax.core import errors
from cmu_jax.robustness.attacks import balls, objectives, protocol
from cmu_jax.robustness.attacks.protocol import Attack

# A shorter gradient of the cross-entropy is rounding.
_VANISHED_GRADIENT = 1e-12


class _SearchState(NamedTuple):
  """The search of each image.

  Attributes:
    image: the iterate.
    radius: eps.
    step: number of steps at this radius.
    doublings: of the radius.
    fallback: whether the search follows the margin.
    finished: flipped, or given up.
    gradients: number of gradients.
  """

  image: Float[Array, 'n h w c']
  radius: Float[Array, 'n']
  step: Int[Array, 'n']
  doublings: Int[Array, 'n']
  fallback: Bool[Array, 'n']
  finished: Bool[Array, 'n']
  gradients: Int[Array, 'n']


class _SearchSettings(NamedTuple):
  """The settings of a search, see `minimal_pgd`."""

  norm: str
  steps: int
  step: float
  warm_start: bool
  loss: objectives.Loss
  use_fallback: bool


def count_doublings(radius: float, norm: str, shape: tuple[int, ...]) -> int:
  """Returns ceil(log2(D / radius)), at least 0.

  After this number of doublings a ball contains [0, 1]^d.

  Args:
    radius: the initial radius.
    norm: 'linf' or 'l2'.
    shape: of one image.
  """
  ratio = balls.diameter(norm, shape) / radius
  # The margin keeps exact powers of two from one more doubling.
  return max(0, math.ceil(math.log2(ratio) - 1e-9))


def _advance(
  settings: _SearchSettings,
  max_doublings: int,
  logits: objectives.Logits,
  image: jax.Array,
  label: jax.Array,
  state: _SearchState,
) -> _SearchState:
  """Evaluates every image, then moves it, widens its ball, or ends."""

  def loss(outputs, classes):
    plain = settings.loss(outputs, classes)
    return jnp.where(state.fallback, objectives.margin(outputs, classes), plain)

  values = objectives.evaluate(loss, logits, state.image, label)
  flipped = values.logits.argmax(-1) != label
  active = ~state.finished & ~flipped
  run_ended = active & (state.step >= settings.steps)
  vanished = balls.image_norms(values.gradient, 'l2') < _VANISHED_GRADIENT
  widest = state.doublings >= max_doublings
  # The margin searches the widest ball, too, before the search gives up.
  no_fallback = state.fallback | (not settings.use_fallback)
  given_up = run_ended & widest & no_fallback
  doubled = run_ended & ~widest
  moving = active & ~run_ended
  unit = balls.steepest_direction(values.gradient, settings.norm)
  # Steps grow with the ball, so that its boundary stays in reach.
  length = balls.expand_to_pixels(settings.step * state.radius)
  moved = balls.project_images(
    image, state.image + length * unit, state.radius, settings.norm
  )
  # Only a run that ends here and goes on has a new start.
  restart = state.image if settings.warm_start else image
  restart = protocol.select(run_ended & ~given_up, restart, state.image)
  return _SearchState(
    protocol.select(moving, moved, restart),
    jnp.where(doubled, 2 * state.radius, state.radius),
    jnp.where(run_ended, 0, state.step + moving),
    state.doublings + doubled,
    state.fallback | (active & (run_ended | vanished) & settings.use_fallback),
    state.finished | flipped | given_up,
    state.gradients + ~state.finished,
  )


def _search(
  settings: _SearchSettings,
  radius: float,
  logits: objectives.Logits,
  image: jax.Array,
  label: jax.Array,
) -> protocol.AttackResult:
  """Searches until every image has flipped or is given up."""
  count = label.shape
  limit = count_doublings(radius, settings.norm, image.shape[1:])
  state = _SearchState(
    image,
    jnp.full(count, radius, jnp.float32),
    jnp.zeros(count, jnp.int32),
    jnp.zeros(count, jnp.int32),
    jnp.zeros(count, bool),
    jnp.zeros(count, bool),
    jnp.zeros(count, jnp.int32),
  )
  # Finished images wait for the slowest image of the batch.
  end = jax.lax.while_loop(
    lambda s: ~s.finished.all(),
    lambda s: _advance(settings, limit, logits, image, label, s),
    state,
  )
  result = protocol.evaluate_images(logits, end.image, label)
  return result._replace(
    radius=end.radius, fallback=end.fallback, gradients=end.gradients
  )


@functools.lru_cache(maxsize=64)
def minimal_pgd(
  radius: float,
  norm: str = 'l2',
  steps: int = 50,
  step: float = 0.1,
  warm_start: bool = True,
  loss: str = 'cross_entropy',
  fallback: bool = True,
) -> Attack:
  """Adversarial images near the decision boundary, not the very nearest.

  An image that is misclassified from the start does not move. An image that
  never flips is returned as its last iterate, with success False.

  Args:
    radius: eps_init of pixels in [0, 1]; 0.04 for CIFAR-10 (see
      `adversarial_sets.choose_radius`).
    steps: of PGD at each radius.
    step: length of a step, as a share of the radius. An image passes the
      boundary by less than a step.
    warm_start: a wider ball starts at the last iterate, as released; False
      starts it at the image, as in the paper's pseudocode.
    fallback: whether images for which the loss fails continue with the margin;
      the result marks them.

  References:
    AMUN, arXiv 2503.00917, algorithm 1 (l2 PGD of 50 steps of 0.1 eps, no cap
    on eps, no fallback).
  """
  eps = protocol.check_positive(radius, 'radius')
  share = protocol.check_positive(step, 'step')
  count, _ = protocol.check_steps(steps)
  balls.check_norm(norm)
  errors.check(
    share <= 1,
    f'step {share} of the attack is a share of the radius; give 1 or less',
  )
  objective = objectives.loss_by_name(loss)
  settings = _SearchSettings(
    # The margin itself has nothing to fall back to.
    norm,
    count,
    share,
    warm_start,
    objective,
    fallback and loss != 'margin',
  )

  def attack(key, logits, image, label):
    del key
    return _search(settings, eps, logits, image, label)

  return protocol.with_checks(attack)
