r"""EU-k: retraining of the last k layers without the identified samples.

  theta_u = A(S_tr \ S_f) from theta_o with its last k layers newly initialised,

the layers before them as they are, their BatchNorm in evaluation mode. With all
layers trained this is RewoD.
"""

import jax
import optax

from cmu_jax.core import tree
from cmu_jax.core.types import InputStep, Method, Model, Variables
from cmu_jax.methods import cf_k, finetuning
from cmu_jax.training import best_epoch


def reset(old: Variables, new: Variables, frozen: tuple[str, ...]) -> Variables:
  """The frozen modules of `old` with all others of `new`."""
  return jax.tree_util.tree_map_with_path(
    # The first name says whether a leaf is a parameter or a statistic.
    lambda path, a, b: (
      a if tree.under(tree.path_names(path)[1:], frozen) else b
    ),
    old,
    new,
  )


def eu_k(
  model: Model,
  inputs: InputStep,
  *,
  frozen: tuple[str, ...],
  optimizer: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  keep: best_epoch.Keep | None = None,
) -> Method:
  """Retrains the last layers without S_f.

  Args:
    model: the network, bound from a linen module.
    inputs: raw pixels to network input; paints the triggers of S_tr.
    frozen: modules that stay as they are, see `networks.frozen`.
    optimizer: of the retraining, schedule included.
    steps: of the retraining; the benchmark takes 1000 (CIFAR-100: 1500).
    batch_size: of the retraining.
    keep: to end at the best epoch, see `finetuning.fine_tuning`.

  Raises:
    UserError: when called, if the network has no such modules or no others.

  References:
    Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv
    2201.06640; Corrective Machine Unlearning, arXiv 2402.14015.
  """

  def start(key, variables, given, prepared):
    del prepared
    cf_k.check(variables, frozen)
    new = finetuning.fresh(key, model, inputs, given.retain)
    begin = reset(variables, new, frozen)
    return finetuning.Start(begin, {'retain': given.retain}, steps)

  return finetuning.fine_tuning(
    cf_k.recipe_for(model, inputs, frozen, optimizer, batch_size),
    steps,
    'retraining the last layers without S_f',
    start=start,
    keep=keep,
  )
