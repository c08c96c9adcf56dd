"""All layers of a network at once; traceable.

Layers of one kind and shape are one compiled program: looped on a CPU, mapped
on an accelerator.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax import numpy as jnp

from cmu_jax.core import jit, progress, rng, tree, vectorize
from cmu_jax.core.types import PRNGKey, Variables
from cmu_jax.robustness.spectral import clipping, krylov, operators, parts
from cmu_jax.robustness.spectral.clipping import Clipped
from cmu_jax.robustness.spectral.operators import Layer
from cmu_jax.robustness.spectral.parts import How

_ORDER = ('norm', 'dense', 'conv', 'conv_norm')


def norms(
  key: PRNGKey, layers: Iterable[Layer], variables: Variables
) -> list[krylov.Norm]:
  """The norm of every layer from a fresh start.

  Args:
    key: draws the starts.
    layers: of `operators.layers` or `operators.joint`.
    variables: the network's.
  """
  return each(key, tuple(layers), variables, _measure)


def clipped(
  key: PRNGKey,
  layers: tuple[Layer, ...],
  variables: Variables,
  bound: float,
  how: How,
) -> tuple[Variables, list[Clipped]]:
  """The network with every layer clipped, and what became of each layer.

  Layers that share a kernel, as a convolution does with its joint map, come
  one after the other; a last pass that only rescales can break none of them.
  Rounds, factors and first norms are those of both passes.
  """
  shared = len({layer.path for layer in layers}) < len(layers)
  results: list[Any] = [None] * len(layers)
  for last in (False, True) if shared else (False,):
    used = how._replace(rounds=0) if last else how
    run = functools.partial(_clip, how=used)
    for turn in _turns(layers):
      part = tuple(layers[i] for i in turn)
      goals = [jnp.asarray(bound, jnp.float32)] * len(part)
      found = each(rng.named(key, int(last)), part, variables, run, goals)
      for i, one in zip(turn, found, strict=True):
        variables = put(layers[i], variables, one.own)
        results[i] = _both(results[i], one)
  return variables, results


def each(
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
      (operators.parameters(x, variables) for x in layers), *more, strict=True
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
      keys = jnp.stack([rng.named(key, layers[i].path) for i in places])
      spec = layers[places[0]]._replace(path='', norm=None)
      alike = tree.stack([given[i] for i in places])
      found = jax.block_until_ready(_program(run, spec)(keys, *alike))
      for j, i in enumerate(places):
        results[i] = tree.index(found, j)
      advance(len(places), layers[places[-1]].path)
  return results


def put(layer: Layer, variables: Variables, own: dict[str, Any]) -> Variables:
  """The network with a layer's kernel or scale as it is in `own`."""
  part = own['conv'] if layer.kind == 'conv_norm' else own
  name = 'scale' if layer.kind == 'norm' else 'kernel'
  if name not in part:
    return variables
  old = operators.subtree(variables.params, layer.path)
  fresh = type(old)({**old, name: part[name]})
  params = operators.replaced(variables.params, layer.path, fresh)
  return variables._replace(params=params)


def _both(first: Clipped | None, last: Clipped) -> Clipped:
  if first is None:
    return last
  return last._replace(
    before=first.before,
    rounds=first.rounds + last.rounds,
    factor=first.factor * last.factor,
  )


def _turns(layers: tuple[Layer, ...]) -> list[list[int]]:
  """Positions of layers that share no kernel, BatchNorm before others."""
  turns: dict[tuple[int, int], list[int]] = {}
  for i, layer in enumerate(layers):
    alike = sum(x.path == layer.path for x in layers[:i])
    turns.setdefault((_ORDER.index(layer.kind), alike), []).append(i)
  return [turns[order] for order in sorted(turns)]


def _measure(key: PRNGKey, layer: Layer, own: Any) -> krylov.Norm:
  return parts.measure(key, layer, own)


def _clip(
  key: PRNGKey, layer: Layer, own: Any, bound: jax.Array, how: How
) -> Clipped:
  return clipping.clip(key, layer, own, bound, how)


@functools.lru_cache(maxsize=512)
def _compiled(run: Callable, options: tuple, layer: Layer) -> Callable:
  one = lambda key, *given: run(key, layer, *given, **dict(options))
  return jit.looped(vectorize.over(one))


def _program(run: Callable, layer: Layer) -> Callable:
  """One compiled function for each kind of run and layer."""
  if isinstance(run, functools.partial):
    return _compiled(run.func, tuple(sorted(run.keywords.items())), layer)
  return _compiled(run, (), layer)
