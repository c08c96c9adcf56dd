"""The frame of methods: checks of settings, and from a recipe to a `Method`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

import jax
import numpy as np

from cmu_jax.core import array_checks, rng, store
from cmu_jax.core.types import (
  Method,
  MethodInputs,
  Model,
  Network,
  PRNGKey,
  Result,
  Samples,
  Training,
  Variables,
)
from cmu_jax.training import descent, early_stopping, optimizers, train

_Settings = ParamSpec('_Settings')
# Arguments of the methods that are made of other methods.
_METHODS = ('method', 'retraining', 'fallback', 'single', 'several')


def check_settings(
  factory: Callable[_Settings, Method],
) -> Callable[_Settings, Method]:
  """Decorates a factory of methods: it refuses settings of another type.

  A method is called long after it is made; without this check, the error of a
  wrong network or training would come from another library.
  """
  signature = inspect.signature(factory)

  @functools.wraps(factory)
  def make(*args: _Settings.args, **options: _Settings.kwargs) -> Method:
    # Absent arguments are left to the call, which names them.
    arguments = signature.bind_partial(*args, **options).arguments
    for name, value in arguments.items():
      if name == 'network':
        array_checks.check_type(name, value, Network)
      if name == 'training':
        train.check_training(value)
      if name in _METHODS:
        array_checks.check_type(name, value, Method)
    return factory(*args, **options)

  return make


def make_plain_training(
  pictures: int, defaults: dict[str, Any], changes: dict[str, Any]
) -> Training:
  """A training by SGD at a constant rate on few pictures.

  Args:
    pictures: n; a batch has at most so many.
    defaults: learning_rate, steps and batch_size.
    changes: of them; None for the default.
  """
  settings = defaults | {k: v for k, v in changes.items() if v is not None}
  rate = optimizers.constant_schedule(settings['learning_rate'])
  return Training(
    # Decay would pull the weights away although no picture asks for it.
    optimizers.sgd(rate, weight_decay=0.0),
    int(settings['steps']),
    min(int(settings['batch_size']), pictures),
  )


def method(
  recipe: descent.Recipe,
  steps: int,
  title: str,
  *,
  grid: tuple[dict[str, float], ...] = ({},),
  needs: tuple[str, ...] | None = None,
  prepare: Callable[..., Any] = lambda key, variables, data: None,
  start: Callable[..., descent.Start] | None = None,
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """Makes a method that fine-tunes; its `solve` also takes a `checkpoint`.

  Args:
    recipe: phases, optimizer and input step.
    steps: of the fine-tuning.
    title: of the progress bar and of errors.
    grid: of the numbers that the objectives receive as `hyper`.
    needs: parts of `MethodInputs`; None for the streams of the phases.
    prepare: as in `types.Method`.
    start: (key, variables, data, prepared) -> `descent.Start`; None to start at
      theta_o on the streams of the phases, with the prepared value as context.
    keep: returns the best epoch on validation images, which the method then
      needs; None for the last iterate.
  """
  # Sorted, so that the needs do not depend on the order of phases.
  names = {name for phase in recipe.phases for name, _ in phase.streams}
  parts = tuple(sorted(names)) if needs is None else needs

  def start_at_original(key, variables, data, prepared):
    del key
    streams = {name: getattr(data, name) for name in parts}
    return descent.Start(variables, streams, steps, prepared)

  def solve(
    key: PRNGKey,
    variables: Variables,
    data: MethodInputs,
    prepared: Any,
    hyper: Mapping[str, Any],
    checkpoint: store.Checkpoint | None = None,
  ) -> Result:
    # The checkpoint comes with the call, because only the caller knows the run
    # that a training belongs to.
    watch = None
    if keep is not None:
      assert data.validation is not None
      watch = keep, data.validation
    result, cost = descent.descend(
      key,
      recipe,
      (start or start_at_original)(key, variables, data, prepared),
      hyper=dict(hyper),
      session=train.Session(title, checkpoint, watch=watch),
    )
    return result, {'gradient_evaluations': cost}

  validated = parts if keep is None else (*parts, 'validation')
  return Method(validated, prepare, solve, grid)


def grid_points(
  name: str, values: tuple[float, ...]
) -> tuple[dict[str, float], ...]:
  """The grid of one hyperparameter."""
  return tuple({name: float(value)} for value in values)


def prepare_teacher(
  key: PRNGKey, variables: Variables, data: MethodInputs
) -> Variables:
  """A `prepare` that returns theta_o, the teacher."""
  del key, data
  return variables


def initialize(key: PRNGKey, network: Network, samples: Samples) -> Variables:
  """Initializes a network for images of this shape."""
  image = network.inputs.eval(samples.batch.image[:1], None)
  return jax.jit(network.model.init)(rng.fold_in(key, 'init'), image)


def epoch_lengths(data: Any, forget: int, retain: int) -> tuple[int, int]:
  """ceil(count / batch size) of S_f and of R."""
  sets = (data.forget, forget), (data.retain, retain)
  # Arrays are padded to one size for all fractions: the mask has the counts.
  on_forget, on_retain = (
    -(-int(np.asarray(samples.valid).sum()) // size) for samples, size in sets
  )
  return on_forget, on_retain


# One object a network, so that its compilations are shared.
@functools.lru_cache(maxsize=32)
def freeze_statistics(model: Model) -> Model:
  """A network that trains with its running statistics, and leaves them."""
  return model._replace(
    update=lambda variables, image: (
      model.apply(variables, image),
      variables.batch_stats,
    )
  )
