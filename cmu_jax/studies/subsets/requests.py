"""Requests to forget that arrive in sequence, without tuning in between.

AMUN makes D_A of all requests on the original network. AMUN-A makes it on the
current network. Every request shrinks the retain set.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from cmu_jax.core import rng
from cmu_jax.core.types import Info, Variables
from cmu_jax.methods import wrappers
from cmu_jax.studies.engine import grids, pool
from cmu_jax.studies.engine.pool import World
from cmu_jax.studies.engine.study import Cell, Context
from cmu_jax.studies.subsets import measure, trials
from cmu_jax.studies.subsets.trials import SubsetTrial

# Name in tables -> (method of the catalogue, whether D_A is made anew).
KINDS: dict[str, tuple[str, bool]] = {
  'amun': ('amun', False),
  'amun_adaptive': ('amun', True),
}


def draw_requests(config: Any, seed: int, size: int) -> Int[np.ndarray, 'r m']:
  """Draws disjoint requests of `request_share` |D| images each."""
  count, length = config.requests, max(1, round(config.request_share * size))
  key = rng.fold_in(seed, 'requests')
  order = np.asarray(jax.random.permutation(key, size))
  return np.sort(order[: count * length].reshape(count, length), axis=1)


def _unlearn_requests(
  context: Context[World],
  trial: SubsetTrial,
  hyper: dict[str, float],
  index: Int[np.ndarray, 'r m'],
) -> list[Variables]:
  """Computes the network after each request."""
  start = pool.get_original(context, trial.seed)
  # The original network is measured on every request, too.
  if trial.method == grids.NONE:
    return [start] * len(index)
  method, adaptive = KINDS[trial.method]
  results = wrappers.unlearn_continuously(
    rng.fold_in(0, 'requests', *map(str, trial)),
    context.world.methods[method],
    start,
    context.world.dataset.train,
    list(index),
    adaptive=adaptive,
    hyper=hyper,
  )
  return [variables for variables, _ in results]


def solve_requests(
  context: Context[World], trial: SubsetTrial, hyper: dict[str, float]
) -> list[Info]:
  """Computes a row for each request."""
  size = context.world.dataset.train.label.shape[0]
  index = draw_requests(context.config, trial.forget_seed, size)
  networks = _unlearn_requests(context, trial, hyper, index)
  # All requests of a trial are one record: each continues from the last.
  references, rows = trials.get_references(context), []
  for number, variables in enumerate(networks):
    logits = pool.compute_logits(context, variables)
    # Images of earlier requests are neither forgotten now nor retained.
    earlier = index[:number].ravel()
    values = measure.measure(
      context, logits, index[number], references, earlier
    )
    request = {'request': number + 1, 'hyper': hyper, 'diverged': False}
    rows.append({**request, **values})
  return rows


def list_cells(
  context: Context[World], chosen: Mapping[str, dict[str, float]]
) -> list[Cell]:
  """Lists the cells of all requests.

  A method without chosen hyperparameters has no cells yet.
  """
  config = context.config
  if not config.requests:
    return []
  hypers: dict[str, dict[str, float]] = {grids.NONE: {}}
  hypers |= {
    name: chosen[method]
    for name, (method, _) in KINDS.items()
    if method in chosen
  }
  return [
    _request_cell(context, SubsetTrial(seed, forget_seed, name, 0), hyper)
    for seed in config.seeds
    for forget_seed in config.forget_seeds
    for name, hyper in hypers.items()
  ]


def _request_cell(
  context: Context[World], trial: SubsetTrial, hyper: dict[str, float]
) -> Cell:
  config = context.config
  facts = {
    'hyper': hyper,
    'training': config.unlearn,
    'requests': config.requests,
    'share': config.request_share,
  }
  address = trials.trial_address(context, trial, facts)
  return pool.trial_cell(
    trial, address, lambda: solve_requests(context, trial, hyper)
  )
