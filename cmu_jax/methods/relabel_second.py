r"""Relabelling to the runner-up: S_f under what theta_o would say next.

  y'      = argmax over c other than the trained label of f_c(x; theta_o)
  theta_u = argmin over theta from theta_o of CE(R) + weight CE(S_f, y')

Where two classes were confused with each other, the runner-up tends to be the
true one; between two classes it is. Ours, close to boundary shrink (Boundary
Unlearning, arXiv 2303.11570), which asks theta_o about a perturbed image.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cmu_jax.core import jit
from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, relabelling

_BLOCK = 256


def runner_up(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Int[Array, 'n']:
  """The likeliest class other than the label."""
  own = label[:, None] == jnp.arange(logits.shape[-1])[None, :]
  found = jnp.argmax(jnp.where(own, -jnp.inf, logits), -1)
  return found.astype(label.dtype)


@functools.lru_cache(maxsize=32)
def _relabelling(model: Model, inputs: InputStep) -> Callable:
  """(variables, batch) -> the runners-up [n], jitted."""

  def relabel(variables, batch):
    def one(row):
      single = jax.tree.map(lambda x: x[None], row)
      image = inputs.eval(single.image, single.stamp)
      return runner_up(model.apply(variables, image), single.label)[0]

    return jax.lax.map(one, batch, batch_size=_BLOCK)

  return jit.looped(relabel)


def relabel_second(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  weights: tuple[float, ...] = relabelling.WEIGHTS,
) -> Method:
  """Moves S_f over the nearest boundary that theta_o has.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of R and as much of S_f.
    weights: the grid of 'forget_weight'.
  """

  def relabel(key, variables, given):
    del key
    batch = given.forget.batch
    label = _relabelling(model, inputs)(variables, batch)
    return given.forget._replace(batch=batch._replace(label=label))

  return finetuning.fine_tuning(
    relabelling.recipe_for(model, inputs, optimizer, batch_size),
    steps,
    'runner-up labels on S_f',
    grid=finetuning.points('forget_weight', weights),
    prepare=relabel,
    start=functools.partial(relabelling.start, steps),
  )
