"""The methods of `unlearn` by name, bound to a user's network and settings."""

import math

from cmu_jax.commands.unlearn.request import UnlearnRequest
from cmu_jax.core.types import (
  Info,
  Method,
  MethodInputs,
  Network,
  Samples,
  Training,
)
from cmu_jax.methods import amun, factories
from cmu_jax.training import optimizers

# Their loss on the forget set has a weight beside that of what to keep.
_WEIGHTED = ('random_label', 'salun', 'relabel_second')
_RATE, _ASCENT_RATE = 1e-2, 1e-3


def learning_rate(request: UnlearnRequest) -> float:
  """As asked for; an ascent has no minimum to stop at and gets a tenth."""
  if request.learning_rate is not None:
    return request.learning_rate
  return _ASCENT_RATE if request.method == 'gradient_ascent' else _RATE


def make_method(
  request: UnlearnRequest, network: Network, given: MethodInputs
) -> Method:
  """The method that a request names.

  Args:
    request: name and settings.
    network: the model and its input step.
    given: the pictures; their number says how long an epoch is.
  """
  keep, forget = _count(given.retain), _count(given.forget)
  size = min(request.batch_size, keep or forget)
  if request.method == 'ssd':
    return factories.factory('ssd')(network, batch_size=min(size, forget))
  optimizer = optimizers.sgd(
    optimizers.constant_schedule(learning_rate(request)), request.weight_decay
  )
  return factories.factory(request.method)(
    network,
    Training(
      optimizer, request.epochs * math.ceil((keep or forget) / size), size
    ),
    **_options(request.method, keep, forget),
  )


def _count(samples: Samples | None) -> int:
  return 0 if samples is None else samples.valid.shape[0]


def _options(name: str, keep: int, forget: int) -> Info:
  """What a method takes besides, by how many pictures there are."""
  if name == 'amun':
    return {'sets': amun.ALL if keep else amun.ALONE}
  if name in ('boundary_shrink', 'trw'):
    return {'retain': bool(keep)}
  # Each picture counts once, as if both sets were one.
  return {'weights': (forget / keep,)} if name in _WEIGHTED else {}
