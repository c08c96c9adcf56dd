r"""RewoD: retraining from scratch without the identified samples (EU).

  theta_u = A(S_tr \ S_f) from a fresh initialisation,

with the procedure that trained the original model. At an identified fraction
of 1 it is the gold standard of the benchmark.
"""

import optax

from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import best_epoch, descent


def rewod(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  keep: best_epoch.Keep | None = None,
) -> Method:
  """Retrains without S_f.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the original training.
    steps: of the original training.
    batch_size: of the original training.
    keep: to end at the best epoch, see `finetuning.fine_tuning`.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 3.2.
  """
  phase = descent.Phase(
    objectives.cross_entropy(model), (('retain', batch_size),)
  )
  recipe = descent.Recipe((phase,), optimizer, inputs)

  def start(key, variables, given, prepared):
    del variables, prepared
    fresh = finetuning.fresh(key, model, inputs, given.retain)
    return finetuning.Start(fresh, {'retain': given.retain}, steps)

  return finetuning.fine_tuning(
    recipe, steps, 'retraining without S_f', start=start, keep=keep
  )
