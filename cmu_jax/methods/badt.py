r"""BadT: distillation from a bad teacher on S_f and from theta_o elsewhere.

  q(x)    = softmax f(x; theta_rand) on S_f,  softmax f(x; theta_o) on the rest
  theta_u = argmin over theta from theta_o of KL(q || softmax f(x; theta)),

drawn in one pass over all of S_tr. Both teachers are in evaluation mode;
theta_rand is newly initialised, its running statistics too.
"""

import jax.numpy as jnp
import optax

from cmu_jax.core import errors
from cmu_jax.core.types import InputStep, Method, Model
from cmu_jax.methods import finetuning, objectives
from cmu_jax.methods.objectives import Objective
from cmu_jax.training import best_epoch, descent

REDUCTIONS = ('elementmean', 'batchmean')


def distillation(model: Model, reduction: str) -> Objective:
  """The objective; its context is (theta_o, theta_rand).

  Args:
    model: the network, updated in training mode.
    reduction: see `badt`.
  """

  def objective(variables, draws, context, hyper, time):
    del hyper, time
    seen = draws['train']
    logits, stats = model.update(variables, seen.image)
    good, bad = (model.apply(teacher, seen.image) for teacher in context)
    wanted = jnp.where(seen.identified[:, None], bad, good)
    loss = objectives.divergence(wanted, logits).mean()
    if reduction == 'elementmean':
      loss = loss / logits.shape[-1]
    return loss, stats

  return objective


def badt(
  model: Model,
  inputs: InputStep,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  reduction: str = 'elementmean',
  keep: best_epoch.Keep | None = None,
) -> Method:
  """Unlearns S_f towards a network that knows nothing.

  Args:
    model: the network.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    optimizer: of the distillation, schedule included.
    steps: of the distillation; the benchmark takes 1000 (CIFAR-100: 1500).
    batch_size: of the distillation.
    reduction: 'elementmean' divides by samples and classes, as the released
      codes do; 'batchmean', the divergence itself, by samples alone.
    keep: to end at the best epoch, see `finetuning.fine_tuning`.

  Raises:
    UserError: an unknown reduction.

  References:
    Can Bad Teaching Induce Forgetting?, arXiv 2205.08096;
    Corrective Machine Unlearning, arXiv 2402.14015, section 3.2. No grid.
  """
  if reduction not in REDUCTIONS:
    raise errors.unknown('reduction of badt', reduction, REDUCTIONS)
  phase = descent.Phase(
    distillation(model, reduction), (('train', batch_size),)
  )
  recipe = descent.Recipe((phase,), optimizer, inputs)

  def prepare(key, variables, given):
    del variables
    return finetuning.fresh(key, model, inputs, given.retain)

  def start(key, variables, given, prepared):
    del key
    joined = {'train': descent.join(given.retain, given.forget)}
    return finetuning.Start(variables, joined, steps, (variables, prepared))

  return finetuning.fine_tuning(
    recipe,
    steps,
    'bad teaching',
    needs=('retain', 'forget'),
    prepare=prepare,
    start=start,
    keep=keep,
  )
