r"""Gradient ascent between epochs of training: GA as AMUN runs it with D_R.

each epoch: once through D_R down CE, then once through D_F up CE
"""

import numpy as np
import optax

from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, objectives, teachers
from cmu_jax.training import descent


def alternating_ascent(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
) -> Method:
  """Trains on D_R and climbs on D_F in turn.

  Args:
    model: the network.
    inputs: raw pixels to network input.
    optimizer: of both, schedule included.
    steps: of both together; the last epoch may be cut.
    batch_size: of both, at most |D_F|.

  References:
    AMUN, arXiv 2503.00917, section 5.1.
  """

  def ascent(logits, draw, context, hyper):
    return -objectives.likelihood(logits, draw, context, hyper)

  recipe = descent.Recipe(
    (
      descent.Phase(objectives.cross_entropy(model), (('retain', batch_size),)),
      descent.Phase(
        objectives.on(model, 'forget', ascent), (('forget', batch_size),)
      ),
    ),
    optimizer,
    inputs,
  )

  def start(key, variables, given, prepared):
    del key, prepared
    up, down = teachers.epoch_steps(given, batch_size, batch_size)
    epoch = np.repeat([0, 1], [down, up])
    streams = {'retain': given.retain, 'forget': given.forget}
    return finetuning.Start(variables, streams, np.resize(epoch, steps))

  return finetuning.fine_tuning(
    recipe, steps, 'gradient ascent between epochs', start=start
  )
