"""What methods share that fine-tune on one set: parts joined, then shuffled."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from cmu_jax.core.types import InputStep, Model, Samples, Variables
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent

_STREAM = 'union'


def evaluating(model: Model) -> Model:
  """The network whose BatchNorm keeps its running statistics in training."""

  def update(variables: Variables, image: jax.Array):
    return model.apply(variables, image), variables.batch_stats

  return model._replace(update=update)


def recipe(
  model: Model,
  inputs: InputStep,
  optimizer: optax.GradientTransformation,
  batch_size: int,
  *,
  freeze_bn: bool = False,
  project: Callable[[PyTree, Any], PyTree] | None = None,
) -> descent.Recipe:
  """Cross-entropy on one stream.

  Args:
    model: the network, updated in training mode.
    inputs: raw pixels to network input.
    optimizer: schedule included.
    batch_size: of the whole set.
    freeze_bn: normalise by the running statistics, and leave them.
    project: see `descent.Recipe`.
  """
  trained = evaluating(model) if freeze_bn else model
  objective = objectives.cross_entropy(trained, _STREAM)
  phase = descent.Phase(objective, ((_STREAM, batch_size),))
  return descent.Recipe((phase,), optimizer, inputs, project)


def joined(parts: Sequence[Any]) -> Samples:
  """All parts as one set."""
  whole = parts[0]
  for part in parts[1:]:
    whole = descent.join(whole, part)
  return whole


def begin(
  variables: Variables,
  samples: Samples,
  steps: int,
  context: Any = None,
  spent: int = 0,
) -> finetuning.Start:
  """From these weights on this set, see `finetuning.Start`."""
  return finetuning.Start(variables, {_STREAM: samples}, steps, context, spent)
