"""The grid of a method on one problem, with the measures of each point."""

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


def _to_json(value: Any) -> Any:
  """Converts a number of the info of a method to a Python number."""
  return value if isinstance(value, str) else np.asarray(value).item()


def _move_to_host(look: Look) -> Look:
  return Look(*(None if x is None else np.asarray(x) for x in look))


@functools.lru_cache(maxsize=32)
def _prediction_program(network: Network, batch_size: int) -> Callable:
  return jit.compile_loop(measure.make_predictor(network, batch_size))


def predict(
  bound: World,
  images: Look,
  variables: Variables,
  batch_size: int,
  model: Model | None = None,
) -> Look:
  """Predicts with a network, or with the network of another model."""
  network = Network(model or bound.model, bound.inputs)
  program = _prediction_program(network, batch_size)
  return _move_to_host(program(variables, images))


@functools.lru_cache(maxsize=32)
def _grid_program(
  solve: Callable, network: Network, batch_size: int, chunk: int
) -> Callable:
  """Compiles a program that edits and predicts at every point of a grid."""
  predictor = measure.make_predictor(network, batch_size)

  def run(key, variables, data, prepared, hypers, images):
    def point(hyper):
      edited, info = solve(key, variables, data, prepared, hyper)
      return predictor(edited, images), jnp.asarray(
        info['gradient_evaluations']
      )

    return vectorize.map_members(point, chunk=chunk)(hypers)

  return jit.compile_loop(run)


def _solve_at_once(
  key: PRNGKey,
  method: Method,
  bound: World,
  variables: Variables,
  data: Any,
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
  run = _grid_program(
    method.solve,
    Network(method.model or bound.model, bound.inputs),
    batch_size,
    vectorize.chunk_size(weight),
  )
  looks, cost = run(key, variables, data, prepared, hypers, images)
  stacked, counts = _move_to_host(looks), np.asarray(cost)
  seconds = (time.monotonic() - began) / len(method.grid)
  return [
    (
      Look(*(None if x is None else x[i] for x in stacked)),
      {'gradient_evaluations': int(counts[i]), 'seconds': seconds},
    )
    for i in range(len(method.grid))
  ]


def _solve_in_turn(
  key: PRNGKey,
  method: Method,
  bound: World,
  variables: Variables,
  data: Any,
  prepared: Any,
  images: Look,
  batch_size: int,
) -> list[tuple[Look | None, Info]]:
  pairs: list[tuple[Look | None, Info]] = []
  for hyper in method.grid:
    began = time.monotonic()
    try:
      edited, info = method.solve(key, variables, data, prepared, hyper)
      predictions = predict(bound, images, edited, batch_size, method.model)
    except train.Diverged as error:
      predictions, info = (
        None,
        {'gradient_evaluations': None, 'why': str(error)},
      )
    seconds = time.monotonic() - began
    pairs.append((predictions, {**info, 'seconds': seconds}))
  return pairs


def count_ratios(prepared: Any) -> Info | None:
  """Counts log10(I_f / I_r) over parameters; None without importances.

  Ratios outside 1e-4 to 1e4 count in the outer bins, parameters of which an
  importance is zero not at all.

  References:
    Corrective Machine Unlearning, arXiv 2402.14015, figure 3.
  """
  if not isinstance(prepared, importance.Importances):
    return None
  forget, retain = (
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(part)])
    for part in (prepared.forget, prepared.retain)
  )
  positive = (forget > 0) & (retain > 0)
  logs = np.clip(np.log10(forget[positive] / retain[positive]), -3.999, 3.999)
  counts, edges = np.histogram(logs, bins=40, range=(-4, 4))
  return {'edges': edges.tolist(), 'retain_counts': counts.tolist()}


def solve_grid(
  key: PRNGKey,
  method: Method,
  bound: World,
  scene: Scene,
  original: Variables,
  before: Look,
  fraction: float,
  batch_size: int,
  measured: importances.TimedImportances | None = None,
) -> tuple[list[Info], Info | None]:
  """Solves and measures every point of the grid of a method.

  Args:
    key: of the method.
    method: repairs the network; receives the inputs that it declares.
    bound: the manipulation, with data and network.
    scene: the problem.
    original: the network as trained on S_tr.
    before: predictions of the original network.
    fraction: |S_f| / |S_m|.
    batch_size: images a prediction step.
    measured: the importances that the method requests; None without a request,
      or if the method is to compute them itself.

  Returns:
    For each point: hyper, its measures (None where the training diverged),
    diverged, gradient_evaluations, seconds. The cost that points share is
    counted in each. Then the histogram of `count_ratios`.
  """
  began = time.monotonic()
  data = problem.give(scene.problem, fraction, method.needs)
  images = measure.select_images(bound, scene)
  shared_importances = () if measured is None else (measured.pair,)
  prepared = method.prepare(
    rng.fold_in(key, 'prepare'), original, data, *shared_importances
  )
  jax.block_until_ready(jax.tree.leaves(prepared))
  shared = time.monotonic() - began
  # A repair pays for its importances, whichever cell took them.
  shared += 0.0 if measured is None else float(measured.seconds)
  solve = _solve_at_once if method.elementwise else _solve_in_turn
  pairs = solve(
    rng.fold_in(key, 'solve'),
    method,
    bound,
    original,
    data,
    prepared,
    images,
    batch_size,
  )
  points = []
  for hyper, (predictions, info) in zip(method.grid, pairs, strict=True):
    values = (
      {**_DIVERGED, 'collapsed': False, 'diverged': True, 'why': info['why']}
      if predictions is None
      else {
        **measure.compute_measures(bound, scene, predictions, before, fraction),
        'diverged': False,
      }
    )
    facts = {k: v for k, v in info.items() if k not in _COSTS}
    points.append(
      {
        'hyper': dict(hyper),
        'facts': jax.tree.map(_to_json, facts),
        **values,
        'gradient_evaluations': info['gradient_evaluations'],
        'seconds': round(shared + info['seconds'], 3),
      }
    )
  return points, count_ratios(prepared)
