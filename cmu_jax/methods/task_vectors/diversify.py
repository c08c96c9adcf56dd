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
    augment: name of the input step, in the caller's dictionary.
    seed: of sample order and augmentation.
  """

  lr: float = 1e-3
  wd: float = 0.0
  epochs: int = 5
  label_smoothing: float = 0.0
  augment: str = 'none'
  seed: int = 0


# Compilations are keyed by the optimiser and by the loss as objects: equal
# settings must return the same object.
@functools.lru_cache(maxsize=64)
def _optimizer(
  lr: float, wd: float, steps: int, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
  inner = optimizers.adamw(optimizers.cosine_schedule(lr, steps), wd)
  return optimizers.freeze_modules(inner, frozen) if frozen else inner


@functools.lru_cache(maxsize=16)
def _loss(smoothing: float) -> Callable[..., jax.Array]:
  if not smoothing:
    return metrics.cross_entropy

  def smoothed_loss(
    logits: Float[Array, 'n k'], label: Int[Array, 'n']
  ) -> Float[Array, 'n']:
    uniform = -jnp.mean(jax.nn.log_softmax(logits, axis=-1), axis=-1)
    label_loss = metrics.cross_entropy(logits, label)
    return (1 - smoothing) * label_loss + smoothing * uniform

  return smoothed_loss


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
  """Fine-tunes a network in several ways; returns one task vector for each.

  Args:
    variables: the start of all fine-tunings.
    batch: the data to fine-tune on; subtract the vectors to forget them.
    configs: the ways.
    inputs: input steps by the names in the configs.
    batch_size: samples a step.
    frozen: top-level parameter names that stay, for example ('head',).

  Raises:
    UserError: no way at all, an unknown input step, a training that diverged.
  """
  errors.check(configs, 'there is no way to fine-tune; give one or more')
  taus: list[PyTree] = []
  for config in configs:
    if config.augment not in inputs:
      raise errors.unknown_name('augmentation', config.augment, inputs)
    steps = config.epochs * train.steps_per_epoch(len(batch.label), batch_size)
    optimizer = _optimizer(config.lr, config.wd, steps, frozen)
    tuned = train.fit(
      rng.fold_in(config.seed, 'diversify'),
      Network(model, inputs[config.augment]),
      variables,
      batch,
      Training(optimizer, steps, batch_size),
      train.Session(f'fine-tuning {len(taus) + 1} of {len(configs)}'),
      loss=_loss(config.label_smoothing),
    )
    # As in CUTS, BatchNorm's parameters take no part, although they were
    # trained: running statistics that do not move would no longer fit them.
    eligible = tree.edit_predicate(variables, frozen)
    taus.append(
      tree.task_vector(variables.params, tuned.variables.params, eligible)
    )
  return taus
