"""All layers of a network at once; traceable.

Layers of one kind and shape are one compiled program: looped on a CPU, mapped
on an accelerator.

The norms of a network's layers as a table.
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
from cmu_jax.robustness.spectral import (
  clipping,
  layer_kernels,
  operators,
  singular_values,
)
from cmu_jax.robustness.spectral.clipping import ClippedLayer
from cmu_jax.robustness.spectral.layer_kernels import ClipSettings
from cmu_jax.robustness.spectral.operators import Layer

_KIND_ORDER = ('norm', 'dense', 'conv', 'conv_norm')


def measure_layers(
  key: PRNGKey, layers: Iterable[Layer], variables: Variables
) -> list[singular_values.LeadingNorm]:
  """The norm of every layer from a fresh start.

  Args:
    key: draws the starts.
    layers: of `operators.find_layers` or `operators.joint_layers`.
    variables: the network's.
  """
  return map_layers(key, tuple(layers), variables, _measure_layer)


def clip_layers(
  key: PRNGKey,
  layers: tuple[Layer, ...],
  variables: Variables,
  bound: float,
  how: ClipSettings,
) -> tuple[Variables, list[ClippedLayer]]:
  """The network with every layer clipped, and what became of each layer.

  Layers that share a kernel, as a convolution does with its joint map, come
  one after the other; a last pass that only rescales can break none of them.
  Rounds, factors and first norms are those of both passes.
  """
  shared = len({layer.path for layer in layers}) < len(layers)
  results: list[Any] = [None] * len(layers)
  for last in (False, True) if shared else (False,):
    used = how._replace(rounds=0) if last else how
    run = functools.partial(_clip_layer, how=used)
    for turn in _disjoint_groups(layers):
      part = tuple(layers[i] for i in turn)
      goals = [jnp.asarray(bound, jnp.float32)] * len(part)
      found = map_layers(
        rng.fold_in(key, int(last)), part, variables, run, goals
      )
      for i, one in zip(turn, found, strict=True):
        variables = replace_kernel(layers[i], variables, one.own)
        results[i] = _merge_passes(results[i], one)
  return variables, results


def map_layers(
  key: PRNGKey,
  layers: tuple[Layer, ...],
  variables: Variables,
  run: Callable,
  *more: Iterable[Any],
) -> list[Any]:
  """What `run` makes of every layer, with one program for those alike.

  Args:
    key: folded with the path of each layer.
    layers: which.
    variables: the network's.
    run: (key, layer, parameters, *more) -> a pytree; a function of a module,
      or a functools.partial of one with hashable keywords.
    *more: further arguments, each with a pytree of arrays for every layer.
  """
  given = list(
    zip(
      (operators.layer_parameters(x, variables) for x in layers),
      *more,
      strict=True,
    )
  )
  groups: dict[Any, list[int]] = {}
  for i, layer in enumerate(layers):
    leaves, structure = jax.tree.flatten(given[i])
    sizes = tuple((x.shape, str(x.dtype)) for x in leaves)
    like = (layer.linear, layer.shape, layer.kind, structure, sizes)
    groups.setdefault(like, []).append(i)
  results: list[Any] = [None] * len(layers)
  with progress.bar('spectral norms', len(layers), 'layers') as advance:
    for places in groups.values():
      keys = jnp.stack([rng.fold_in(key, layers[i].path) for i in places])
      spec = layers[places[0]]._replace(path='', norm=None)
      alike = tree.stack([given[i] for i in places])
      found = jax.block_until_ready(_layer_program(run, spec)(keys, *alike))
      for j, i in enumerate(places):
        results[i] = tree.index(found, j)
      advance(len(places), layers[places[-1]].path)
  return results


def replace_kernel(
  layer: Layer, variables: Variables, own: dict[str, Any]
) -> Variables:
  """The network with a layer's kernel or scale as it is in `own`."""
  part = own['conv'] if layer.kind == 'conv_norm' else own
  name = 'scale' if layer.kind == 'norm' else 'kernel'
  if name not in part:
    return variables
  old = operators.subtree(variables.params, layer.path)
  fresh = type(old)({**old, name: part[name]})
  params = operators.replace_subtree(variables.params, layer.path, fresh)
  return variables._replace(params=params)


def _merge_passes(
  first: ClippedLayer | None, last: ClippedLayer
) -> ClippedLayer:
  if first is None:
    return last
  return last._replace(
    initial_sigma=first.initial_sigma,
    rounds=first.rounds + last.rounds,
    factor=first.factor * last.factor,
  )


def _disjoint_groups(layers: tuple[Layer, ...]) -> list[list[int]]:
  """Positions of layers that share no kernel, BatchNorm before others."""
  turns: dict[tuple[int, int], list[int]] = {}
  for i, layer in enumerate(layers):
    alike = sum(x.path == layer.path for x in layers[:i])
    turns.setdefault((_KIND_ORDER.index(layer.kind), alike), []).append(i)
  return [turns[order] for order in sorted(turns)]


def _measure_layer(
  key: PRNGKey, layer: Layer, own: Any
) -> singular_values.LeadingNorm:
  return layer_kernels.measure_norm(key, layer, own)


def _clip_layer(
  key: PRNGKey, layer: Layer, own: Any, bound: jax.Array, how: ClipSettings
) -> ClippedLayer:
  return clipping.clip_layer(key, layer, own, bound, how)


@functools.lru_cache(maxsize=512)
def _compile_layer(run: Callable, options: tuple, layer: Layer) -> Callable:
  one = lambda key, *given: run(key, layer, *given, **dict(options))
  return jit.compile_loop(vectorize.map_members(one))


def _layer_program(run: Callable, layer: Layer) -> Callable:
  """One compiled function for each kind of run and layer."""
  if isinstance(run, functools.partial):
    return _compile_layer(run.func, tuple(sorted(run.keywords.items())), layer)
  return _compile_layer(run, (), layer)


_COLUMNS = ('layer', 'kind', 'input', 'norm', 'residual')


def report_norms(
  model: Model | Callable[..., Any],
  variables: Variables,
  image_shape: tuple[int, ...],
  *,
  key: PRNGKey | int = 0,
  show: bool = True,
  caption: str | None = None,
) -> list[dict[str, Any]]:
  """Measures and prints the norm of every implicitly linear layer.

  A convolution with BatchNorm behind it has a third row for both as one map.
  The norms say nothing of the whole network: residual connections and shared
  inputs add up, see `cmu_jax.robustness.lipschitz`.

  Args:
    model: a Model, or (variables, image) -> anything in evaluation mode.
    variables: the network's.
    image_shape: of one image as the network takes it, (h, w, c).
    key: draws the starts.
    show: whether to print.
    caption: what to print under the table, such as a bound of the network.

  Returns:
    A row for each layer: path, kind, shape, sigma, residual (relative, of
    M^T M; 0 for BatchNorm, whose norm is exact) and, of joint maps, norm.

  Raises:
    UserError: there is no such layer.
  """
  apply = model.apply if isinstance(model, Model) else model
  found = operators.find_layers(apply, variables, image_shape)
  errors.check(
    found, 'no implicitly linear layer: only modules of flax.linen are found'
  )
  every = _with_joint_layers(found)
  stage = rng.fold_in(key, 'report')
  rows = [
    {
      'path': layer.path,
      'kind': layer.kind,
      'norm': layer.norm if layer.kind == 'conv_norm' else None,
      'shape': layer.shape,
      'sigma': float(one.sigma),
      'residual': float(one.residual),
    }
    for layer, one in zip(
      every, measure_layers(stage, every, variables), strict=True
    )
  ]
  if show:
    console = rich.console.Console(width=100)
    console.print(norm_table(rows))
    if caption is not None:
      console.print(caption)
  return rows


def norm_table(rows: list[dict[str, Any]]) -> rich.table.Table:
  """The rows of `report`, aligned."""
  made = rich.table.Table(title='spectral norms of the layers')
  for column in _COLUMNS:
    right = column in ('norm', 'residual')
    made.add_column(column, justify='right' if right else 'left')
  for row in rows:
    name = row['path'] or '(the network)'
    if row['norm'] is not None:
      name = f'{name} + {row["norm"].split("/")[-1]}'
    made.add_row(
      name,
      row['kind'],
      'x'.join(map(str, row['shape'])),
      f'{row["sigma"]:.4f}',
      f'{row["residual"]:.1e}',
    )
  return made


def _with_joint_layers(found: tuple[Layer, ...]) -> tuple[Layer, ...]:
  """Joint maps behind their BatchNorms."""
  maps = {layer.norm: layer for layer in operators.joint_layers(found)}
  every: list[Layer] = []
  for layer in found:
    every.append(layer)
    if layer.kind == 'norm' and layer.path in maps:
      every.append(maps.pop(layer.path))
  return tuple(every)
