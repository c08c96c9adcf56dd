"""The optimisers of the published recipes, and parts that stay frozen."""

from typing import Any

import jax
import optax

from cmu_jax.core import tree


def adamw(
  schedule: optax.Schedule, weight_decay: float = 0.01, mask: Any = None
) -> optax.GradientTransformation:
  """AdamW as in CUTS: betas .9 and .999, eps 1e-8, decay on everything.

  Args:
    schedule: learning rate by step.
    weight_decay: decoupled decay; optax's own default would be 1e-4.
    mask: pytree or function of booleans: which parameters decay; None for all.
  """
  return optax.adamw(
    schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, mask=mask
  )


def sgd(
  schedule: optax.Schedule,
  weight_decay: float = 5e-4,
  momentum: float = 0.9,
  mask: Any = None,
) -> optax.GradientTransformation:
  """SGD with momentum and coupled L2, as in procedure A of the benchmark.

  The decay enters the gradient before the momentum, on every parameter unless
  `mask` says otherwise. Source: Corrective Machine Unlearning (TMLR 2024).
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask),
    optax.trace(decay=momentum),
    optax.scale_by_learning_rate(schedule),
  )


def freezing(
  optimizer: optax.GradientTransformation, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
  """`optimizer`, with some modules ('head', 'body/conv1') left alone."""

  def labels(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, _: (
        'frozen' if tree.under(tree.path_names(path), frozen) else 'trained'
      ),
      params,
    )

  return optax.partition(
    {'trained': optimizer, 'frozen': optax.set_to_zero()}, labels
  )
