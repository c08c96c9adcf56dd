r"""CF-k: fine-tuning of the last k layers without the identified samples.

  theta_u = Finetune(theta_o, S_tr \ S_f),   the layers before them as they are,

their BatchNorm in evaluation mode. `networks.frozen` says what they are.
"""

import optax

from cmu_jax import networks
from cmu_jax.core import errors, tree
from cmu_jax.core.types import InputStep, Method, Model, Variables
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import best_epoch, descent, optimizers


def recipe_for(
  model: Model,
  inputs: InputStep,
  frozen: tuple[str, ...],
  optimizer: optax.GradientTransformation,
  batch_size: int,
) -> descent.Recipe:
  """Training on R that holds some modules, their decay and their statistics."""
  held = networks.held(model, frozen)
  phase = descent.Phase(
    objectives.cross_entropy(held), (('retain', batch_size),)
  )
  part = optimizers.freezing(optimizer, frozen)
  return descent.Recipe((phase,), part, inputs)


def check(variables: Variables, frozen: tuple[str, ...]) -> None:
  """Refuses what no network has.

  Raises:
    UserError: a frozen module that is not there, or nothing left to train.
  """
  paths = tree.flat(variables.params)
  modules = {'/'.join(p[:i]) for p in paths for i in range(1, len(p))}
  for name in frozen:
    if name not in modules:
      raise errors.unknown('frozen module', name, modules)
  errors.check(
    not all(tree.under(path, frozen) for path in paths),
    f'all modules are frozen ({", ".join(frozen)}): leave one to train',
  )


def cf_k(
  model: Model,
  inputs: InputStep,
  *,
  frozen: tuple[str, ...],
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  keep: best_epoch.Keep | None = None,
) -> Method:
  """Keeps training the last layers on what is left.

  Args:
    model: the network, bound from a linen module.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    frozen: modules that stay as they are, see `networks.frozen`.
    optimizer: of the fine-tuning, schedule included.
    steps: of the fine-tuning.
    batch_size: of the fine-tuning.
    keep: to end at the best epoch, see `finetuning.fine_tuning`.

  Raises:
    UserError: when called, if the network has no such modules or no others.

  References:
    Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv
    2201.06640; Corrective Machine Unlearning, arXiv 2402.14015.
  """

  def start(key, variables, given, prepared):
    del key, prepared
    check(variables, frozen)
    return finetuning.Start(variables, {'retain': given.retain}, steps)

  return finetuning.fine_tuning(
    recipe_for(model, inputs, frozen, optimizer, batch_size),
    steps,
    'fine-tuning the last layers without S_f',
    start=start,
    keep=keep,
  )
