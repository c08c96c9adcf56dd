r"""Random labels (amnesiac unlearning): S_f under labels drawn at random.

y'      ~ uniform on the classes other than the trained label, drawn once
theta_u = argmin over theta from theta_o of CE(R) + weight CE(S_f, y')
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, Int

from cmu_jax.core import rng
from cmu_jax.core.types import (
  InputStep,
  Method,
  Model,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent

WEIGHTS = (1.0, 0.1)


def wrong(
  key: PRNGKey, label: Int[Array, 'n'], classes: int
) -> Int[Array, 'n']:
  """Other classes than the labels, each as likely."""
  shift = jax.random.randint(key, label.shape, 1, classes, label.dtype)
  return (label + shift) % classes


def relabelled(
  key: PRNGKey,
  model: Model,
  inputs: InputStep,
  variables: Variables,
  samples: Samples,
) -> Samples:
  """The samples under random wrong labels."""
  image = inputs.eval(samples.batch.image[:1], None)
  classes = jax.eval_shape(model.apply, variables, image).shape[-1]
  label = wrong(rng.named(key, 'labels'), samples.batch.label, classes)
  return samples._replace(batch=samples.batch._replace(label=label))


def recipe_for(
  model: Model,
  inputs: InputStep,
  optimizer: optax.GradientTransformation,
  batch_size: int,
  project: Callable[[Any, Any], Any] | None = None,
  retain: bool = True,
) -> descent.Recipe:
  """CE(R) + hyper['forget_weight'] CE(S_f) in every step, CE(R) if retained."""

  def term(logits, draw, context, hyper):
    known = objectives.likelihood(logits, draw, context, hyper)
    return hyper['forget_weight'] * known

  phase = descent.Phase(
    objectives.with_retain(model, term), objectives.both(batch_size)
  )
  if not retain:
    alone = objectives.on(model, 'forget', term)
    phase = descent.Phase(alone, (('forget', batch_size),))
  return descent.Recipe((phase,), optimizer, inputs, project)


def streams(given: Any, relabelled: Samples, retain: bool) -> dict:
  """What a step draws from: what was relabelled, and R if retained."""
  rest = {'retain': given.retain} if retain else {}
  return {**rest, 'forget': relabelled}


def start(
  steps: int,
  key: PRNGKey,
  variables: Variables,
  given: Any,
  prepared: Samples,
  retain: bool = True,
) -> finetuning.Start:
  """From theta_o on R and on what was relabelled, which was prepared."""
  del key
  drawn = streams(given, prepared, retain)
  return finetuning.Start(variables, drawn, steps)


def random_label(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  weights: tuple[float, ...] = WEIGHTS,
  retain: bool = True,
) -> Method:
  """Overwrites what was learned of S_f with noise.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of R and as much of S_f.
    weights: the grid of 'forget_weight'.
    retain: whether R is trained on; False for S_f alone.

  References:
    Amnesiac Machine Learning, arXiv 2010.10981.
  """
  recipe = recipe_for(model, inputs, optimizer, batch_size, retain=retain)

  def prepare(key, variables, given):
    return relabelled(key, model, inputs, variables, given.forget)

  return finetuning.fine_tuning(
    recipe,
    steps,
    'random labels on S_f',
    grid=finetuning.points('forget_weight', weights),
    prepare=prepare,
    start=functools.partial(start, steps, retain=retain),
  )
