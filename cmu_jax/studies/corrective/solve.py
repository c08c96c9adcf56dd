"""One cell: a method's whole grid on one problem, measured."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.core import jit, rng, vectorize
from cmu_jax.core.types import (
  Info,
  Method,
  Model,
  Network,
  PRNGKey,
  Variables,
)
from cmu_jax.methods.dampening import importance
from cmu_jax.studies.corrective import importances, measure, problem
from cmu_jax.studies.corrective.measure import Look
from cmu_jax.studies.corrective.world import Scene, World
from cmu_jax.training import train

_DIVERGED: Info = dict.fromkeys(
  (
    'acc_corr',
    'acc_retain',
    'attack_success_rate',
    'accuracy_not_target',
    'clean_label_accuracy_sm',
    'validation_accuracy',
    'forget_changed',
    'forget_unlearned',
    'score',
  )
)


_COSTS = ('gradient_evaluations', 'seconds', 'why')


def _plain(value: Any) -> Any:
  """A number of a method's info as JSON has it."""
  return value if isinstance(value, str) else np.asarray(value).item()


def _host(look: Look) -> Look:
  return Look(*(None if x is None else np.asarray(x) for x in look))


@functools.lru_cache(maxsize=32)
def _looking(network: Network, batch_size: int) -> Callable:
  return jit.compile_loop(measure.looker(network, batch_size))


def look(
  one: World,
  images: Look,
  variables: Variables,
  batch_size: int,
  model: Model | None = None,
) -> Look:
  """Predictions of one network, or of another model, on the host."""
  seen = _looking(Network(model or one.model, one.inputs), batch_size)
  return _host(seen(variables, images))


@functools.lru_cache(maxsize=32)
def _whole_grid(
  solve: Callable, network: Network, batch_size: int, chunk: int
) -> Callable:
  """Every point of a cheap method's grid, edited and looked at as one
  program."""
  seen = measure.looker(network, batch_size)

  def run(key, variables, given, prepared, hypers, images):
    def point(hyper):
      found, info = solve(key, variables, given, prepared, hyper)
      return seen(found, images), jnp.asarray(info['gradient_evaluations'])

    return vectorize.map_members(point, chunk=chunk)(hypers)

  return jit.compile_loop(run)


def _at_once(
  key: PRNGKey,
  method: Method,
  one: World,
  variables: Variables,
  given: Any,
  prepared: Any,
  images: Look,
  batch_size: int,
) -> list[tuple[Look | None, Info]]:
  began = time.monotonic()
  hypers = {
    name: jnp.asarray([point[name] for point in method.grid], jnp.float32)
    for name in method.grid[0]
  }
  weight = sum(x.nbytes for x in jax.tree.leaves(variables))
  run = _whole_grid(
    method.solve,
    Network(method.model or one.model, one.inputs),
    batch_size,
    vectorize.chunk_size(weight),
  )
  looks, cost = run(key, variables, given, prepared, hypers, images)
  stacked, counts = _host(looks), np.asarray(cost)
  seconds = (time.monotonic() - began) / len(method.grid)
  return [
    (
      Look(*(None if x is None else x[i] for x in stacked)),
      {'gradient_evaluations': int(counts[i]), 'seconds': seconds},
    )
    for i in range(len(method.grid))
  ]


def _one_by_one(
  key: PRNGKey,
  method: Method,
  one: World,
  variables: Variables,
  given: Any,
  prepared: Any,
  images: Look,
  batch_size: int,
) -> list[tuple[Look | None, Info]]:
  found: list[tuple[Look | None, Info]] = []
  for hyper in method.grid:
    began = time.monotonic()
    try:
      edited, info = method.solve(key, variables, given, prepared, hyper)
      seen = look(one, images, edited, batch_size, method.model)
    except train.Diverged as error:
      seen, info = None, {'gradient_evaluations': None, 'why': str(error)}
    found.append((seen, {**info, 'seconds': time.monotonic() - began}))
  return found


def ratios(prepared: Any) -> Info | None:
  """Histogram of log10(I_f / I_r) over parameters; None without importances.

  Ratios outside 1e-4 to 1e4 count in the outer bins, parameters of which an
  importance is zero not at all.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, figure 3.
  """
  if not isinstance(prepared, importance.Importances):
    return None
  bad, kept = (
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(part)])
    for part in (prepared.forget, prepared.retain)
  )
  both = (bad > 0) & (kept > 0)
  logs = np.clip(np.log10(bad[both] / kept[both]), -3.999, 3.999)
  counts, edges = np.histogram(logs, bins=40, range=(-4, 4))
  return {'edges': edges.tolist(), 'retain_counts': counts.tolist()}


def cell(
  key: PRNGKey,
  method: Method,
  one: World,
  scene: Scene,
  original: Variables,
  before: Look,
  fraction: float,
  batch_size: int,
  measured: importances.Kept | None = None,
) -> tuple[list[Info], Info | None]:
  """Every point of a method's grid, measured.

  Args:
    key: of the method.
    method: what repairs; sees only what it declared.
    one: the manipulation.
    scene: the seed.
    original: the network as trained on S_tr.
    before: its predictions.
    fraction: |S_f| / |S_m|.
    batch_size: images a prediction step.
    measured: the importances that the method asks for; None where it asks for
      none, or is to take them itself.

  Returns:
    For each point: hyper, the numbers of `measure.values` (None where the
    training diverged), diverged, gradient_evaluations, seconds; what points
    share is counted in each. And the histogram of `ratios`.
  """
  began = time.monotonic()
  given = problem.give(scene.problem, fraction, method.needs)
  images = measure.sets(one, scene)
  known = () if measured is None else (measured.pair,)
  prepared = method.prepare(
    rng.fold_in(key, 'prepare'), original, given, *known
  )
  jax.block_until_ready(jax.tree.leaves(prepared))
  shared = time.monotonic() - began
  # A repair pays for its importances, whichever cell took them.
  shared += 0.0 if measured is None else float(measured.seconds)
  every = _at_once if method.elementwise else _one_by_one
  found = every(
    rng.fold_in(key, 'solve'),
    method,
    one,
    original,
    given,
    prepared,
    images,
    batch_size,
  )
  points = []
  for hyper, (seen, info) in zip(method.grid, found, strict=True):
    values = (
      {**_DIVERGED, 'collapsed': False, 'diverged': True, 'why': info['why']}
      if seen is None
      else {
        **measure.values(one, scene, seen, before, fraction),
        'diverged': False,
      }
    )
    facts = {k: v for k, v in info.items() if k not in _COSTS}
    points.append(
      {
        'hyper': dict(hyper),
        'facts': jax.tree.map(_plain, facts),
        **values,
        'gradient_evaluations': info['gradient_evaluations'],
        'seconds': round(shared + info['seconds'], 3),
      }
    )
  return points, ratios(prepared)
