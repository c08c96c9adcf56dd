"""Learning-rate schedules of the two training procedures, as optax schedules.

Every schedule is a function of the optimiser step t = 0, 1, ... A schedule
whose unit is an epoch changes only when t crosses a multiple of `unit_steps`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from cmu_jax.core import errors


def cosine(
  peak: float, units: int, minimum: float = 0.0, unit_steps: int = 1
) -> optax.Schedule:
  """Cosine from `peak` at unit 0 to `minimum` at unit `units`.

  Source: the recipes of CUTS (arXiv 2511.18660) for networks from scratch.
  """
  return warmup_cosine(peak, 0, 0, units, minimum, unit_steps)


def warmup_cosine(
  peak: float,
  warmup: int,
  hold: int,
  units: int,
  minimum: float = 0.0,
  unit_steps: int = 1,
) -> optax.Schedule:
  """Linear warm-up from exactly 0, a plateau, then a cosine to `minimum`.

  Unit u has the rate peak u / warmup for u < warmup (so unit 0 is a no-op),
  peak for `hold` more units, and then
  minimum + (peak - minimum) (1 + cos(pi (u - warmup - hold) / rest)) / 2 with
  rest = units - warmup - hold. Source: CUTS recipes.

  Raises:
    UserError: warm-up and plateau together are not shorter than `units`.
  """
  rest = units - warmup - hold
  errors.check(
    rest > 0,
    f'schedule: warmup {warmup} + hold {hold} must be below {units} units; '
    'shorten them or train longer',
  )

  def schedule(step):
    unit = jnp.asarray(step) // unit_steps
    fraction = jnp.clip((unit - warmup - hold) / rest, 0.0, 1.0)
    decayed = minimum + (peak - minimum) * (1 + jnp.cos(jnp.pi * fraction)) / 2
    return jnp.where(unit < warmup, peak * unit / max(warmup, 1), decayed)

  return schedule


def multistep(
  peak: float, milestones: Sequence[int], factor: float, unit_steps: int = 1
) -> optax.Schedule:
  """`peak` times `factor` for every milestone (in units) reached."""
  edges = jnp.asarray(milestones)

  def schedule(step):
    unit = jnp.asarray(step) // unit_steps
    return peak * jnp.power(factor, jnp.sum(edges <= unit))

  return schedule


def procedure_a(peak: float, steps: int) -> optax.Schedule:
  """The linear schedule of the corrective benchmark's procedure A.

  With w = floor(steps / 100) and T = 1.25 steps: peak (t + 1) / (w + 1) for
  t < w, then peak (1 - (t - w) / T). It never reaches zero. Source:
  Corrective Machine Unlearning (TMLR 2024), training procedure A as released.
  """
  warmup, horizon = steps // 100, 1.25 * steps

  def schedule(step):
    t = jnp.asarray(step)
    decayed = peak * (1 - (t - warmup) / horizon)
    return jnp.where(t < warmup, peak * (t + 1) / (warmup + 1), decayed)

  return schedule


def constant(peak: float) -> optax.Schedule:
  """The same rate at every step."""
  return optax.constant_schedule(peak)
