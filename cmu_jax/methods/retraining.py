r"""RewoD: retraining from scratch without the identified samples (EU).

  theta_u = A(S_tr \ S_f) from a fresh initialisation,

with the procedure that trained the original model. At an identified fraction
of 1 it is the gold standard of the benchmark.

CF, catastrophic forgetting: fine-tuning without the identified samples.

theta_u = Finetune(theta_o, S_tr \ S_f)

CF-k: fine-tuning of the last k layers without the identified samples.

  theta_u = Finetune(theta_o, S_tr \ S_f),   the layers before them as they are,

their BatchNorm in evaluation mode. `networks.frozen_modules` says what they
are.

EU-k: retraining of the last k layers without the identified samples.

  theta_u = A(S_tr \ S_f) from theta_o with its last k layers newly initialised,

the layers before them as they are, their BatchNorm in evaluation mode. With all
layers trained this is RewoD.

l1-sparse fine-tuning: training on R that pays for every weight.

theta_u = argmin over theta from theta_o of CE(R) + l1 (1 - t / N) ||theta||_1

at step t of N: the penalty makes room first and lets the network settle later.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from cmu_jax import networks
from cmu_jax.core import errors, tree
from cmu_jax.core.types import (
  Method,
  Network,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent, early_stopping, optimizers


def retrain(
  network: Network,
  training: Training,
  *,
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """Retrains without S_f.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    keep: to end at the best epoch, see `finetuning.method`.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 3.2.
  """
  phase = descent.Phase(
    objectives.cross_entropy(network.model), (('retain', training.batch_size),)
  )
  recipe = descent.Recipe((phase,), training.optimizer, network.inputs)

  def start(key, variables, given, prepared):
    del variables, prepared
    fresh = finetuning.initialize(key, network, given.retain)
    return finetuning.Start(fresh, {'retain': given.retain}, training.steps)

  return finetuning.method(
    recipe, training.steps, 'retraining without S_f', start=start, keep=keep
  )


def finetune(
  network: Network,
  training: Training,
  *,
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """Keeps training on what is left.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    keep: to end at the best epoch, see `finetuning.method`.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 3.2: 1000 steps.
  """
  phase = descent.Phase(
    objectives.cross_entropy(network.model), (('retain', training.batch_size),)
  )
  recipe = descent.Recipe((phase,), training.optimizer, network.inputs)
  return finetuning.method(
    recipe, training.steps, 'fine-tuning without S_f', keep=keep
  )


def partial_recipe(
  network: Network,
  frozen: tuple[str, ...],
  optimizer: optax.GradientTransformation,
  batch_size: int,
) -> descent.Recipe:
  """Training on R that holds some modules, their decay and their statistics."""
  held = networks.freeze_norms(network.model, frozen)
  phase = descent.Phase(
    objectives.cross_entropy(held), (('retain', batch_size),)
  )
  part = optimizers.freeze_modules(optimizer, frozen)
  return descent.Recipe((phase,), part, network.inputs)


def check_frozen(variables: Variables, frozen: tuple[str, ...]) -> None:
  """Refuses what no network has.

  Raises:
    UserError: a frozen module that is not there, or nothing left to train.
  """
  paths = tree.leaves_by_path(variables.params)
  modules = {'/'.join(p[:i]) for p in paths for i in range(1, len(p))}
  for name in frozen:
    if name not in modules:
      raise errors.unknown_name('frozen module', name, modules)
  errors.check(
    not all(tree.is_under(path, frozen) for path in paths),
    f'all modules are frozen ({", ".join(frozen)}): leave one to train',
  )


def cf_k(
  network: Network,
  training: Training,
  *,
  frozen: tuple[str, ...],
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """Keeps training the last layers on what is left.

  Args:
    network: the model and its input step.
    frozen: modules that stay as they are, see `networks.frozen_modules`.
    training: optimizer, steps and batch size.
    keep: to end at the best epoch, see `finetuning.method`.

  Raises:
    UserError: when called, if the network has no such modules or no others.

  References:
    Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv
    2201.06640; Corrective Machine Unlearning, arXiv 2402.14015.
  """

  def start(key, variables, given, prepared):
    del key, prepared
    check_frozen(variables, frozen)
    return finetuning.Start(variables, {'retain': given.retain}, training.steps)

  return finetuning.method(
    partial_recipe(network, frozen, training.optimizer, training.batch_size),
    training.steps,
    'fine-tuning the last layers without S_f',
    start=start,
    keep=keep,
  )


def reinitialize(
  old: Variables, new: Variables, frozen: tuple[str, ...]
) -> Variables:
  """The frozen modules of `old` with all others of `new`."""
  return jax.tree_util.tree_map_with_path(
    # The first name says whether a leaf is a parameter or a statistic.
    lambda path, a, b: (
      a if tree.is_under(tree.path_names(path)[1:], frozen) else b
    ),
    old,
    new,
  )


def eu_k(
  network: Network,
  training: Training,
  *,
  frozen: tuple[str, ...],
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """Retrains the last layers without S_f.

  Args:
    network: the model and its input step.
    frozen: modules that stay as they are, see `networks.frozen_modules`.
    training: optimizer, steps and batch size.
    keep: to end at the best epoch, see `finetuning.method`.

  Raises:
    UserError: when called, if the network has no such modules or no others.

  References:
    Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv
    2201.06640; Corrective Machine Unlearning, arXiv 2402.14015.
  """

  def start(key, variables, given, prepared):
    del prepared
    check_frozen(variables, frozen)
    new = finetuning.initialize(key, network, given.retain)
    begin = reinitialize(variables, new, frozen)
    return finetuning.Start(begin, {'retain': given.retain}, training.steps)

  return finetuning.method(
    partial_recipe(network, frozen, training.optimizer, training.batch_size),
    training.steps,
    'retraining the last layers without S_f',
    start=start,
    keep=keep,
  )


def l1_norm(params: PyTree) -> Float[Array, '']:
  """The sum of absolute values of all parameters."""
  return sum((jnp.abs(x).sum() for x in jax.tree.leaves(params)), jnp.zeros(()))


def l1_sparse(
  network: Network,
  training: Training,
  *,
  penalties: tuple[float, ...] = (5e-4, 1e-5, 1e-4, 1e-3),
) -> Method:
  """Fine-tuning without S_f towards few weights.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    penalties: the grid of 'l1', the penalty at the first step.

  References:
    Model Sparsity Can Simplify Machine Unlearning, arXiv 2304.04934; AMUN,
    arXiv 2503.00917, compares itself with a penalty of 5e-4.
  """
  fit = objectives.cross_entropy(network.model)

  def objective(variables, draws, context, hyper, time):
    loss, stats = fit(variables, draws, context, hyper, time)
    return loss + hyper['l1'] * (1 - time) * l1_norm(variables.params), stats

  phase = descent.Phase(objective, (('retain', training.batch_size),))
  return finetuning.method(
    descent.Recipe((phase,), training.optimizer, network.inputs),
    training.steps,
    'l1-sparse fine-tuning',
    grid=finetuning.grid_points('l1', penalties),
  )
