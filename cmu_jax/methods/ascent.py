r"""NegGrad+: descent on R and ascent on S_f in every step.

theta_u = argmin over theta from theta_o of b CE(R) - (1 - b) CE(S_f)

With b = 1 and without BatchNorm, whose statistics are of both, this is CF.
"""

import optax

from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent


def neggrad_plus(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  weights: tuple[float, ...] = (0.95, 0.9, 0.99, 0.999),
) -> Method:
  """Gradient ascent on S_f that training on R holds back.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of R and as much of S_f.
    weights: the grid of 'retain_weight', b; CE(S_f) has no upper bound, which
      is why they are close to 1.

  References:
    Towards Unbounded Machine Unlearning, arXiv 2302.09880.
  """

  def ascent(logits, draw, context, hyper):
    known = objectives.likelihood(logits, draw, context, hyper)
    return (hyper['retain_weight'] - 1) * known

  objective = objectives.with_retain(
    model, ascent, lambda hyper: hyper['retain_weight']
  )
  phase = descent.Phase(objective, objectives.both(batch_size))
  return finetuning.fine_tuning(
    descent.Recipe((phase,), optimizer, inputs),
    steps,
    'NegGrad+',
    grid=finetuning.points('retain_weight', weights),
  )
