r"""The search for a near adversarial image: PGD in balls of doubling radius.

For each image, from eps = eps_init: up to `steps` steps of PGD in the ball of
radius eps; at the first flip the image is frozen, after the last step eps
doubles. In [0, 1]^d no eps above D matters (sqrt(d) in l2, 1 in linf), so that
an image is given up after ceil(log2(D / eps_init)) doublings.

The whole batch is one loop, each image with a radius of its own. The loss is
the cross-entropy. Where its gradient vanishes, as it does for confident
networks, or where it led to no flip in a whole run, an image goes on with the
margin, which does not saturate.
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

# A gradient of the cross-entropy as short as this says nothing any more.
_VANISHED_GRADIENT = 1e-12


class _SearchState(NamedTuple):
  """The search of each image.

  Attributes:
    image: where it is.
    radius: eps.
    inner: steps done at this radius.
    doublings: of the radius.
    fallback: whether it goes by the margin.
    done: flipped, or given up.
    spent: gradients taken.
  """

  image: Float[Array, 'n h w c']
  radius: Float[Array, 'n']
  step: Int[Array, 'n']
  doublings: Int[Array, 'n']
  fallback: Bool[Array, 'n']
  finished: Bool[Array, 'n']
  gradients: Int[Array, 'n']


class _SearchSettings(NamedTuple):
  """The settings of a search, see `minimal`."""

  norm: str
  steps: int
  step: float
  warm_start: bool
  loss: objectives.Loss
  use_fallback: bool


def count_doublings(radius: float, norm: str, shape: tuple[int, ...]) -> int:
  """ceil(log2(D / radius)), at least 0: after so many a ball holds [0, 1]^d.

  Args:
    radius: the first one.
    norm: 'linf' or 'l2'.
    shape: of one image.
  """
  ratio = balls.diameter(norm, shape) / radius
  return max(0, math.ceil(math.log2(ratio) - 1e-9))


def _advance(
  rule: _SearchSettings,
  most: int,
  logits: objectives.Logits,
  image: jax.Array,
  label: jax.Array,
  state: _SearchState,
) -> _SearchState:
  """Looks at every image, then moves it, or widens its ball, or ends."""

  def each(found, wanted):
    plain = rule.loss(found, wanted)
    return jnp.where(state.fallback, objectives.margin(found, wanted), plain)

  at = objectives.evaluate(each, logits, state.image, label)
  flipped = at.logits.argmax(-1) != label
  going = ~state.finished & ~flipped
  full = going & (state.step >= rule.steps)
  vanished = balls.image_norms(at.gradient, 'l2') < _VANISHED_GRADIENT
  widest = state.doublings >= most
  # The widest ball is searched by the margin too before it is given up.
  lost = full & widest & (state.fallback | (not rule.use_fallback))
  wider = full & ~widest
  moving = going & ~full
  unit = balls.steepest_direction(at.gradient, rule.norm)
  length = balls.expand_to_pixels(rule.step * state.radius)
  moved = balls.project_images(
    image, state.image + length * unit, state.radius, rule.norm
  )
  begun = state.image if rule.warm_start else image
  begun = jnp.where(balls.expand_to_pixels(full & ~lost), begun, state.image)
  return _SearchState(
    jnp.where(balls.expand_to_pixels(moving), moved, begun),
    jnp.where(wider, 2 * state.radius, state.radius),
    jnp.where(full, 0, state.step + moving),
    state.doublings + wider,
    state.fallback | (going & (full | vanished) & rule.use_fallback),
    state.finished | flipped | lost,
    state.gradients + ~state.finished,
  )


def _search(
  rule: _SearchSettings,
  start: float,
  logits: objectives.Logits,
  image: jax.Array,
  label: jax.Array,
) -> protocol.AttackResult:
  count = label.shape
  most = count_doublings(start, rule.norm, image.shape[1:])
  state = _SearchState(
    image,
    jnp.full(count, start, jnp.float32),
    jnp.zeros(count, jnp.int32),
    jnp.zeros(count, jnp.int32),
    jnp.zeros(count, bool),
    jnp.zeros(count, bool),
    jnp.zeros(count, jnp.int32),
  )
  end = jax.lax.while_loop(
    lambda s: ~s.finished.all(),
    lambda s: _advance(rule, most, logits, image, label, s),
    state,
  )
  found = protocol.evaluate_images(logits, end.image, label)
  return found._replace(
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

  An image that is misclassified already is returned as it is. One that never
  flips is returned where it was last, with success False.

  Args:
    radius: eps_init of pixels in [0, 1]; 0.04 for CIFAR-10 (see
      `adversarial_sets.initial_radius`).
    norm: 'l2' or 'linf'.
    steps: of PGD at each radius.
    step: length of a step, as a share of the radius. An image goes past the
      boundary by less than a step.
    warm_start: a wider ball goes on where the narrower one ended, as released;
      False begins it at the image, as the paper's pseudocode reads.
    loss: 'cross_entropy', 'margin' or 'dlr'.
    fallback: whether images for which that loss fails go on with the margin;
      which ones did is in the result.

  Raises:
    UserError: a number that is not above 0, an unknown norm or loss.

  References:
    AMUN, arXiv 2503.00917, algorithm 1 (l2 PGD of 50 steps of 0.1 eps, no cap
    on eps, no fallback).
  """
  start = protocol.check_positive(radius, 'radius')
  share = protocol.check_positive(step, 'step')
  count = protocol.check_count(steps, 'steps')
  balls.check_norm(norm)
  errors.check(
    share <= 1,
    f'step {share} of the attack is a share of the radius; give 1 or less',
  )
  each = objectives.loss_by_name(loss)
  rule = _SearchSettings(
    norm, count, share, warm_start, each, fallback and loss != 'margin'
  )

  def attack(key, logits, image, label):
    del key
    return _search(rule, start, logits, image, label)

  return protocol.with_checks(attack)
