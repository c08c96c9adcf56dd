"""All layers of a network at once: measured, clipped, and as a table.

Layers of one kind and shape are one compiled program: looped on a CPU, mapped
on an accelerator.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import rich.console
import rich.table
from jax import numpy as jnp

from cmu_jax.core import errors, jit, progress, rng, tree, vectorize
from cmu_jax.core.types import Model, PRNGKey, Variables
from cmu_jax.robustness.spectral import clipping, layer_kernels, operators
from cmu_jax.robustness.spectral.clipping import ClippedLayer
from cmu_jax.robustness.spectral.layer_kernels import ClipSettings
from cmu_jax.robustness.spectral.operators import Layer
from cmu_jax.robustness.spectral.singular_values import LeadingNorm

# BatchNorms come first, because a joint map depends on its BatchNorm's scale.
_KIND_ORDER = ('norm', 'dense', 'conv', 'conv_norm')
_COLUMNS = ('layer', 'kind', 'input', 'norm', 'residual')


def measure_layers(
  key: PRNGKey, layers: Iterable[Layer], variables: Variables
) -> list[LeadingNorm]:
  """Measures the norm of every layer from a fresh start.

  Args:
    layers: of `operators.find_layers` or `operators.joint_layers`.
  """
  return map_layers(key, tuple(layers), variables, layer_kernels.measure_norm)


def clip_layers(
  key: PRNGKey,
  layers: tuple[Layer, ...],
  variables: Variables,
  bound: float,
  settings: ClipSettings,
) -> tuple[Variables, list[ClippedLayer]]:
  """Clips every layer of a network.

  Returns:
    The network, and each clipped layer with the rounds, the factor and the
    initial norm of all passes.
  """
  # Layers that share a kernel, such as a convolution and its joint map, are
  # clipped one after the other. A second pass that only rescales cannot break
  # the bound of any of them.
  shared = len({layer.path for layer in layers}) < len(layers)
  results: list[Any] = [None] * len(layers)
  for rescale_only in (False, True) if shared else (False,):
    passed = settings._replace(rounds=0) if rescale_only else settings
    run = functools.partial(_clip_layer, settings=passed)
    for indices in _disjoint_groups(layers):
      group = tuple(layers[i] for i in indices)
      bounds = [jnp.asarray(bound, jnp.float32)] * len(group)
      pass_key = rng.fold_in(key, int(rescale_only))
      clipped = map_layers(pass_key, group, variables, run, bounds)
      for i, result in zip(indices, clipped, strict=True):
        variables = replace_kernel(layers[i], variables, result.parameters)
        results[i] = _merge_passes(results[i], result)
  return variables, results


def map_layers(
  key: PRNGKey,
  layers: tuple[Layer, ...],
  variables: Variables,
  function: Callable,
  *arguments: Iterable[Any],
) -> list[Any]:
  """Applies a function to every layer, with one program for equal layers.

  Args:
    key: folded with the path of each layer.
    function: (key, layer, parameters, *arguments) -> a pytree; a function of a
      module, or a functools.partial of one with hashable keywords.
    *arguments: further arguments, each with a pytree of arrays for every layer.
  """
  operands = list(
    zip(
      (operators.layer_parameters(layer, variables) for layer in layers),
      *arguments,
      strict=True,
    )
  )
  groups: dict[Any, list[int]] = {}
  for i, layer in enumerate(layers):
    leaves, structure = jax.tree.flatten(operands[i])
    shapes = tuple((x.shape, str(x.dtype)) for x in leaves)
    # Layers of one kind differ in parameters alone.
    kind = (layer.linear, layer.shape, layer.kind, structure, shapes)
    groups.setdefault(kind, []).append(i)
  results: list[Any] = [None] * len(layers)
  with progress.bar('spectral norms', len(layers), 'layers') as advance:
    for indices in groups.values():
      keys = jnp.stack([rng.fold_in(key, layers[i].path) for i in indices])
      # Without its paths, so that the cache of programs finds equal layers.
      anonymous = layers[indices[0]]._replace(path='', norm=None)
      stacked = tree.stack([operands[i] for i in indices])
      program = _layer_program(function, anonymous)
      # Waits for the device, so that the bar shows finished work.
      outputs = jax.block_until_ready(program(keys, *stacked))
      for j, i in enumerate(indices):
        results[i] = tree.index(outputs, j)
      advance(len(indices), layers[indices[-1]].path)
  return results


def replace_kernel(
  layer: Layer, variables: Variables, params: dict[str, Any]
) -> Variables:
  """Returns the network with the kernel or scale of a layer from `params`."""
  source = params['conv'] if layer.kind == 'conv_norm' else params
  name = layer_kernels.kernel_name(layer)
  # A BatchNorm may have no scale.
  if name not in source:
    return variables
  old = operators.subtree(variables.params, layer.path)
  changed = type(old)({**old, name: source[name]})
  return variables._replace(
    params=operators.replace_subtree(variables.params, layer.path, changed)
  )


def _merge_passes(
  earlier: ClippedLayer | None, later: ClippedLayer
) -> ClippedLayer:
  if earlier is None:
    return later
  # The later pass has the final parameters and norms.
  return later._replace(
    initial_sigma=earlier.initial_sigma,
    rounds=earlier.rounds + later.rounds,
    factor=earlier.factor * later.factor,
  )


def _disjoint_groups(layers: tuple[Layer, ...]) -> list[list[int]]:
  """Positions of layers that share no kernel, in the order of kinds."""
  groups: dict[tuple[int, int], list[int]] = {}
  for i, layer in enumerate(layers):
    repeats = sum(x.path == layer.path for x in layers[:i])
    groups.setdefault((_KIND_ORDER.index(layer.kind), repeats), []).append(i)
  return [groups[order] for order in sorted(groups)]


def _clip_layer(
  key: PRNGKey,
  layer: Layer,
  params: Any,
  bound: jax.Array,
  settings: ClipSettings,
) -> ClippedLayer:
  return clipping.clip_layer(key, layer, params, bound, settings)


@functools.lru_cache(maxsize=512)
def _compile_layer(
  function: Callable, options: tuple, layer: Layer
) -> Callable:
  run = lambda key, *operands: function(key, layer, *operands, **dict(options))
  return jit.compile_loop(vectorize.map_members(run))


def _layer_program(function: Callable, layer: Layer) -> Callable:
  """The compiled function of a kind of layer."""
  # Partials compare by identity; their parts can be keys of the cache.
  if isinstance(function, functools.partial):
    options = tuple(sorted(function.keywords.items()))
    return _compile_layer(function.func, options, layer)
  return _compile_layer(function, (), layer)


def report_norms(
  model: Model | Callable[..., Any],
  variables: Variables,
  image_shape: tuple[int, ...],
  *,
  key: PRNGKey | int = 0,
  caption: str | None = None,
) -> list[dict[str, Any]]:
  """Measures and prints the norm of every implicitly linear layer.

  A convolution with BatchNorm behind it has a third row for both as one map.
  The norms do not bound the network: residual connections and shared inputs
  add up, see `cmu_jax.robustness.lipschitz`.

  Args:
    model: a Model, or (variables, image) -> anything in evaluation mode.
    image_shape: of one image as the network takes it, (h, w, c).
    caption: text to print under the table, such as a bound of the network.

  Returns:
    A row for each layer: path, kind, shape, sigma, residual (relative, of
    M^T M; 0 for BatchNorm, whose norm is exact) and, of joint maps, norm.

  Raises:
    UserError: no implicitly linear layer.
  """
  apply = model.apply if isinstance(model, Model) else model
  found_layers = operators.find_layers(apply, variables, image_shape)
  errors.check(
    found_layers,
    'no implicitly linear layer: only modules of flax.linen are found',
  )
  layers = _with_joint_layers(found_layers)
  norms = measure_layers(rng.fold_in(key, 'report'), layers, variables)
  rows = [
    {
      'path': layer.path,
      'kind': layer.kind,
      'norm': layer.norm if layer.kind == 'conv_norm' else None,
      'shape': layer.shape,
      'sigma': float(norm.sigma),
      'residual': float(norm.residual),
    }
    for layer, norm in zip(layers, norms, strict=True)
  ]
  # A fixed width, because logs and notebooks have no terminal.
  console = rich.console.Console(width=100)
  console.print(norm_table(rows))
  if caption is not None:
    console.print(caption)
  return rows


def norm_table(rows: list[dict[str, Any]]) -> rich.table.Table:
  """The rows of `report_norms`, aligned."""
  table = rich.table.Table(title='spectral norms of the layers')
  for column in _COLUMNS:
    right = column in ('norm', 'residual')
    table.add_column(column, justify='right' if right else 'left')
  for row in rows:
    name = row['path'] or '(the network)'
    if row['norm'] is not None:
      name = f'{name} + {row["norm"].split("/")[-1]}'
    table.add_row(
      name,
      row['kind'],
      'x'.join(map(str, row['shape'])),
      f'{row["sigma"]:.4f}',
      f'{row["residual"]:.1e}',
    )
  return table


def _with_joint_layers(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
  """Inserts joint maps behind their BatchNorms."""
  joint = {layer.norm: layer for layer in operators.joint_layers(layers)}
  rows: list[Layer] = []
  for layer in layers:
    rows.append(layer)
    if layer.kind == 'norm' and layer.path in joint:
      rows.append(joint.pop(layer.path))
  return tuple(rows)
