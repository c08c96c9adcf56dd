"""How reference networks are trained: as the audited one was, as it is said."""

import optax

from cmu_jax.audits import shadow
from cmu_jax.commands.audit.request import Request
from cmu_jax.data import inputs
from cmu_jax.networks.shipped import Shipped
from cmu_jax.training import optimizers, schedules, train


def fit(request: Request, network: Shipped, size: int) -> shadow.Fit:
  """SGD with momentum, its rate falling to 0 along a cosine.

  Args:
    request: its epochs, batch size, rate, decay and augmentation.
    network: the audited one, for its normalisation.
    size: points that each reference is trained on.
  """
  per_epoch = train.steps_per_epoch(size, request.batch_size)
  rate: optax.Schedule = schedules.cosine(
    request.learning_rate, request.epochs, 0.0, per_epoch
  )
  step = inputs.make(
    network.mean, network.std, pad=request.pad, flip=request.flip
  )
  return shadow.Fit(
    step,
    optimizers.sgd(rate, request.weight_decay),
    request.epochs * per_epoch,
    request.batch_size,
  )
