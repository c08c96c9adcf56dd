"""The grid of a method on one problem, with the measures of each point."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax.core import jit, rng, tree, vectorize
from cmu_jax.core.types import Info, Method, Network, PRNGKey, Variables
from cmu_jax.methods.dampening import importance
from cmu_jax.studies.corrective import importances, measure, problem
from cmu_jax.studies.corrective.measure import Probe
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
# Of the info of a method: a point has fields of its own for these.
_COSTS = ('gradient_evaluations', 'seconds', 'why')

# For each point of a grid, its predictions (None if its training diverged) and
# the info of the method.
Solutions = list[tuple[Probe | None, Info]]


class Start(NamedTuple):
  """A problem with its original network, which all its trials start from.

  Attributes:
    shared: the manipulation, with data and network.
    scene: the problem, with the references of an audit.
    images: to predict.
    original: the network as trained on S_tr.
    predicted: predictions of the original network.
    batch_size: images a prediction step.
  """

  shared: World
  scene: Scene
  images: Probe
  original: Variables
  predicted: Probe
  batch_size: int


def make_start(
  shared: World, scene: Scene, original: Variables, batch_size: int
) -> Start:
  """Predicts with the original network; arguments as in `Start`."""
  images = measure.select_images(shared, scene)
  program = _prediction_program(shared.network, batch_size)
  predicted = _move_to_host(program(original, images))
  return Start(shared, scene, images, original, predicted, batch_size)


def _to_json(value: Any) -> Any:
  """Converts a number of the info of a method to a Python number."""
  return value if isinstance(value, str) else np.asarray(value).item()


def _move_to_host(predictions: Probe) -> Probe:
  return jax.tree.map(np.asarray, predictions)


def _get_network(method: Method, start: Start) -> Network:
  """Returns the network of a method, which may change the architecture."""
  model = method.model or start.shared.model
  return Network(model, start.shared.inputs)


# Cached, because a new jitted function would compile again.
@functools.lru_cache(maxsize=32)
def _prediction_program(network: Network, batch_size: int) -> Callable:
  return jit.compile_loop(measure.make_predictor(network, batch_size))


@functools.lru_cache(maxsize=32)
def _grid_program(
  solve: Callable, network: Network, batch_size: int, chunk: int
) -> Callable:
  """Compiles a program that edits and predicts at every point of a grid."""
  predictor = measure.make_predictor(network, batch_size)

  def run(key, variables, data, prepared, hypers, images):
    def point(hyper):
      edited, info = solve(key, variables, data, prepared, hyper)
      # Predictions instead of networks: a grid of networks fills the memory.
      return predictor(edited, images), jnp.asarray(
        info['gradient_evaluations']
      )

    return vectorize.map_members(point, chunk=chunk)(hypers)

  return jit.compile_loop(run)


def _solve_at_once(method: Method, start: Start, inputs: tuple) -> Solutions:
  """Solves all points in one program; arguments as for `_solve_in_turn`."""
  began = time.monotonic()
  count = len(method.grid)
  hypers = {
    name: jnp.asarray([point[name] for point in method.grid], jnp.float32)
    for name in method.grid[0]
  }
  # As many points side by side as there is room for networks.
  weight = sum(x.nbytes for x in jax.tree.leaves(start.original))
  network, chunk = _get_network(method, start), vectorize.chunk_size(weight)
  run = _grid_program(method.solve, network, start.batch_size, chunk)
  predictions, costs = run(*inputs, hypers, start.images)
  stacked, costs = _move_to_host(predictions), np.asarray(costs)
  # One program has no time of its points.
  seconds = (time.monotonic() - began) / count
  return [
    (
      tree.index(stacked, i),
      {'gradient_evaluations': int(costs[i]), 'seconds': seconds},
    )
    for i in range(count)
  ]


def _solve_in_turn(method: Method, start: Start, inputs: tuple) -> Solutions:
  """Solves one point after the other.

  Args:
    method: with its grid.
    start: of the trial.
    inputs: key, variables, data and what `method.prepare` returned.
  """
  network = _get_network(method, start)
  program = _prediction_program(network, start.batch_size)
  solutions: Solutions = []
  for hyper in method.grid:
    began = time.monotonic()
    predictions: Probe | None = None
    try:
      edited, info = method.solve(*inputs, hyper)
      predictions = _move_to_host(program(edited, start.images))
    # Too high a rate on a grid is a result, not the end of a sweep.
    except train.Diverged as error:
      info = {'gradient_evaluations': None, 'why': str(error)}
    seconds = time.monotonic() - began
    solutions.append((predictions, {**info, 'seconds': seconds}))
  return solutions


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
  # Outliers count in the outer bins, so that no parameter is lost.
  logs = np.clip(np.log10(forget[positive] / retain[positive]), -3.999, 3.999)
  counts, edges = np.histogram(logs, bins=40, range=(-4, 4))
  return {'edges': edges.tolist(), 'retain_counts': counts.tolist()}


def _measure_point(
  start: Start, fraction: float, predictions: Probe | None, info: Info
) -> Info:
  """Computes the measures of a point; None where its training diverged."""
  if predictions is None:
    return {
      **_DIVERGED,
      'collapsed': False,
      'diverged': True,
      'why': info['why'],
    }
  return {
    **measure.compute_measures(
      start.shared, start.scene, predictions, start.predicted, fraction
    ),
    'diverged': False,
  }


def solve_grid(
  key: PRNGKey,
  method: Method,
  start: Start,
  fraction: float,
  measured: importances.TimedImportances | None = None,
) -> tuple[list[Info], Info | None]:
  """Solves and measures every point of the grid of a method.

  Args:
    key: of the method.
    method: repairs the network; receives the inputs that it declares.
    start: the problem with its original network.
    fraction: |S_f| / |S_m|.
    measured: the importances that the method requests; None without a request,
      or if the method is to compute them itself.

  Returns:
    For each point: hyper, its measures (None where the training diverged),
    diverged, gradient_evaluations, seconds. The cost that points share is
    counted in each. Then the histogram of `count_ratios`.
  """
  began = time.monotonic()
  data = problem.give(start.scene.problem, fraction, method.needs)
  importance_pair = () if measured is None else (measured.pair,)
  prepared = method.prepare(
    rng.fold_in(key, 'prepare'), start.original, data, *importance_pair
  )
  # JAX returns before its work is done, which the clock must not miss.
  jax.block_until_ready(jax.tree.leaves(prepared))
  shared_seconds = time.monotonic() - began
  # A repair pays for its importances, whichever cell took them.
  shared_seconds += 0.0 if measured is None else float(measured.seconds)
  solve = _solve_at_once if method.elementwise else _solve_in_turn
  inputs = rng.fold_in(key, 'solve'), start.original, data, prepared
  solutions = solve(method, start, inputs)
  points = []
  for hyper, (predictions, info) in zip(method.grid, solutions, strict=True):
    facts = {name: x for name, x in info.items() if name not in _COSTS}
    points.append(
      {
        'hyper': dict(hyper),
        'facts': jax.tree.map(_to_json, facts),
        **_measure_point(start, fraction, predictions, info),
        'gradient_evaluations': info['gradient_evaluations'],
        'seconds': round(shared_seconds + info['seconds'], 3),
      }
    )
  return points, count_ratios(prepared)
