"""Optimizers and learning-rate schedules of the published recipes.

Every schedule is a function of the optimizer step t = 0, 1, ... A schedule in
units of epochs changes only when t crosses a multiple of `unit_steps`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cmu_jax.core import errors, tree


def adamw(
  schedule: optax.Schedule, weight_decay: float = 0.01, mask: Any = None
) -> optax.GradientTransformation:
  """AdamW as in CUTS: betas .9 and .999, eps 1e-8, decay on everything.

  Args:
    schedule: learning rate by step.
    weight_decay: decoupled decay; optax's own default would be 1e-4.
    mask: pytree or function of booleans that selects the parameters with decay;
      None for all.
  """
  return optax.adamw(
    schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, mask=mask
  )


def sgd(
  schedule: optax.Schedule,
  weight_decay: float = 5e-4,
  momentum: float = 0.9,
  mask: Any = None,
) -> optax.GradientTransformation:
  """SGD with momentum and coupled L2, as in procedure A of the benchmark.

  The decay acts on every parameter unless `mask` selects some. Source:
  Corrective Machine Unlearning (TMLR 2024).
  """
  # As in PyTorch, the decay enters the gradient before the momentum.
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask),
    optax.trace(decay=momentum),
    optax.scale_by_learning_rate(schedule),
  )


def freeze_modules(
  optimizer: optax.GradientTransformation, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
  """Removes the updates of modules such as 'head' or 'body/conv1'."""

  def labels(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, _: (
        'frozen' if tree.is_under(tree.path_names(path), frozen) else 'trained'
      ),
      params,
    )

  # Zeros instead of a mask: a mask would let the raw gradient through.
  return optax.partition(
    {'trained': optimizer, 'frozen': optax.set_to_zero()}, labels
  )


def cosine_schedule(
  peak: float, units: int, minimum: float = 0.0, unit_steps: int = 1
) -> optax.Schedule:
  """Cosine from `peak` at unit 0 to `minimum` at unit `units`.

  Source: the recipes of CUTS (arXiv 2511.18660) for networks from scratch.
  """
  return warmup_cosine_schedule(peak, 0, 0, units, minimum, unit_steps)


def warmup_cosine_schedule(
  peak: float,
  warmup: int,
  hold: int,
  units: int,
  minimum: float = 0.0,
  unit_steps: int = 1,
) -> optax.Schedule:
  """Linear warm-up from exactly 0, a plateau, then a cosine to `minimum`.

  Unit u has the rate peak u / warmup if u < warmup, then peak for `hold` units,
  then minimum + (peak - minimum) (1 + cos(pi (u - warmup - hold) / decay)) / 2
  with decay = units - warmup - hold. Source: CUTS recipes.

  Raises:
    UserError: warm-up and plateau together are not shorter than `units`.
  """
  decay = units - warmup - hold
  errors.check(
    decay > 0,
    f'schedule: warmup {warmup} + hold {hold} must be below {units} units; '
    'shorten them or train longer',
  )

  def schedule(step):
    unit = jnp.asarray(step) // unit_steps
    fraction = jnp.clip((unit - warmup - hold) / decay, 0.0, 1.0)
    decayed = minimum + (peak - minimum) * (1 + jnp.cos(jnp.pi * fraction)) / 2
    # As in the recipes, the first unit of a warm-up has the rate 0.
    return jnp.where(unit < warmup, peak * unit / max(warmup, 1), decayed)

  return schedule


def multistep_schedule(
  peak: float, milestones: Sequence[int], factor: float, unit_steps: int = 1
) -> optax.Schedule:
  """`peak` times `factor` for every milestone (in units) reached."""
  # A sum over milestones serves any number of them in one program.
  edges = jnp.asarray(milestones)

  def schedule(step):
    unit = jnp.asarray(step) // unit_steps
    return peak * jnp.power(factor, jnp.sum(edges <= unit))

  return schedule


def procedure_a_schedule(peak: float, steps: int) -> optax.Schedule:
  """The linear schedule of the corrective benchmark's procedure A.

  With w = floor(steps / 100) and T = 1.25 steps: peak (t + 1) / (w + 1) for
  t < w, then peak (1 - (t - w) / T). Source: Corrective Machine Unlearning
  (TMLR 2024), training procedure A as released.
  """
  # The horizon beyond the last step keeps the final rate above zero.
  warmup, horizon = steps // 100, 1.25 * steps

  def schedule(step):
    t = jnp.asarray(step)
    decayed = peak * (1 - (t - warmup) / horizon)
    return jnp.where(t < warmup, peak * (t + 1) / (warmup + 1), decayed)

  return schedule


def constant_schedule(peak: float) -> optax.Schedule:
  """The same rate at every step."""
  return optax.constant_schedule(peak)
