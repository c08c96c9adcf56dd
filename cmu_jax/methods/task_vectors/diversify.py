"""Task vectors from several ways to fine-tune the same network."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import errors, rng, tree
from cmu_jax.core.types import (
  Batch,
  InputStep,
  Model,
  Network,
  Training,
  Variables,
)
from cmu_jax.training import metrics, optimizers, train


class FineTuneConfig(NamedTuple):
  """A way to fine-tune.

  Attributes:
    lr: peak learning rate of AdamW; it falls to 0 as a cosine.
    wd: decoupled weight decay.
    epochs: passes over the data.
    label_smoothing: share of the label spread over all classes.
    augment: name of the input step, as the caller has them.
    seed: of sample order and augmentation.
  """

  lr: float = 1e-3
  wd: float = 0.0
  epochs: int = 5
  label_smoothing: float = 0.0
  augment: str = 'none'
  seed: int = 0


@functools.lru_cache(maxsize=64)
def _optimizer(
  lr: float, wd: float, steps: int, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
  """One object for a setting, so that compilations are shared."""
  inner = optimizers.adamw(optimizers.cosine_schedule(lr, steps), wd)
  return optimizers.freeze_modules(inner, frozen) if frozen else inner


@functools.lru_cache(maxsize=16)
def _loss(smoothing: float) -> Callable[..., jax.Array]:
  if not smoothing:
    return metrics.cross_entropy

  def smoothed(
    logits: Float[Array, 'n k'], label: Int[Array, 'n']
  ) -> Float[Array, 'n']:
    flat = -jnp.mean(jax.nn.log_softmax(logits, axis=-1), axis=-1)
    right = metrics.cross_entropy(logits, label)
    return (1 - smoothing) * right + smoothing * flat

  return smoothed


def diversify(
  model: Model,
  variables: Variables,
  batch: Batch,
  configs: Sequence[FineTuneConfig],
  inputs: dict[str, InputStep],
  *,
  batch_size: int = 64,
  frozen: tuple[str, ...] = (),
) -> list[PyTree]:
  """One task vector for each way to fine-tune, in order.

  Args:
    model: the network.
    variables: where all fine-tunings start.
    batch: what they fine-tune on; to forget it, subtract the vectors.
    configs: the ways.
    inputs: input steps by the names that the configs use.
    batch_size: samples a step.
    frozen: top-level parameter names that stay, for example ('head',).

  Raises:
    UserError: no way at all, an unknown input step, a training that diverged.
  """
  errors.check(configs, 'there is no way to fine-tune; give one or more')
  taus: list[PyTree] = []
  for one in configs:
    if one.augment not in inputs:
      raise errors.unknown_name('augmentation', one.augment, inputs)
    steps = one.epochs * train.steps_per_epoch(len(batch.label), batch_size)
    tuned = train.fit(
      rng.fold_in(one.seed, 'diversify'),
      Network(model, inputs[one.augment]),
      variables,
      batch,
      Training(_optimizer(one.lr, one.wd, steps, frozen), steps, batch_size),
      loss=_loss(one.label_smoothing),
      title=f'fine-tuning {len(taus) + 1} of {len(configs)}',
    )
    eligible = tree.edit_predicate(variables, frozen)
    taus.append(
      tree.task_vector(variables.params, tuned.variables.params, eligible)
    )
  return taus
