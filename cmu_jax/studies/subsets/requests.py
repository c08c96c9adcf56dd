"""Requests to forget that come one after another, without tuning in between.

AMUN takes D_A of all requests from theta_o; AMUN-A searches for it anew on the
network as it is by then. What is retained shrinks with every request.
"""

import functools
import itertools
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from cmu_jax.core import progress, rng
from cmu_jax.core.types import Info, Variables
from cmu_jax.methods import wrappers
from cmu_jax.studies.subsets import addresses, measure, sweep
from cmu_jax.studies.subsets.addresses import Cell
from cmu_jax.studies.subsets.sweep import Run
from cmu_jax.studies.subsets.world import Place

# (name in tables, key of the roster, whether D_A is searched for anew).
KINDS = (
  ('amun', 'amun', False),
  ('amun_adaptive', 'amun', True),
)


def draw(config: Any, seed: int, size: int) -> Int[np.ndarray, 'r m']:
  """Disjoint requests, `requests` of `request_share` |D| images each.

  Args:
    config: of the run.
    seed: of the forget sets.
    size: |D|.
  """
  count, each = config.requests, max(1, round(config.request_share * size))
  order = np.asarray(
    jax.random.permutation(rng.fold_in(seed, 'requests'), size)
  )
  return np.sort(order[: count * each].reshape(count, each), axis=1)


def _networks(
  run: Run, cell: Cell, hyper: dict[str, float], index: np.ndarray
) -> list[Variables]:
  """The network after each request; that of `none` never changes."""
  start = run.original(cell.seed)
  kinds = {name: (method, anew) for name, method, anew in KINDS}
  if cell.method not in kinds:
    return [start] * len(index)
  method, anew = kinds[cell.method]
  found = wrappers.unlearn_continuously(
    rng.fold_in(0, 'requests', *map(str, cell)),
    run.place.methods[method],
    start,
    run.place.dataset.train,
    list(index),
    adaptive=anew,
    hyper=hyper,
  )
  return [variables for variables, _ in found]


def _rows(
  run: Run, cell: Cell, hyper: dict[str, float], index: np.ndarray
) -> list[Info]:
  rows = []
  for i, variables in enumerate(_networks(run, cell, hyper, index)):
    gone = index[:i].ravel()
    seen = measure.values(
      run.place,
      measure.look(run.place, variables),
      index[i],
      run.references,
      gone,
    )
    rows.append({'request': i + 1, 'hyper': hyper, 'diverged': False, **seen})
  return rows


def _points(place: Place, hyper: dict[str, float]) -> Any:
  config = place.config
  return {
    'hyper': hyper,
    'training': config.unlearn,
    'requests': config.requests,
    'share': config.request_share,
  }


def requests(
  run: Run, chosen: dict[str, dict[str, float]]
) -> tuple[list[tuple[Cell, Info]], bool]:
  """What each request leaves, on every network and forget seed.

  Args:
    run: under way.
    chosen: hyperparameters by method, of one request; nothing is tuned here.

  Returns:
    (cell, row) of each request, and whether that is all.
  """
  place, config = run.place, run.place.config
  if not config.requests:
    return [], True
  found: list[tuple[Cell, Info]] = []
  done = True
  size = place.dataset.train.label.shape[0]
  names = {'none': {}, **{n: chosen.get(m) for n, m, _ in KINDS}}
  pairs = sweep.reported(config)
  total = len(pairs) * len(names)
  with progress.bar('requests', total, 'cells') as advance, progress.mute():
    for pair, (name, hyper) in itertools.product(pairs, names.items()):
      rows = None
      if hyper is not None:
        cell, index = Cell(*pair, name, 0), draw(config, pair[1], size)
        at = addresses.cell(place, cell, _points(place, hyper))
        compute = functools.partial(_rows, run, cell, hyper, index)
        rows = sweep.kept(run, at, cell, compute)
        found += [(cell, row) for row in rows or ()]
      done = done and rows is not None
      advance()
  return found, done
