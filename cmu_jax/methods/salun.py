r"""SalUn: random labels on S_f, in the weights that S_f depends on.

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
from jaxtyping import PyTree

from cmu_jax.core import jit
from cmu_jax.core.types import InputStep, Method, Model, Variables
from cmu_jax.methods import finetuning, relabelling
from cmu_jax.training import losses

_BLOCK = 256


@functools.lru_cache(maxsize=32)
def _gradient(model: Model, inputs: InputStep) -> Callable:
  """(variables, samples) -> d CE(S_f) / d theta, evaluation mode, jitted."""

  def gradient(variables, samples):
    def total(params):
      @jax.checkpoint
      def one(row):
        batch = jax.tree.map(lambda x: x[None], row.batch)
        image = inputs.eval(batch.image, batch.stamp)
        found = Variables(params, variables.batch_stats)
        loss = losses.cross_entropy(model.apply(found, image), batch.label)
        return loss[0] * row.valid

      each = jax.lax.map(one, samples, batch_size=_BLOCK)
      return each.sum() / samples.valid.sum()

    return jax.grad(total)(variables.params)

  return jit.looped(gradient)


def salient(gradient: PyTree, share: float) -> PyTree:
  """Where the gradient is large: masks of about this share of the weights.

  Args:
    gradient: a tree of arrays, compared with each other across the tree.
    share: of the weights; 1/2 is what lies above the median.
  """
  size = jax.tree.map(jnp.abs, gradient)
  every = jnp.concatenate([x.ravel() for x in jax.tree.leaves(size)])
  threshold = jnp.quantile(every, 1 - share)
  return jax.tree.map(lambda x: x > threshold, size)


def masked(tree: PyTree, mask: PyTree) -> PyTree:
  """The tree where the mask is, 0 elsewhere: a `descent.Recipe`'s `project`."""
  return jax.tree.map(lambda x, m: jnp.where(m, x, 0), tree, mask)


@functools.lru_cache(maxsize=32)
def mask_of(model: Model, inputs: InputStep, share: float) -> Callable:
  """(variables, S_f) -> the mask of the weights that S_f depends on.

  Args:
    model: the network, in evaluation mode.
    inputs: raw pixels to network input.
    share: of the weights.
  """
  keep = jit.once(functools.partial(salient, share=share))
  gradient = _gradient(model, inputs)
  return lambda variables, samples: keep(gradient(variables, samples))


def salun(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  share: float = 0.5,
  weights: tuple[float, ...] = relabelling.WEIGHTS,
  retain: bool = True,
) -> Method:
  """Random labels confined to salient weights.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of R and as much of S_f.
    share: of the weights that move; the published grid is 0.1 to 0.9.
    weights: the grid of 'forget_weight'.
    retain: whether R is trained on; False for S_f alone.

  References:
    SalUn, arXiv 2310.12508: share 1/2, the mask on gradients.
  """
  recipe = relabelling.recipe_for(
    model, inputs, optimizer, batch_size, masked, retain
  )

  def prepare(key, variables, given):
    forget = relabelling.relabelled(key, model, inputs, variables, given.forget)
    mask = mask_of(model, inputs, share)
    return forget, mask(variables, given.forget)

  def start(key, variables, given, prepared: Any):
    del key
    forget, mask = prepared
    streams = relabelling.streams(given, forget, retain)
    spent = int(np.asarray(given.forget.valid).sum())
    return finetuning.Start(variables, streams, steps, mask, spent)

  return finetuning.fine_tuning(
    recipe,
    steps,
    'SalUn',
    grid=finetuning.points('forget_weight', weights),
    prepare=prepare,
    start=start,
  )
