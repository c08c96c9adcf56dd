r"""Retraining and fine-tuning without the identified samples.

With R = S_tr \ S_f, which still has the bad samples that nobody identified:

  retrain    theta_u = A(R) from a fresh initialisation (RewoD, EU)
  finetune   theta_u = Finetune(theta_o, R) (CF, catastrophic forgetting)
  eu_k       as `retrain`, all but the last k layers frozen as in theta_o
  cf_k       as `finetune`, likewise
  l1_sparse  theta_u = argmin over theta from theta_o of
                       CE(R) + l1 (1 - t / N) ||theta||_1 at step t of N

A is the procedure that trained the original. At an identified fraction of 1
`retrain` is the gold standard of the corrective benchmark.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmu_jax import networks
from cmu_jax.core import errors, tree
from cmu_jax.core.types import Method, Network, Training, Variables
from cmu_jax.methods import finetuning, objectives
from cmu_jax.training import descent, early_stopping, optimizers


@finetuning.check_settings
def retrain(
  network: Network,
  training: Training,
  *,
  frozen: tuple[str, ...] = (),
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """Retrains without S_f; with frozen modules the last layers alone (EU-k).

  Args:
    network: the model and its input step; with frozen modules, bound from a
      linen module.
    training: that of the original. EU-k takes 1000 steps in the benchmark
      (CIFAR-100: 1500).
    frozen: modules that stay as in theta_o, see `networks.frozen_modules`.
    keep: ends at the best epoch, see `finetuning.method`.

  Raises:
    UserError: when called, if the network has no such modules or no others.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, section 3.2; EU-k: Towards
    Adversarial Evaluations for Inexact Machine Unlearning, arXiv 2201.06640.
  """

  def start(key, variables, data, prepared):
    del prepared
    begin = finetuning.initialize(key, network, data.retain)
    if frozen:
      _check_frozen(variables, frozen)
      begin = reinitialize(variables, begin, frozen)
    return descent.Start(begin, {'retain': data.retain}, training.steps)

  # The optimizer's schedule is that of the original: only the data differ.
  return _method('retraining', network, training, frozen, keep, start)


@finetuning.check_settings
def finetune(
  network: Network,
  training: Training,
  *,
  frozen: tuple[str, ...] = (),
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """Continues the training without S_f; of the last layers alone as CF-k.

  Args:
    network: as in `retrain`.
    training: of the fine-tuning; 1000 steps in the benchmark.
    frozen: modules that stay as they are; their BatchNorm is in evaluation
      mode.
    keep: ends at the best epoch, see `finetuning.method`.

  Raises:
    UserError: as in `retrain`.

  References:
    As in `retrain`.
  """

  def start(key, variables, data, prepared):
    del key, prepared
    _check_frozen(variables, frozen)
    return descent.Start(variables, {'retain': data.retain}, training.steps)

  return _method('fine-tuning', network, training, frozen, keep, start)


@finetuning.check_settings
def eu_k(
  network: Network, training: Training, *, frozen: tuple[str, ...], **options
) -> Method:
  """Retrains the last layers alone: `retrain` with its modules to freeze."""
  # A default would make it another method under the same name.
  return retrain(network, training, frozen=frozen, **options)


@finetuning.check_settings
def cf_k(
  network: Network, training: Training, *, frozen: tuple[str, ...], **options
) -> Method:
  """Fine-tunes the last layers alone: `finetune` with modules to freeze."""
  return finetune(network, training, frozen=frozen, **options)


def _method(
  verb: str,
  network: Network,
  training: Training,
  frozen: tuple[str, ...],
  keep: early_stopping.BestEpoch | None,
  start: Callable[..., descent.Start],
) -> Method:
  """Plain training on R, without the frozen modules."""
  model, optimizer = network.model, training.optimizer
  if frozen:
    # Weight decay and the statistics of BatchNorm would move them as well.
    model = networks.freeze_norms(model, frozen)
    optimizer = optimizers.freeze_modules(optimizer, frozen)
  phase = objectives.training_phase(model, 'retain', training.batch_size)
  return finetuning.method(
    descent.Recipe((phase,), optimizer, network.inputs),
    training.steps,
    f'{verb}{" the last layers" if frozen else ""} without S_f',
    start=start,
    keep=keep,
  )


def _check_frozen(variables: Variables, frozen: tuple[str, ...]) -> None:
  """Checks that the frozen modules exist and leave some to train."""
  # A misspelt name would train the whole network, and nobody would notice.
  paths = tree.leaves_by_path(variables.params)
  modules = {'/'.join(p[:i]) for p in paths for i in range(1, len(p))}
  for name in frozen:
    if name not in modules:
      raise errors.unknown_name('frozen module', name, modules)
  errors.check(
    not all(tree.is_under(path, frozen) for path in paths),
    f'all modules are frozen ({", ".join(frozen)}): leave one to train',
  )


def reinitialize(
  old: Variables, new: Variables, frozen: tuple[str, ...]
) -> Variables:
  """Joins the frozen modules of `old` with all others of `new`."""
  # Frozen layers keep their running statistics together with their weights.
  return jax.tree_util.tree_map_with_path(
    # The first name says whether a leaf is a parameter or a statistic.
    lambda path, a, b: (
      a if tree.is_under(tree.path_names(path)[1:], frozen) else b
    ),
    old,
    new,
  )


def l1_norm(params: PyTree) -> Float[Array, '']:
  """The sum of absolute values of all parameters."""
  return sum((jnp.abs(x).sum() for x in jax.tree.leaves(params)), jnp.zeros(()))


@finetuning.check_settings
def l1_sparse(
  network: Network,
  training: Training,
  *,
  penalties: tuple[float, ...] = (5e-4, 1e-5, 1e-4, 1e-3),
) -> Method:
  """Fine-tunes without S_f towards few weights.

  Args:
    penalties: the grid of 'l1', the penalty at the first step.

  References:
    Model Sparsity Can Simplify Machine Unlearning, arXiv 2304.04934; AMUN,
    arXiv 2503.00917, compares itself with a penalty of 5e-4.
  """
  cross_entropy = objectives.cross_entropy(network.model)

  def objective(variables, draws, context, hyper, time):
    loss, stats = cross_entropy(variables, draws, context, hyper, time)
    # The penalty makes room at first; without it the network settles later.
    return loss + hyper['l1'] * (1 - time) * l1_norm(variables.params), stats

  phase = descent.Phase(objective, (('retain', training.batch_size),))
  return finetuning.method(
    descent.Recipe((phase,), training.optimizer, network.inputs),
    training.steps,
    'l1-sparse fine-tuning',
    grid=finetuning.grid_points('l1', penalties),
  )
