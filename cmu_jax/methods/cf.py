r"""CF, catastrophic forgetting: fine-tuning without the identified samples.

theta_u = Finetune(theta_o, S_tr \ S_f)
"""

import optax

from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import best_epoch, descent


def cf(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  keep: best_epoch.Keep | None = None,
) -> Method:
  """Keeps training on what is left.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of the fine-tuning.
    keep: to end at the best epoch, see `finetuning.fine_tuning`.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 3.2: 1000 steps.
  """
  phase = descent.Phase(
    objectives.cross_entropy(model), (('retain', batch_size),)
  )
  recipe = descent.Recipe((phase,), optimizer, inputs)
  return finetuning.fine_tuning(
    recipe, steps, 'fine-tuning without S_f', keep=keep
  )
