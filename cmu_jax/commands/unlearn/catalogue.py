"""The methods of `unlearn` by name, bound to a network and settings."""

import math
from collections.abc import Callable

from cmu_jax.commands.unlearn.request import UnlearnRequest
from cmu_jax.core.types import (
  Info,
  Method,
  MethodInputs,
  Network,
  Samples,
  Training,
)
from cmu_jax.methods import (
  amun,
  ascent,
  relabelling,
  retraining,
  teachers,
  trw,
  union_training,
)
from cmu_jax.methods.dampening import ssd
from cmu_jax.training import optimizers

FACTORIES: dict[str, Callable[..., Method]] = {
  'amun': amun.amun,
  'finetune': retraining.finetune,
  'l1_sparse': retraining.l1_sparse,
  'random_label': relabelling.random_label,
  'salun': relabelling.salun,
  'neggrad_plus': ascent.neggrad_plus,
  'npo': ascent.npo,
  'scrub': teachers.scrub,
  'relabel_second': relabelling.relabel_second,
  'trw': trw.trw,
  'boundary_shrink': union_training.boundary_shrink,
  'gradient_ascent': ascent.gradient_ascent,
}
# Methods that weigh the loss of the forget set against that of the retain set.
_WEIGHTED = ('random_label', 'salun', 'relabel_second')
# An ascent has no minimum at which to stop, so its steps are smaller.
_RATE, _ASCENT_RATE = 1e-2, 1e-3


def learning_rate(request: UnlearnRequest) -> float:
  """The learning rate of a request, or the default of its method."""
  if request.learning_rate is not None:
    return request.learning_rate
  return _ASCENT_RATE if request.method == 'gradient_ascent' else _RATE


def make_method(
  request: UnlearnRequest, network: Network, data: MethodInputs
) -> Method:
  """The method of a request.

  Args:
    request: name and settings.
    network: the model and its input step.
    data: the pictures; their number is the length of an epoch.
  """
  retain, forget = _count(data.retain), _count(data.forget)
  size = min(request.batch_size, retain or forget)
  if request.method == 'ssd':
    return ssd.ssd(network, batch_size=min(size, forget))
  optimizer = optimizers.sgd(
    optimizers.constant_schedule(learning_rate(request)), request.weight_decay
  )
  return FACTORIES[request.method](
    network,
    Training(
      optimizer, request.epochs * math.ceil((retain or forget) / size), size
    ),
    **_options(request.method, retain, forget),
  )


def _count(samples: Samples | None) -> int:
  return 0 if samples is None else samples.valid.shape[0]


def _options(name: str, retain: int, forget: int) -> Info:
  """Further options of a method, from the numbers of pictures."""
  if name == 'amun':
    return {'sets': amun.ALL if retain else amun.ALONE}
  if name in ('boundary_shrink', 'trw'):
    return {'retain': bool(retain)}
  # Each picture counts once, as if both sets were a single set.
  return {'weights': (forget / retain,)} if name in _WEIGHTED else {}
