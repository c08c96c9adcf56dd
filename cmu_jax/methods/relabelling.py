"""Random labels (amnesiac unlearning): S_f under labels drawn at random.

y'      ~ uniform on the classes other than the trained label, drawn once
theta_u = argmin over theta from theta_o of CE(R) + weight CE(S_f, y')

Relabelling to the runner-up: S_f under what theta_o would say next.

  y'      = argmax over c other than the trained label of f_c(x; theta_o)
  theta_u = argmin over theta from theta_o of CE(R) + weight CE(S_f, y')

Where two classes were confused with each other, the runner-up tends to be the
true one; between two classes it is. Ours, close to boundary shrink (Boundary
Unlearning, arXiv 2303.11570), which asks theta_o about a perturbed image.

SalUn: random labels on S_f, in the weights that S_f depends on.

  m       = |d CE(S_f; theta_o) / d theta| above its median over all weights
  theta_u = theta_o + m (theta' - theta_o),

where theta' follows `random_label` and steps are masked by m, decay and
momentum included: what is not salient does not move.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import jit, rng
from cmu_jax.core.types import (
  Method,
  Network,
  PRNGKey,
  Samples,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent, metrics

WEIGHTS = (1.0, 0.1)


def draw_wrong_labels(
  key: PRNGKey, label: Int[Array, 'n'], classes: int
) -> Int[Array, 'n']:
  """Other classes than the labels, each as likely."""
  shift = jax.random.randint(key, label.shape, 1, classes, label.dtype)
  return (label + shift) % classes


def relabel_at_random(
  key: PRNGKey, network: Network, variables: Variables, samples: Samples
) -> Samples:
  """The samples under random wrong labels."""
  image = network.inputs.eval(samples.batch.image[:1], None)
  classes = jax.eval_shape(network.model.apply, variables, image).shape[-1]
  label = draw_wrong_labels(
    rng.fold_in(key, 'labels'), samples.batch.label, classes
  )
  return samples._replace(batch=samples.batch._replace(label=label))


def relabelling_recipe(
  network: Network,
  optimizer: optax.GradientTransformation,
  batch_size: int,
  project: Callable[[Any, Any], Any] | None = None,
  retain: bool = True,
) -> descent.Recipe:
  """CE(R) + hyper['forget_weight'] CE(S_f) in every step, CE(R) if retained."""

  def term(logits, draw, context, hyper):
    known = objectives.cross_entropy_term(logits, draw, context, hyper)
    return hyper['forget_weight'] * known

  phase = descent.Phase(
    objectives.retain_plus_term(network.model, term),
    objectives.paired_streams(batch_size),
  )
  if not retain:
    alone = objectives.single_term(network.model, 'forget', term)
    phase = descent.Phase(alone, (('forget', batch_size),))
  return descent.Recipe((phase,), optimizer, network.inputs, project)


def training_streams(given: Any, forget: Samples, retain: bool) -> dict:
  """What a step draws from: what was relabelled, and R if retained."""
  rest = {'retain': given.retain} if retain else {}
  return {**rest, 'forget': forget}


def start_training(
  steps: int,
  key: PRNGKey,
  variables: Variables,
  given: Any,
  prepared: Samples,
  retain: bool = True,
) -> finetuning.Start:
  """From theta_o on R and on what was relabelled, which was prepared."""
  del key
  drawn = training_streams(given, prepared, retain)
  return finetuning.Start(variables, drawn, steps)


def random_label(
  network: Network,
  training: Training,
  *,
  weights: tuple[float, ...] = WEIGHTS,
  retain: bool = True,
) -> Method:
  """Overwrites what was learned of S_f with noise.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    weights: the grid of 'forget_weight'.
    retain: whether R is trained on; False for S_f alone.

  References:
    Amnesiac Machine Learning, arXiv 2010.10981.
  """
  recipe = relabelling_recipe(
    network, training.optimizer, training.batch_size, retain=retain
  )

  def prepare(key, variables, given):
    return relabel_at_random(key, network, variables, given.forget)

  return finetuning.method(
    recipe,
    training.steps,
    'random labels on S_f',
    grid=finetuning.grid_points('forget_weight', weights),
    prepare=prepare,
    start=functools.partial(start_training, training.steps, retain=retain),
  )


_RUNNER_UP_BLOCK = 256


def runner_up(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Int[Array, 'n']:
  """The likeliest class other than the label."""
  own = label[:, None] == jnp.arange(logits.shape[-1])[None, :]
  found = jnp.argmax(jnp.where(own, -jnp.inf, logits), -1)
  return found.astype(label.dtype)


@functools.lru_cache(maxsize=32)
def _runner_up_program(network: Network) -> Callable:
  """(variables, batch) -> the runners-up [n], jitted."""

  def relabel(variables, batch):
    def one(row):
      single = jax.tree.map(lambda x: x[None], row)
      image = network.inputs.eval(single.image, single.has_trigger)
      return runner_up(network.model.apply(variables, image), single.label)[0]

    return jax.lax.map(one, batch, batch_size=_RUNNER_UP_BLOCK)

  return jit.compile_loop(relabel)


def relabel_second(
  network: Network, training: Training, *, weights: tuple[float, ...] = WEIGHTS
) -> Method:
  """Moves S_f over the nearest boundary that theta_o has.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    weights: the grid of 'forget_weight'.
  """

  def relabel(key, variables, given):
    del key
    batch = given.forget.batch
    label = _runner_up_program(network)(variables, batch)
    return given.forget._replace(batch=batch._replace(label=label))

  return finetuning.method(
    relabelling_recipe(network, training.optimizer, training.batch_size),
    training.steps,
    'runner-up labels on S_f',
    grid=finetuning.grid_points('forget_weight', weights),
    prepare=relabel,
    start=functools.partial(start_training, training.steps),
  )


_GRADIENT_BLOCK = 256


@functools.lru_cache(maxsize=32)
def _gradient_program(network: Network) -> Callable:
  """(variables, samples) -> d CE(S_f) / d theta, evaluation mode, jitted."""

  def gradient(variables, samples):
    def total(params):
      @jax.checkpoint
      def one(row):
        batch = jax.tree.map(lambda x: x[None], row.batch)
        image = network.inputs.eval(batch.image, batch.has_trigger)
        found = Variables(params, variables.batch_stats)
        loss = metrics.cross_entropy(
          network.model.apply(found, image), batch.label
        )
        return loss[0] * row.valid

      each = jax.lax.map(one, samples, batch_size=_GRADIENT_BLOCK)
      return each.sum() / samples.valid.sum()

    return jax.grad(total)(variables.params)

  return jit.compile_loop(gradient)


def salient_mask(gradient: PyTree, share: float) -> PyTree:
  """Where the gradient is large: masks of about this share of the weights.

  Args:
    gradient: a tree of arrays, compared with each other across the tree.
    share: of the weights; 1/2 is what lies above the median.
  """
  size = jax.tree.map(jnp.abs, gradient)
  every = jnp.concatenate([x.ravel() for x in jax.tree.leaves(size)])
  threshold = jnp.quantile(every, 1 - share)
  return jax.tree.map(lambda x: x > threshold, size)


def apply_mask(tree: PyTree, mask: PyTree) -> PyTree:
  """The tree where the mask is, 0 elsewhere: a `descent.Recipe`'s `project`."""
  return jax.tree.map(lambda x, m: jnp.where(m, x, 0), tree, mask)


@functools.lru_cache(maxsize=32)
def mask_program(network: Network, share: float) -> Callable:
  """(variables, S_f) -> the mask of the weights that S_f depends on.

  Args:
    network: the model and its input step.
    share: of the weights.
  """
  keep = jit.compile_cheaply(functools.partial(salient_mask, share=share))
  gradient = _gradient_program(network)
  return lambda variables, samples: keep(gradient(variables, samples))


def salun(
  network: Network,
  training: Training,
  *,
  share: float = 0.5,
  weights: tuple[float, ...] = WEIGHTS,
  retain: bool = True,
) -> Method:
  """Random labels confined to salient weights.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    share: of the weights that move; the published grid is 0.1 to 0.9.
    weights: the grid of 'forget_weight'.
    retain: whether R is trained on; False for S_f alone.

  References:
    SalUn, arXiv 2310.12508: share 1/2, the mask on gradients.
  """
  recipe = relabelling_recipe(
    network, training.optimizer, training.batch_size, apply_mask, retain
  )

  def prepare(key, variables, given):
    forget = relabel_at_random(key, network, variables, given.forget)
    mask = mask_program(network, share)
    return forget, mask(variables, given.forget)

  def start(key, variables, given, prepared: Any):
    del key
    forget, mask = prepared
    streams = training_streams(given, forget, retain)
    spent = int(np.asarray(given.forget.valid).sum())
    return finetuning.Start(variables, streams, training.steps, mask, spent)

  return finetuning.method(
    recipe,
    training.steps,
    'SalUn',
    grid=finetuning.grid_points('forget_weight', weights),
    prepare=prepare,
    start=start,
  )
