"""N networks of one kind as one program, and the terms that tie them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from cmu_jax.core import tree, vectorize
from cmu_jax.core.types import Model, PRNGKey, Variables
from cmu_jax.robustness import spectral
from cmu_jax.robustness.spectral import Layer


class Regulariser(NamedTuple):
  """A term of a joint loss."""

  # (key, variables) -> the state that steps carry.
  start: Callable[[PRNGKey, Variables], Any]
  # (variables, state) -> state, at the beginning of a step; no gradient flows
  # through it.
  before: Callable[[Variables, Any], Any]
  # (variables, state, image, label) -> the term, of network input.
  value: Callable[[Variables, Any, jax.Array, jax.Array], jax.Array]
  # True where cross-entropies are added over members, not averaged.
  total: bool = False


def no_regulariser() -> Regulariser:
  """Trains members side by side, independent of each other."""
  return Regulariser(
    lambda key, variables: (),
    lambda variables, state: state,
    lambda variables, state, image, label: jnp.zeros(()),
  )


class Member(NamedTuple):
  """A network, and the layers that members are compared by."""

  model: Model
  layers: tuple[Layer, ...]


class Members(NamedTuple):
  """N networks, whose variables are stacked along a leading axis."""

  size: int
  # Of the input of each layer that all are compared by.
  shapes: tuple[tuple[int, ...], ...]
  init: Callable[..., Variables]  # (key, image[:1]) -> variables
  # (fn(member, variables of it, *arguments of it), variables, *arguments) ->
  # results stacked along a leading axis; arguments have that axis too.
  map: Callable[..., Any]
  # (variables, image) -> (logits [N, b, k], batch_stats), training.
  update: Callable[..., tuple[jax.Array, Any]]
  model: Model  # the ensemble as one network: the log of mean probabilities
  # (variables, i) -> (model, variables) of a member.
  one: Callable[[Variables, int], tuple[Model, Variables]]
  # A transformation of one network -> of all; its update takes batch_stats.
  optimizer: Callable[
    [optax.GradientTransformation], optax.GradientTransformationExtraArgs
  ]


def find_convolutions(
  model: Model, variables: Variables, image_shape: tuple[int, ...]
) -> tuple[Layer, ...]:
  """Finds the convolutions, which LOTOS compares members by."""
  layers = spectral.find_layers(model.apply, variables, image_shape)
  return tuple(layer for layer in layers if layer.kind == 'conv')


def _make_mean(model: Model, map_members: Callable[..., Any]) -> Model:
  """Makes the network of the members' mean probabilities."""

  def apply(variables, image):
    logits = map_members(
      lambda member, single: member.model.apply(single, image), variables
    )
    # The logarithm of a mean would be -inf where all probabilities round to 0.
    logs = jax.nn.log_softmax(logits, axis=-1)
    return jax.nn.logsumexp(logs, axis=0) - jnp.log(logs.shape[0])

  # An ensemble has no features, hence no stem and no trunk.
  return model._replace(apply=apply, stem=None, trunk=None)


def stack_members(
  model: Model,
  count: int,
  layers: tuple[Layer, ...],
  strategy: vectorize.Strategy | None = None,
) -> Members:
  """Stacks N networks of one kind.

  Args:
    model: the kind.
    count: N.
    layers: that members are compared by; the same in all.
    strategy: see `vectorize.map_members`; None for the backend's best.
  """
  member = Member(model, layers)

  def init(key: PRNGKey, image: Float[Array, 'n h w c']) -> Variables:
    # A map compiles the initialisation once for all members.
    keys = jax.random.split(key, count)
    return jax.lax.map(lambda k: model.init(k, image), keys)

  def map_members(function, variables, *arguments):
    apply = functools.partial(function, member)
    return vectorize.map_members(apply, strategy)(variables, *arguments)

  def update(variables, image):
    # All members see the same batch.
    return map_members(
      lambda member, single: member.model.update(single, image), variables
    )

  def optimizer(inner):
    extra = optax.with_extra_args_support(inner)
    run = lambda g, s, p, b: extra.update(g, s, p, batch_stats=b)

    def step(updates, state, params=None, *, batch_stats):
      # One member after another: `vmap` would turn the choice of the steps that
      # clip into clipping at every step.
      return vectorize.map_members(run, 'map')(
        updates, state, params, batch_stats
      )

    return optax.GradientTransformationExtraArgs(jax.vmap(extra.init), step)

  return Members(
    count,
    tuple(layer.shape for layer in layers),
    init,
    map_members,
    update,
    _make_mean(model, map_members),
    lambda variables, i: (model, tree.index(variables, i)),
    optimizer,
  )
