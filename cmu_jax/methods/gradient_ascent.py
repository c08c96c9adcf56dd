r"""Gradient ascent: a few steps up the loss of the identified samples.

theta_u = a few steps from theta_o down -strength CE(S_f)

It needs nothing but S_f. The loss has no upper bound, so that steps are few.
"""

import optax

from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent


def gradient_ascent(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  strengths: tuple[float, ...] = (0.1, 0.01, 0.03, 0.3, 1.0),
) -> Method:
  """Unlearns by the gradient of S_f alone.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the ascent; with SGD, a strength multiplies its rate.
    steps: of the ascent, few.
    batch_size: of S_f.
    strengths: the grid of 'strength'.

  References:
    Anti-Backdoor Learning, arXiv 2110.11571: ascent on the 1 % of
    the training set that is held to be poisoned.
  """

  def ascent(logits, draw, context, hyper):
    known = objectives.likelihood(logits, draw, context, hyper)
    return -hyper['strength'] * known

  objective = objectives.on(model, 'forget', ascent)
  phase = descent.Phase(objective, (('forget', batch_size),))
  return finetuning.fine_tuning(
    descent.Recipe((phase,), optimizer, inputs),
    steps,
    'gradient ascent on S_f',
    grid=finetuning.points('strength', strengths),
  )
