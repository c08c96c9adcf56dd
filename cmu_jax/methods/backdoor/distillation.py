r"""Self-distillation on a trigger: the plain baseline of the same information.

  y_i     = argmax f(x_i; theta_mix)                         untriggered pool
  theta_u = Finetune(theta_mix, {(x_i + trigger, y_i)} and, if asked for,
                                {(x_i, y_i)})

No task arithmetic, no labels: the network's own predictions on the untriggered
copies say what the triggered ones should have been. Running statistics of
BatchNorm are held, because half of the pool carries the trigger.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from cmu_jax.core import store
from cmu_jax.core.types import (
  Batch,
  Info,
  Network,
  PRNGKey,
  Training,
  Unlearner,
  Variables,
)
from cmu_jax.methods import finetuning
from cmu_jax.training import metrics, train


def predict_untriggered(
  network: Network, variables: Variables, image: UInt8[Array, 'n h w c']
) -> Int[Array, 'n']:
  """What the network makes of untriggered images; no label is looked at."""
  unlabelled = Batch(image, jnp.zeros(image.shape[0], jnp.int32), None)
  return jnp.asarray(metrics.predict(network, variables, unlabelled))


def triggered_copies(
  image: UInt8[Array, 'n h w c'], label: Int[Array, 'n'], untriggered: bool
) -> Batch:
  """Triggered copies of a pool under given labels, [n], or both, [2 n].

  Args:
    image: the pool.
    label: of the untriggered images.
    untriggered: append the untriggered copies.
  """
  triggered = jnp.ones(label.shape, bool)
  if not untriggered:
    return Batch(image, label, triggered)
  return Batch(
    jnp.concatenate([image, image]),
    jnp.concatenate([label, label]),
    jnp.concatenate([triggered, ~triggered]),
  )


def self_distillation(
  network: Network,
  training: Training,
  *,
  untriggered: bool = True,
  checkpoint: store.Checkpoint | None = None,
) -> Unlearner:
  """Fine-tunes triggered copies to the predictions on the untriggered ones.

  Args:
    network: the model and its input step.
    training: optimizer, steps and batch size.
    untriggered: also show the untriggered copies, under the same predictions.
    checkpoint: where the fine-tuning saves itself.

  Returns:
    An unlearner. Of its problem, a `Proxy`, it sees the images only. Its info
    holds 'fit'.
  """

  def unlearn(
    key: PRNGKey, variables: Variables, problem: Any
  ) -> tuple[Variables, Info]:
    label = predict_untriggered(network, variables, problem.image)
    fitted = train.fit(
      key,
      Network(finetuning.freeze_statistics(network.model), network.inputs),
      variables,
      triggered_copies(problem.image, label, untriggered),
      training=training,
      checkpoint=checkpoint,
      title='distillation of untriggered predictions',
    )
    return fitted.variables, {'fit': fitted}

  return unlearn
