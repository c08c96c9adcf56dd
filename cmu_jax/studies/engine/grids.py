"""Methods on grids of hyperparameters, and the choice of a point."""

import time
from collections.abc import Callable, Mapping, Sequence

import jax

from cmu_jax.core import rng
from cmu_jax.core.types import Info, Method, MethodInputs, PRNGKey, Variables
from cmu_jax.training import train

Points = tuple[dict[str, float], ...]

NO_COST: Info = {'gradient_evaluations': 0, 'seconds': 0.0}
# Doing nothing, beside which every method is shown.
NONE = 'none'


def list_points(methods: Mapping[str, Method], name: str) -> Points:
  """Lists the grid of a method; doing nothing has a single empty point."""
  return ({},) if name == NONE else methods[name].grid


def solve_grid(
  key: PRNGKey,
  method: Method,
  variables: Variables,
  data: MethodInputs,
  points: Points,
  measure: Callable[[Variables], Info],
  source: Variables | None = None,
) -> list[Info]:
  """Runs a method at every point of a grid, and measures its networks.

  Args:
    key: of all that the method draws.
    method: the method.
    variables: the network to edit.
    data: the inputs of the method.
    points: hyperparameters.
    measure: network -> its numbers.
    source: the network that the method is prepared on; None for `variables`.

  Returns:
    A row for each point: `hyper`, `diverged`, cost and measured numbers. The
    seconds of each row include the preparation, which all points share.
  """
  began = time.monotonic()
  base = variables if source is None else source
  prepared = method.prepare(rng.fold_in(key, 'prepare'), base, data)
  # Dispatch is asynchronous: the clock has to wait for the arrays.
  jax.block_until_ready(jax.tree.leaves(prepared))
  shared, rows = time.monotonic() - began, []
  for hyper in points:
    began = time.monotonic()
    row: Info = {'hyper': hyper, 'diverged': False, **NO_COST}
    try:
      result, info = method.solve(
        rng.fold_in(key, 'solve'), variables, data, prepared, hyper
      )
      row['gradient_evaluations'] = info['gradient_evaluations']
      row |= measure(result)
    except train.Diverged as error:
      row |= {'diverged': True, 'why': str(error)}
    seconds = shared + time.monotonic() - began
    rows.append({**row, 'seconds': round(seconds, 3)})
  return rows


def idle_row(
  variables: Variables, measure: Callable[[Variables], Info]
) -> Info:
  """Measures the original network, as the row of doing nothing."""
  return {'hyper': {}, 'diverged': False, **NO_COST, **measure(variables)}


def choose_points(
  grids: Mapping[str, Points],
  rows: Mapping[str, Sequence[Sequence[Info]]],
  count: int,
  choose: Callable[[list[tuple[Info, ...]]], int],
) -> dict[str, dict[str, float]]:
  """Chooses the hyperparameters of every method.

  Args:
    grids: method -> its points.
    rows: method -> for each tuning set, a row for each point.
    count: number of tuning sets.
    choose: (rows by point, each with a row for each tuning set) -> position.

  Returns:
    Method -> its point. Methods with absent rows are left out.
  """
  chosen = {}
  for method, points in grids.items():
    # A single point is no choice, and was tried on no tuning set.
    if len(points) == 1:
      chosen[method] = points[0]
    elif len(rows.get(method, ())) == count:
      by_point = list(zip(*rows[method], strict=True))
      chosen[method] = points[choose(by_point)]
  return chosen
