"""A run: originals, references, choices, cells. It continues where it stopped.

What is done lies in files that are named by all that their numbers depend on.
Learning rates are chosen on forget sets of their own, of the first network,
and reported on the others.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from cmu_jax.core import jit, progress, rng, store
from cmu_jax.core.types import (
  Info,
  Method,
  MethodInputs,
  Network,
  PRNGKey,
  Variables,
)
from cmu_jax.studies.engine import bounds, gaps
from cmu_jax.studies.subsets import addresses, measure, references, world
from cmu_jax.studies.subsets.addresses import Cell
from cmu_jax.studies.subsets.measure import References
from cmu_jax.studies.subsets.world import Place
from cmu_jax.training import train

Points = tuple[dict[str, float], ...]
NO_COST: Info = {'gradient_evaluations': 0, 'seconds': 0.0}


class Run(NamedTuple):
  """A run under way.

  Attributes:
    place: what all cells share.
    references: for RMIA, or None.
    original: seed -> its network, trained or read; keeps the last one.
    deadline: monotonic seconds after which no cell is begun; None for none.
  """

  place: Place
  references: References | None
  original: Callable[[int], Variables]
  deadline: float | None


def original(place: Place, seed: int) -> Variables:
  """The network as trained on D, from its file if it is done."""
  config, key = place.config, rng.fold_in(seed, 'original')
  name = addresses.trained(place, f'original {seed}')
  image = place.inputs.eval(place.pool.image[:1], None)
  start = jit.compile_cheaply(place.model.init)(rng.fold_in(key, 'init'), image)
  kept: Any = store.npz_checkpoint(place.folder, f'whole{name}', 0.0)
  found = kept.restore(start)
  if found is not None:
    return found[0]
  batch = place.dataset.train
  fitted = train.fit(
    rng.fold_in(key, 'train'),
    Network(place.model, place.inputs),
    start,
    batch,
    checkpoint=store.npz_checkpoint(
      place.folder, name, config.checkpoint_seconds
    ),
    title=f'original, seed {seed}',
    training=bounds.training(config, place.bounded, batch.label.shape[0]),
  )
  kept.save(fitted.variables, 0)
  # The optimiser's state is as large as the network, and done with.
  store.remove_checkpoint(place.folder, name)
  return fitted.variables


def _forget(place: Place, seed: int) -> Int[np.ndarray, 'm']:
  size = place.dataset.train.label.shape[0]
  return world.draw(place.config, seed, size)


def solved(
  key: PRNGKey,
  method: Method,
  variables: Variables,
  given: MethodInputs,
  points: Points,
  seen: Callable[[Variables], Info],
  source: Variables | None = None,
) -> list[Info]:
  """A method at every point of a grid, measured.

  Args:
    key: of what it draws.
    method: to be run.
    variables: theta_o.
    given: what it may see.
    points: hyperparameters.
    seen: a network -> its numbers.
    source: the network that the method is prepared on; None for theta_o.

  Returns:
    A row a point: `hyper`, `diverged`, cost, and what was seen. The seconds of
    each include what all points share.
  """
  began = time.monotonic()
  base = variables if source is None else source
  prepared = method.prepare(rng.fold_in(key, 'prepare'), base, given)
  jax.block_until_ready(jax.tree.leaves(prepared))
  shared, rows = time.monotonic() - began, []
  for hyper in points:
    began = time.monotonic()
    row: Info = {'hyper': hyper, 'diverged': False, **NO_COST}
    try:
      found, info = method.solve(
        rng.fold_in(key, 'solve'), variables, given, prepared, hyper
      )
      row['gradient_evaluations'] = info['gradient_evaluations']
      row |= seen(found)
    except train.Diverged as error:
      row |= {'diverged': True, 'why': str(error)}
    seconds = shared + time.monotonic() - began
    rows.append({**row, 'seconds': round(seconds, 3)})
  return rows


def _solved(run: Run, cell: Cell, points: Points) -> list[Info]:
  """A method of the roster at every point of a grid, or doing nothing."""
  place, forget = run.place, _forget(run.place, cell.forget_seed)
  variables = run.original(cell.seed)

  def seen(found: Variables) -> Info:
    logits = measure.look(place, found)
    values = measure.values(place, logits, forget, run.references)
    norm = bounds.largest(place.bounded, found)
    return values if norm is None else {**values, 'largest_norm': norm}

  if cell.method == 'none':
    return [{'hyper': {}, 'diverged': False, **NO_COST, **seen(variables)}]
  method = place.methods[cell.method]
  given = world.give(place.dataset.train, forget, method.needs)
  key, other = rng.fold_in(0, *map(str, cell)), addresses.donor(place, cell)
  source = None if other is None else run.original(other)
  return solved(key, method, variables, given, points, seen, source)


def kept(
  run: Run, name: str, cell: Any, compute: Callable[[], list[Info]]
) -> list[Info] | None:
  """Rows from their file, or computed and written.

  Args:
    run: under way.
    name: the address of the file.
    cell: a NamedTuple, told in the file.
    compute: () -> rows.

  Returns:
    None if they are not there and the time is up.
  """
  record = store.read_record(run.place.folder, name)
  if record is not None:
    return record['rows']
  if run.deadline is not None and time.monotonic() > run.deadline:
    return None
  rows = compute()
  store.write_record(
    run.place.folder, name, {'cell': cell._asdict(), 'rows': rows}
  )
  return rows


def _todo(run: Run, cell: Cell, points: Points) -> list[Info] | None:
  """The rows of a cell, one a point of a grid; None if the time is up."""
  name = addresses.cell(run.place, cell, points)
  return kept(run, name, cell, lambda: _solved(run, cell, points))


def begin(place: Place, minutes: float | None) -> Run:
  """Trains the references; originals are trained when they are needed."""
  deadline = None if minutes is None else time.monotonic() + 60 * minutes
  held = functools.lru_cache(maxsize=1)(functools.partial(original, place))
  return Run(place, references.references(place), held, deadline)


def _tuning(config: Any) -> list[tuple[int, int]]:
  return [(config.seeds[0], seed) for seed in config.tuning_seeds]


def reported(config: Any) -> list[tuple[int, int]]:
  """(seed of the network, seed of the forget set) of all that is shown."""
  return [(s, f) for s in config.seeds for f in config.forget_seeds]


def _grid(place: Place, method: str) -> Points:
  return ({},) if method == 'none' else place.methods[method].grid


class Found(NamedTuple):
  """What a run has so far.

  Attributes:
    rows: (cell, row) of what is reported.
    tuning: (cell, rows of the grid) of what was chosen on.
    chosen: method -> its hyperparameters, as far as they are known.
    done: whether that is all.
  """

  rows: list[tuple[Cell, Info]]
  tuning: list[tuple[Cell, list[Info]]]
  chosen: dict[str, dict[str, float]]
  done: bool


def chosen(
  run: Run, method: str, advance: Callable[..., None]
) -> tuple[dict[str, float] | None, list[tuple[Cell, list[Info]]]]:
  """A method's hyperparameters, and the grids that they were chosen on."""
  place, pairs = run.place, _tuning(run.place.config)
  grid = _grid(place, method)
  if len(grid) == 1:
    return grid[0], []
  found: list[tuple[Cell, list[Info]]] = []
  best: list[Info] = []
  for pair in pairs:
    rows = _todo(run, Cell(*pair, method, 0), grid)
    retrained = _todo(run, Cell(*pair, 'retrain', 0), ({},))
    advance(len(grid), f'choosing for {method}')
    if rows is None or retrained is None:
      return None, found
    found.append((Cell(*pair, method, 0), rows))
    best += retrained
  by_point = list(zip(*(rows for _, rows in found), strict=True))
  at = gaps.choose(by_point, best, place.config.attack)
  return grid[at], found


def _runs(config: Any, method: str) -> Sequence[int]:
  """Retraining and doing nothing do not depend on the run."""
  return range(1 if method in ('none', 'retrain') else config.runs)


def _train(begun: Run, pairs: list[tuple[int, int]]) -> None:
  """The long trainings first, each with a bar of its own."""
  for pair in (*_tuning(begun.place.config), *pairs):
    if begun.deadline is None or time.monotonic() < begun.deadline:
      begun.original(pair[0])
    _todo(begun, Cell(*pair, 'retrain', 0), ({},))


def run(begun: Run) -> Found:
  """Does what is not done yet, as far as the time allows."""
  config = begun.place.config
  methods = [*dict.fromkeys(('none', 'retrain', *config.methods))]
  points = [len(_grid(begun.place, method)) for method in methods]
  pairs = reported(config)
  total = len(pairs) * sum(len(_runs(config, m)) for m in methods)
  total += len(config.tuning_seeds) * sum(n for n in points if n > 1)
  hypers: dict[str, dict[str, float]] = {}
  rows, tuning, missing = [], [], 0
  _train(begun, pairs)
  with (
    progress.bar('forgetting', total, 'trainings') as advance,
    progress.mute(),
  ):
    for method in methods:
      hyper, grids = chosen(begun, method, advance)
      tuning += grids
      if hyper is None:
        missing += 1
      else:
        hypers[method] = hyper
    for pair in pairs:
      for method in hypers:
        for number in _runs(config, method):
          cell = Cell(*pair, method, number)
          done = _todo(begun, cell, (hypers[method],))
          missing += done is None
          rows += [(cell, row) for row in done or ()]
          advance(note=f'{method}, seed {pair[0]}, forget set {pair[1]}')
  if missing:
    print('the time is up: the same command continues', file=sys.stderr)
  return Found(rows, tuning, hypers, not missing)
