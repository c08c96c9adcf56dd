"""A run: originals, retrained networks, choices, cells. It continues.

Retrained networks come first, for all that is measured is set beside them. What
is done lies in files that are named by all that their numbers depend on.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cmu_jax.core import progress, rng
from cmu_jax.core.types import Info, Variables
from cmu_jax.studies.classes import (
  addresses,
  nearness,
  retrained,
  shadows,
  world,
)
from cmu_jax.studies.classes import measure as measure_lib
from cmu_jax.studies.classes.addresses import Cell
from cmu_jax.studies.classes.measure import Reference
from cmu_jax.studies.classes.retrained import Outputs
from cmu_jax.studies.subsets import measure, sweep
from cmu_jax.studies.subsets.sweep import Points, Run
from cmu_jax.studies.subsets.world import Place


class Found(NamedTuple):
  """What a run has so far.

  Attributes:
    rows: (cell, row) of what is reported.
    tuning: (cell, row) of what was chosen on.
    noise: (cell, row) of TRW with noisy similarities.
    retrained: class -> answers of the networks retrained without it.
    chosen: method -> its hyperparameters, as far as they are known.
    done: whether that is all.
    shadows: class -> what U-LiRA looks at, where there are shadow models.
  """

  rows: list[tuple[Cell, Info]]
  tuning: list[tuple[Cell, Info]]
  noise: list[tuple[Cell, Info]]
  retrained: dict[int, Outputs]
  chosen: dict[str, dict[str, float]]
  done: bool
  shadows: dict[int, shadows.Told]


def begin(place: Place, minutes: float | None) -> Run:
  """Nothing is trained yet.

  Args:
    place: of the run.
    minutes: after which no cell is begun; None for no limit.
  """
  deadline = None if minutes is None else time.monotonic() + 60 * minutes
  held = functools.partial(sweep.original, place)
  size = len(place.config.seeds)
  return Run(place, None, functools.lru_cache(size)(held), deadline)


def _rounded(found: dict[str, np.ndarray]) -> Info:
  return {name: np.round(x, 4).tolist() for name, x in found.items()}


def _solved(
  run: Run, cell: Cell, points: Points, known: Reference, final: bool
) -> list[Info]:
  """A method at every point of a grid, measured."""
  place, variables = run.place, run.original(cell.seed)

  def seen(found: Variables) -> Info:
    logits = measure.look(place, found)
    row = measure_lib.values(place, logits, known)
    told = measure_lib.statistics(place, logits, known) if final else {}
    return row | ({'statistics': _rounded(told)} if final else {})

  if cell.method == 'none':
    return [
      {'hyper': {}, 'diverged': False, **sweep.NO_COST, **seen(variables)}
    ]
  method = place.methods[cell.method]
  given = world.give(place, cell.forget_class, method.needs)
  key = rng.fold_in(0, *map(str, cell))
  return sweep.solved(key, method, variables, given, points, seen)


def _todo(
  run: Run, cell: Cell, points: Points, known: Reference, final: bool = True
) -> list[Info] | None:
  """The rows of a cell, one a point of a grid; None if the time is up."""
  compared = retrained.count(run.place, cell.forget_class)
  name = addresses.cell(run.place, cell, points, compared)
  compute = functools.partial(_solved, run, cell, points, known, final)
  return sweep.kept(run, name, cell, compute)


def _grid(place: Place, method: str) -> Points:
  return ({},) if method == 'none' else place.methods[method].grid


def _chosen(
  run: Run,
  method: str,
  known: dict[int, Reference],
  best: list[Info],
  advance: Callable[..., None],
) -> tuple[dict[str, float] | None, list[tuple[Cell, Info]]]:
  """A method's hyperparameters, and what they were chosen on."""
  config, grid = run.place.config, _grid(run.place, method)
  if len(grid) == 1:
    return grid[0], []
  found: list[list[tuple[Cell, Info]]] = []
  for forgotten in config.tuning_classes:
    cell = Cell(config.seeds[0], forgotten, method)
    rows = _todo(run, cell, grid, known[forgotten], False)
    advance(len(grid), f'choosing for {method}')
    if rows is None:
      return None, [one for rows in found for one in rows]
    found.append(retrained.tagged(cell, rows))
  points = [[row for _, row in one] for one in zip(*found, strict=True)]
  at = nearness.choose(points, best)
  return grid[at], [one for rows in found for one in rows]


def _train(run: Run) -> dict[int, Outputs]:
  """The long trainings first, each with a bar of its own."""
  config = run.place.config
  found = {}
  for forgotten in (*config.tuning_classes, *config.forget_classes):
    known = None if retrained.late(run) else retrained.outputs(run, forgotten)
    if known is not None:
      found[forgotten] = known
  for seed in config.seeds:
    if not retrained.late(run):
      run.original(seed)
  return found


def _noisy(
  run: Run, cell: Cell, hyper: dict[str, float], known: Reference
) -> list[tuple[Cell, Info]] | None:
  """TRW with noisy similarities, at its chosen beta and at the paper's."""
  config = run.place.config
  points = tuple(
    {**hyper, 'beta': float(beta), 'noise': float(noise)}
    for beta in dict.fromkeys((hyper['beta'], config.betas[0]))
    for noise in (0.0, *config.noises)
  )
  rows = _todo(run, cell, points, known, False)
  return None if rows is None else retrained.tagged(cell, rows)


def _choices(
  run: Run, found: dict[int, Outputs], advance: Callable[..., None]
) -> tuple[dict[str, dict[str, float]], list[tuple[Cell, Info]], bool]:
  """Hyperparameters by method, what they were chosen on, whether all are."""
  place, config = run.place, run.place.config
  if set(config.tuning_classes) - set(found):
    return {}, [], False
  known, best = {}, []
  for forgotten in config.tuning_classes:
    answers = found[forgotten]
    known[forgotten] = measure_lib.reference(
      place, answers.logits, forgotten, True
    )
    rows = retrained.rows(place, forgotten, answers, known[forgotten])
    best += [row for _, row in rows]
  hypers, tuning = {}, []
  for method in ('none', *config.methods):
    hyper, rows = _chosen(run, method, known, best, advance)
    tuning += rows
    if hyper is not None:
      hypers[method] = hyper
  return hypers, tuning, len(hypers) == 1 + len(config.methods)


def _reported(
  run: Run,
  forgotten: int,
  known: Reference,
  hypers: dict[str, dict[str, float]],
  advance: Callable[..., None],
) -> tuple[list[tuple[Cell, Info]], list[tuple[Cell, Info]], bool]:
  """Rows of a class, those with noise, whether that is all."""
  rows, noise, done = [], [], True
  for seed in run.place.config.seeds:
    for method, hyper in hypers.items():
      cell = Cell(seed, forgotten, method)
      found = _todo(run, cell, (hyper,), known)
      done = done and found is not None
      rows += retrained.tagged(cell, found or [])
      advance(note=f'{method}, seed {seed}, class {forgotten}')
    if run.place.config.noises and 'trw' in hypers:
      cell = Cell(seed, forgotten, 'trw')
      more = _noisy(run, cell, hypers['trw'], known)
      done = done and more is not None
      noise += more or []
  return rows, noise, done


def run(begun: Run) -> Found:
  """Does what is not done yet, as far as the time allows."""
  place, config = begun.place, begun.place.config
  found = _train(begun)
  grids = [len(_grid(place, method)) for method in config.methods]
  total = len(config.tuning_classes) * sum(n for n in grids if n > 1)
  cells = len(config.forget_classes) * len(config.seeds)
  total += (cells + len(config.forget_classes) * config.shadows) * (
    1 + len(grids)
  )
  rows: list[tuple[Cell, Info]] = []
  noise: list[tuple[Cell, Info]] = []
  told: dict[int, shadows.Told] = {}
  original = None if retrained.late(begun) else shadows.begin(place)
  with (
    progress.bar('class unlearning', total, 'trainings') as advance,
    progress.mute(),
  ):
    hypers, tuning, done = _choices(begun, found, advance)
    for forgotten in config.forget_classes:
      if forgotten not in found:
        done = False
        continue
      answers = found[forgotten]
      known = measure_lib.reference(place, answers.logits, forgotten, False)
      rows += retrained.rows(place, forgotten, answers, known)
      more, noisy, whole = _reported(begun, forgotten, known, hypers, advance)
      rows, noise, done = rows + more, noise + noisy, done and whole
      if original is not None:
        seen = shadows.told(begun, known, hypers, original, advance)
        told |= {} if seen is None else {forgotten: seen}
      done = done and (not config.shadows or forgotten in told)
  if not done:
    print('the time is up: the same command continues', file=sys.stderr)
  return Found(rows, tuning, noise, found, hypers, done, told)
