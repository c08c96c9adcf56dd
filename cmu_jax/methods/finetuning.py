"""The frame of the methods that fine-tune: from a recipe to a `Method`."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cmu_jax.core import rng, store
from cmu_jax.core.types import (
  Info,
  Method,
  MethodInputs,
  Model,
  Network,
  PRNGKey,
  Samples,
  Variables,
)
from cmu_jax.training import descent, early_stopping


class Start(NamedTuple):
  """What a fine-tuning is given.

  Attributes:
    variables: where it starts.
    streams: the sets of samples by the names that its phases use.
    steps: how many, or the phase of each one, [t].
    context: teachers and masks for its objectives.
    spent: gradients of single images that went into the context.
  """

  variables: Variables
  streams: Mapping[str, Samples]
  steps: int | np.ndarray
  context: Any = None
  spent: int = 0


def method(
  recipe: descent.Recipe,
  steps: int,
  title: str,
  *,
  grid: tuple[dict[str, float], ...] = ({},),
  needs: tuple[str, ...] | None = None,
  prepare: Callable[..., Any] = lambda key, variables, given: None,
  start: Callable[..., Start] | None = None,
  keep: early_stopping.BestEpoch | None = None,
) -> Method:
  """A method that fine-tunes; its `solve` takes a `checkpoint` besides.

  Args:
    recipe: phases, optimiser and input step.
    steps: of the fine-tuning.
    title: what the progress bar and errors call it.
    grid: of the numbers that the objectives get as `hyper`.
    needs: parts of `Given`; None for those that the phases are named after.
    prepare: as in `types.Method`.
    start: (key, variables, given, prepared) -> Start; None to start at theta_o
      on the given parts, with what was prepared as context.
    keep: to return the epoch that is best on validation images, which the
      method then needs; None for the last iterate.
  """
  names = {name for phase in recipe.phases for name, _ in phase.streams}
  parts = tuple(sorted(names)) if needs is None else needs

  def plain(key, variables, given, prepared):
    del key
    streams = {name: getattr(given, name) for name in parts}
    return Start(variables, streams, steps, prepared)

  def solve(
    key: PRNGKey,
    variables: Variables,
    given: MethodInputs,
    prepared: Any,
    hyper: Mapping[str, Any],
    checkpoint: store.Checkpoint | None = None,
  ) -> tuple[Variables, Info]:
    begin = (start or plain)(key, variables, given, prepared)
    watch = None
    if keep is not None:
      assert given.validation is not None
      watch = keep, given.validation
    found, cost = descent.descend(
      key,
      recipe,
      begin.variables,
      begin.streams,
      begin.steps,
      context=begin.context,
      hyper=dict(hyper),
      title=title,
      watch=watch,
      checkpoint=checkpoint,
    )
    return found, {'gradient_evaluations': cost + begin.spent}

  seen = parts if keep is None else (*parts, 'validation')
  return Method(seen, prepare, solve, grid)


def grid_points(
  name: str, values: tuple[float, ...]
) -> tuple[dict[str, float], ...]:
  """The grid of one hyperparameter."""
  return tuple({name: float(value)} for value in values)


def prepare_teacher(
  key: PRNGKey, variables: Variables, given: MethodInputs
) -> Variables:
  """What to prepare where theta_o itself is the teacher."""
  del key, given
  return variables


def initialize(key: PRNGKey, network: Network, samples: Samples) -> Variables:
  """The network newly initialised, for images like these."""
  image = network.inputs.eval(samples.batch.image[:1], None)
  return jax.jit(network.model.init)(rng.fold_in(key, 'init'), image)


def epoch_lengths(given: Any, forget: int, retain: int) -> tuple[int, int]:
  """ceil(count / batch size) of S_f and of R, whose counts may be masked."""
  sets = (given.forget, forget), (given.retain, retain)
  first, second = (
    -(-int(np.asarray(samples.valid).sum()) // size) for samples, size in sets
  )
  return first, second


@functools.lru_cache(maxsize=32)
def freeze_statistics(model: Model) -> Model:
  """A network whose training holds its running statistics.

  One object a network, so that compilations are shared.
  """
  return model._replace(
    update=lambda variables, image: (
      model.apply(variables, image),
      variables.batch_stats,
    )
  )
