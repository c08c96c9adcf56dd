"""Clipping inside training, as the last part of an optimiser."""

from typing import Any, NamedTuple

import jax
import optax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from cmu_jax.core import errors, progress, rng
from cmu_jax.core.types import PRNGKey, Variables
from cmu_jax.robustness.spectral import (
  layer_kernels,
  network,
  operators,
  singular_values,
)
from cmu_jax.robustness.spectral.layer_kernels import ClipSettings
from cmu_jax.robustness.spectral.operators import Layer

_WITH_STATISTICS = ('norm', 'conv_norm')


class ClipState(NamedTuple):
  """What `clip_spectral_norm` remembers.

  Attributes:
    step: updates so far.
    sigma: norm of each layer at params + update, in the order of the layers;
      infinite before the first update. From a fresh start after a clip, else a
      lower bound that one iteration of PowerQR has followed.
    vector: where each norm is reached.
  """

  step: Int[Array, '']
  sigma: Float[Array, 'layers']
  vector: tuple[Array, ...]


def clip_spectral_norm(
  layers: tuple[Layer, ...],
  bound: float,
  every: int,
  *,
  directions: int = 8,
  steps: int = 5,
  rate: float | None = 0.35,
  max_rounds: int = 20,
  tolerance: float = 1e-3,
  seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
  """Keeps the norms of layers at most `bound`; the last part of any chain.

  Counting steps from 0, after every step with step % every == 0 each layer's
  norm at params + update is at most bound (1 + tolerance), by rounds of descent
  on its kernel as in `clip_weights` and then, if need be, by rescaling. Between
  these steps updates pass as they are, and the state follows the norms. Updates
  of other parameters, and of layers within the bound, are never changed.

  Its update is called with the running statistics where there are BatchNorm
  layers: tx.update(updates, state, params, batch_stats=batch_stats).

  Args:
    layers: of `operators.find_layers` or `operators.joint_layers`.
    bound: c > 0.
    every: steps between clips, 1 or more.
    directions: singular directions that a round treats.
    steps: of descent a round.
    rate: of the steps; see `layer_kernels.ClipSettings`.
    max_rounds: of descent a clip.
    tolerance: 1e-5 to .5, relative.
    seed: of all random starts.

  Raises:
    UserError: no layers, settings out of range, or, when called, no params or
      no batch_stats where a BatchNorm layer needs them.
  """
  layers = tuple(layers)
  how = ClipSettings(directions, steps, rate, 5, max_rounds, tolerance)
  layer_kernels.check_settings(bound, how)
  errors.check(layers, 'clip_spectral_norm: no layers to clip')
  errors.check(every >= 1, f'clip every {every} steps: give 1 or more')

  def init(params: PyTree) -> ClipState:
    del params
    start = tuple(
      jax.random.normal(rng.fold_in(seed, 'start', i), layer.shape)
      for i, layer in enumerate(layers)
    )
    unknown = jnp.full((len(layers),), jnp.inf)
    return ClipState(jnp.zeros((), jnp.int32), unknown, start)

  def update(
    updates: PyTree,
    state: ClipState,
    params: PyTree | None = None,
    *,
    batch_stats: PyTree | None = None,
    **extra: Any,
  ) -> tuple[PyTree, ClipState]:
    del extra
    _check_arguments(layers, params, batch_stats)
    plain = Variables(optax.apply_updates(params, updates), batch_stats)
    key = rng.fold_in(
      jax.random.fold_in(jax.random.key(seed), state.step), 'clip'
    )

    due = state.step % every == 0
    kernels, sigma, vector = _clip_or_follow(
      key, layers, plain, bound, how, state.vector, due
    )
    updates = _redirect_updates(layers, params, updates, plain, kernels)
    return updates, ClipState(state.step + 1, sigma, vector)

  return optax.GradientTransformationExtraArgs(init, update)


def _clip_or_follow(
  key: PRNGKey,
  layers: tuple[Layer, ...],
  plain: Variables,
  bound: float,
  how: ClipSettings,
  vectors: tuple[jax.Array, ...],
  due: Bool[Array, ''],
) -> tuple[list[jax.Array], Float[Array, 'layers'], tuple[jax.Array, ...]]:
  """Kernels, clipped where it is due, their norms and where these are reached.

  Args:
    key: of fresh starts.
    layers: all of them.
    plain: params + update.
    bound: c.
    how: rounds of descent.
    vectors: from the last step.
    due: whether this step clips.
  """

  def clip():
    done, found = network.clip_layers(key, layers, plain, bound, how)
    ends = tuple(one.vector for one in found)
    return _get_kernels(layers, done), [one.sigma for one in found], ends

  def follow():
    found = network.map_layers(key, layers, plain, _follow_norm, vectors)
    ends = tuple(vector for _, vector in found)
    return _get_kernels(layers, plain), [sigma for sigma, _ in found], ends

  with progress.mute():
    kernels, sigma, ends = jax.lax.cond(due, clip, follow)
  return kernels, jnp.stack(sigma).astype(jnp.float32), ends


def _check_arguments(
  layers: tuple[Layer, ...], params: PyTree | None, batch_stats: PyTree | None
) -> None:
  errors.check(
    params is not None,
    'clip_spectral_norm needs params: tx.update(updates, state, params)',
  )
  need = [layer.path for layer in layers if layer.kind in _WITH_STATISTICS]
  errors.check(
    not need or batch_stats is not None,
    f'clip_spectral_norm: layer {(need or [""])[0]!r} needs running '
    'statistics; pass batch_stats= to update',
  )


def _get_kernels(
  layers: tuple[Layer, ...], variables: Variables
) -> list[jax.Array]:
  return [
    layer_kernels.get_kernel(
      layer, operators.layer_parameters(layer, variables)
    )
    for layer in layers
  ]


def _follow_norm(
  key: PRNGKey, layer: Layer, own: Any, vector: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """One iteration of PowerQR from the last vector."""
  if layer.kind == 'norm':
    return layer_kernels.measure_norm(key, layer, own).sigma, vector
  found = singular_values.power_qr(
    key,
    lambda x: layer.linear(own, x),
    layer.shape,
    iterations=1,
    start=vector[None],
  )
  return found.sigma[0], found.vector[0]


def _redirect_updates(
  layers: tuple[Layer, ...],
  params: PyTree,
  updates: PyTree,
  plain: Variables,
  kernels: list[jax.Array],
) -> PyTree:
  """Updates that lead to the kernels; where nothing changed, the old ones."""
  for layer, after in zip(layers, kernels, strict=True):
    name = 'scale' if layer.kind == 'norm' else 'kernel'
    start, old, unclipped = (
      operators.subtree(one, layer.path)
      for one in (params, updates, plain.params)
    )
    if name not in old:
      continue
    step = jnp.asarray(old[name])
    way = after.astype(step.dtype) - start[name].astype(step.dtype)
    fresh = jnp.where(after == unclipped[name], step, way)
    changed = type(old)({**old, name: fresh})
    updates = operators.replace_subtree(updates, layer.path, changed)
  return updates
