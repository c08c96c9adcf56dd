"""N networks as one program: alike ones stacked, others side by side.

Everything that looks at members goes through `map`, so that losses do not know
which of the two they have.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from cmu_jax.core import errors, rng, tree, vectorize
from cmu_jax.core.types import Model, PRNGKey, Variables
from cmu_jax.robustness import spectral
from cmu_jax.robustness.spectral import Layer


class Member(NamedTuple):
  """A network and those of its layers that members are compared by."""

  model: Model
  layers: tuple[Layer, ...]


class Members(NamedTuple):
  """N networks.

  `variables` are those of all of them: stacked along a leading axis where
  networks are alike, else tuples.

  Attributes:
    size: N.
    shapes: of the input of each layer that all are compared by.
    init: (key, image[:1]) -> variables.
    map: (fn(member, variables of it, *arguments of it), variables, *arguments)
      -> results stacked along a leading axis; arguments have that axis too.
    update: (variables, image) -> (logits [N, b, k], batch_stats), training.
    model: the ensemble as one network: the log of mean probabilities.
    one: (variables, i) -> (model, variables) of a member.
    optimizer: a transformation of one network -> of all; its update takes
      batch_stats.
  """

  size: int
  shapes: tuple[tuple[int, ...], ...]
  init: Callable[..., Variables]
  map: Callable[..., Any]
  update: Callable[..., tuple[jax.Array, Any]]
  model: Model
  one: Callable[[Variables, int], tuple[Model, Variables]]
  optimizer: Callable[
    [optax.GradientTransformation], optax.GradientTransformationExtraArgs
  ]


def convolutions(
  model: Model, variables: Variables, image_shape: tuple[int, ...]
) -> tuple[Layer, ...]:
  """The convolutions of a network, which LOTOS compares members by."""
  found = spectral.find_layers(model.apply, variables, image_shape)
  return tuple(layer for layer in found if layer.kind == 'conv')


def _averaged(logits: Float[Array, 'm b k']) -> Float[Array, 'b k']:
  """log of the mean of the members' probabilities; never -inf by rounding."""
  each = jax.nn.log_softmax(logits, axis=-1)
  return jax.nn.logsumexp(each, axis=0) - jnp.log(each.shape[0])


def _as_one(model: Model, mapped: Callable[..., Any]) -> Model:
  """The ensemble as a network; there is no training or head of it."""

  def apply(variables, image):
    return _averaged(
      mapped(lambda one, own: one.model.apply(own, image), variables)
    )

  return model._replace(apply=apply, stem=None, trunk=None)


def alike(
  model: Model,
  count: int,
  layers: tuple[Layer, ...],
  how: vectorize.Strategy | None = None,
) -> Members:
  """N networks of one kind, stacked.

  Args:
    model: the kind.
    count: N.
    layers: that members are compared by; the same in all.
    how: they are driven, see `vectorize.map_members`; None for the backend's
      best.
  """
  member = Member(model, layers)

  def init(key: PRNGKey, image: Float[Array, 'n h w c']) -> Variables:
    keys = jax.random.split(key, count)
    return jax.lax.map(lambda k: model.init(k, image), keys)

  def mapped(fn, variables, *arguments):
    each = lambda own, *rest: fn(member, own, *rest)
    return vectorize.map_members(each, how)(variables, *arguments)

  def update(variables, image):
    return mapped(lambda one, own: one.model.update(own, image), variables)

  def optimizer(inner):
    extra = optax.with_extra_args_support(inner)
    run = lambda g, s, p, b: extra.update(g, s, p, batch_stats=b)

    def step(updates, state, params=None, *, batch_stats):
      # One after another also where `how` is 'vmap': that would turn the choice
      # of the steps that clip into clipping at every step.
      return vectorize.map_members(run, 'map')(
        updates, state, params, batch_stats
      )

    return optax.GradientTransformationExtraArgs(jax.vmap(extra.init), step)

  return Members(
    count,
    tuple(layer.shape for layer in layers),
    init,
    mapped,
    update,
    _as_one(model, mapped),
    lambda variables, i: (model, tree.index(variables, i)),
    optimizer,
  )


def _own(variables: Variables, i: int) -> Variables:
  return Variables(variables.params[i], variables.batch_stats[i])


def unlike(models: Sequence[Model], firsts: Sequence[Layer]) -> Members:
  """Networks of different kinds, compared by their first layers only.

  The heterogeneous variant of LOTOS: first layers take the same images, so
  that their singular vectors can be exchanged; later layers do not.

  Args:
    models: one a member.
    firsts: the first layer of each, of one input shape.

  Raises:
    UserError: first layers that take different inputs.
  """
  errors.check(
    len({layer.shape for layer in firsts}) == 1,
    'members have first layers of different inputs '
    f'{[layer.shape for layer in firsts]}: give them the same images',
  )
  members = [Member(m, (f,)) for m, f in zip(models, firsts, strict=True)]

  def init(key: PRNGKey, image: Float[Array, 'n h w c']) -> Variables:
    made = [m.init(rng.fold_in(key, i), image) for i, m in enumerate(models)]
    return Variables(
      tuple(v.params for v in made), tuple(v.batch_stats for v in made)
    )

  def mapped(fn, variables, *arguments):
    return tree.stack(
      [
        fn(one, _own(variables, i), *(x[i] for x in arguments))
        for i, one in enumerate(members)
      ]
    )

  def update(variables, image):
    made = [
      one.model.update(_own(variables, i), image)
      for i, one in enumerate(members)
    ]
    return jnp.stack([logits for logits, _ in made]), tuple(s for _, s in made)

  def optimizer(inner):
    extra = optax.with_extra_args_support(inner)

    def step(updates, state, params=None, *, batch_stats):
      made = [
        extra.update(g, s, p, batch_stats=b)
        for g, s, p, b in zip(updates, state, params, batch_stats, strict=True)
      ]
      return tuple(u for u, _ in made), tuple(s for _, s in made)

    return optax.GradientTransformationExtraArgs(
      lambda params: tuple(map(extra.init, params)), step
    )

  return Members(
    len(models),
    (firsts[0].shape,),
    init,
    mapped,
    update,
    _as_one(models[0], mapped),
    lambda variables, i: (models[i], _own(variables, i)),
    optimizer,
  )
