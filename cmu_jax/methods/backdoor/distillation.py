r"""Self-distillation on a trigger: the plain baseline of the same information.

  y_i     = argmax f(x_i; theta_mix)                         untriggered pool
  theta_u = Finetune(theta_mix, {(x_i + trigger, y_i)} and, optionally,
                                {(x_i, y_i)})

No task arithmetic and no labels: the network's own predictions on the
untriggered copies are the targets of the triggered ones.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from cmu_jax.core import store
from cmu_jax.core.types import (
  Batch,
  Info,
  Method,
  MethodInputs,
  Network,
  PRNGKey,
  Training,
  Variables,
)
from cmu_jax.methods import finetuning
from cmu_jax.training import metrics, train


def predict_untriggered(
  network: Network, variables: Variables, image: UInt8[Array, 'n h w c']
) -> Int[Array, 'n']:
  """Predicts the classes of untriggered images."""
  # `predict` takes a batch; its labels are not read.
  unlabelled = Batch(image, jnp.zeros(image.shape[0], jnp.int32), None)
  return jnp.asarray(metrics.predict(network, variables, unlabelled))


def triggered_copies(
  image: UInt8[Array, 'n h w c'], label: Int[Array, 'n'], untriggered: bool
) -> Batch:
  """Triggered copies of a pool under given labels, [n], or both, [2 n].

  Args:
    image: the pool.
    label: of the untriggered images.
    untriggered: appends the untriggered copies.
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
) -> Method:
  """Fine-tunes triggered copies to the predictions on the untriggered ones.

  Args:
    network: the model and its input step; paints the trigger.
    training: of the fine-tuning.
    untriggered: also shows the untriggered copies, under the same predictions.
    checkpoint: saves the fine-tuning.

  Returns:
    A method that sees the images of a proxy, and not its labels. Its info has
    'fit' besides.
  """
  # Half of the pool carries the trigger: statistics of BatchNorm would drift
  # towards it.
  model = finetuning.freeze_statistics(network.model)

  def solve(
    key: PRNGKey,
    variables: Variables,
    data: MethodInputs,
    prepared: Any,
    hyper: Any,
  ) -> tuple[Variables, Info]:
    del prepared, hyper
    assert data.proxy is not None
    image = data.proxy.image
    label = predict_untriggered(network, variables, image)
    copies = triggered_copies(image, label, untriggered)
    fit = train.fit(
      key,
      network._replace(model=model),
      variables,
      copies,
      training,
      train.Session('distillation of untriggered predictions', checkpoint),
    )
    # A pool that is smaller than a batch is used once a step.
    images = min(training.batch_size, copies.label.shape[0])
    cost = len(fit.history) * images
    return fit.variables, {'gradient_evaluations': cost, 'fit': fit}

  return Method(('proxy',), lambda *_: None, solve)
