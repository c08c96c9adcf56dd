"""Clipping inside training, as the last part of an optimizer."""

from typing import Any, NamedTuple

import jax
import optax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from cmu_jax.core import errors, progress, rng
from cmu_jax.core.types import PRNGKey, Variables
from cmu_jax.robustness.spectral import (
  layer_kernels,
  network_layers,
  operators,
  singular_values,
)
from cmu_jax.robustness.spectral.layer_kernels import ClipSettings
from cmu_jax.robustness.spectral.operators import Layer

# Fewer rounds than for an edit, because training clips again soon.
_DEFAULT_SETTINGS = ClipSettings(rounds=20)


class ClipState(NamedTuple):
  """The state of `clip_spectral_norm`.

  Attributes:
    step: number of updates.
    sigma: norm of each layer at params + update, in the order of the layers;
      infinite before the first update. From a fresh start after a clip, else a
      lower bound by one iteration of PowerQR.
    vector: the vectors that reach the norms.
  """

  step: Int[Array, '']
  sigma: Float[Array, 'layers']
  vector: tuple[Array, ...]


def clip_spectral_norm(
  layers: tuple[Layer, ...],
  bound: float,
  every: int,
  *,
  settings: ClipSettings = _DEFAULT_SETTINGS,
  seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
  """Keeps the norms of layers at most `bound`; the last part of any chain.

  Counting steps from 0, after every step with step % every == 0 each layer's
  norm at params + update is at most bound (1 + tolerance), by descent and
  rescaling as in `clip_weights`. Other steps pass updates unchanged, and the
  state follows the norms. Updates of other parameters, and of layers within the
  bound, never change.

  With BatchNorm layers the update needs the running statistics:
  tx.update(updates, state, params, batch_stats=batch_stats).

  Args:
    layers: of `operators.find_layers` or `operators.joint_layers`.
    bound: c > 0.
    every: steps between clips, 1 or more.
    settings: of the descent.
    seed: of all random starts.

  Raises:
    UserError: no layers, settings out of range, or, when called, no params or
      no batch_stats although a BatchNorm layer needs them.
  """
  layers = tuple(layers)
  layer_kernels.check_settings(bound, settings)
  errors.check(layers, 'clip_spectral_norm: no layers to clip')
  errors.check(every >= 1, f'clip every {every} steps: give 1 or more')

  def init(params: PyTree) -> ClipState:
    del params
    start = tuple(
      jax.random.normal(rng.fold_in(seed, 'start', i), layer.shape, jnp.float32)
      for i, layer in enumerate(layers)
    )
    # Infinite, so that nobody takes an unmeasured norm for a small one.
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
    unclipped = Variables(optax.apply_updates(params, updates), batch_stats)
    # A key of the step, so that equal states give equal updates.
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    key = rng.fold_in(step_key, 'clip')

    def clip():
      clipped, results = network_layers.clip_layers(
        key, layers, unclipped, bound, settings
      )
      norms = [(result.sigma, result.vector) for result in results]
      return _get_kernels(layers, clipped), norms

    def follow():
      norms = network_layers.map_layers(
        key, layers, unclipped, _follow_norm, state.vector
      )
      return _get_kernels(layers, unclipped), norms

    # Inside of a trace there is no progress to show.
    with progress.mute():
      kernels, norms = jax.lax.cond(state.step % every == 0, clip, follow)
    updates = _redirect_updates(layers, params, updates, unclipped, kernels)
    sigma = jnp.stack([sigma for sigma, _ in norms]).astype(jnp.float32)
    vectors = tuple(vector for _, vector in norms)
    return updates, ClipState(state.step + 1, sigma, vectors)

  return optax.GradientTransformationExtraArgs(init, update)


def _check_arguments(
  layers: tuple[Layer, ...], params: PyTree | None, batch_stats: PyTree | None
) -> None:
  errors.check(
    params is not None,
    'clip_spectral_norm needs params: tx.update(updates, state, params)',
  )
  # optax passes no statistics by itself.
  kinds = layer_kernels.STATISTICS_KINDS
  paths = [layer.path for layer in layers if layer.kind in kinds]
  errors.check(
    not paths or batch_stats is not None,
    f'clip_spectral_norm: layer {(paths or [""])[0]!r} needs running '
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
  key: PRNGKey, layer: Layer, params: Any, vector: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Makes one iteration of PowerQR from the last vector."""
  if layer.kind == 'norm':
    return layer_kernels.measure_norm(key, layer, params).sigma, vector
  # Weights move little in a step, so one iteration keeps up with them.
  spectrum = singular_values.power_qr(
    key,
    lambda x: layer.linear(params, x),
    layer.shape,
    iterations=1,
    start=vector[None],
  )
  return spectrum.sigma[0], spectrum.vector[0]


def _redirect_updates(
  layers: tuple[Layer, ...],
  params: PyTree,
  updates: PyTree,
  unclipped: Variables,
  kernels: list[jax.Array],
) -> PyTree:
  """Returns the updates that lead to the kernels."""
  for layer, kernel in zip(layers, kernels, strict=True):
    name = layer_kernels.kernel_name(layer)
    start, old, target = (
      operators.subtree(tree, layer.path)
      for tree in (params, updates, unclipped.params)
    )
    # A BatchNorm without scale has no parameter to redirect.
    if name not in old:
      continue
    step = jnp.asarray(old[name])
    difference = kernel.astype(step.dtype) - start[name].astype(step.dtype)
    # Differences round, so unchanged kernels keep the bits of their updates.
    step = jnp.where(kernel == target[name], step, difference)
    changed = type(old)({**old, name: step})
    updates = operators.replace_subtree(updates, layer.path, changed)
  return updates
