r"""l1-sparse fine-tuning: training on R that pays for every weight.

theta_u = argmin over theta from theta_o of CE(R) + l1 (1 - t / N) ||theta||_1

at step t of N: the penalty makes room first and lets the network settle later.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent


def norm(params: PyTree) -> Float[Array, '']:
  """The sum of absolute values of all parameters."""
  return sum((jnp.abs(x).sum() for x in jax.tree.leaves(params)), jnp.zeros(()))


def l1_sparse(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  penalties: tuple[float, ...] = (5e-4, 1e-5, 1e-4, 1e-3),
) -> Method:
  """Fine-tuning without S_f towards few weights.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of the fine-tuning.
    penalties: the grid of 'l1', the penalty at the first step.

  References:
    Model Sparsity Can Simplify Machine Unlearning, arXiv 2304.04934; AMUN,
    arXiv 2503.00917, compares itself with a penalty of 5e-4.
  """
  fit = objectives.cross_entropy(model)

  def objective(variables, draws, context, hyper, time):
    loss, stats = fit(variables, draws, context, hyper, time)
    return loss + hyper['l1'] * (1 - time) * norm(variables.params), stats

  phase = descent.Phase(objective, (('retain', batch_size),))
  return finetuning.fine_tuning(
    descent.Recipe((phase,), optimizer, inputs),
    steps,
    'l1-sparse fine-tuning',
    grid=finetuning.points('l1', penalties),
  )
