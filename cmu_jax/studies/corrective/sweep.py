"""A sweep: originals, cells, results. It continues where it was stopped."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from cmu_jax.core import rng, store
from cmu_jax.core.types import Info, Variables
from cmu_jax.methods.dampening import importance
from cmu_jax.studies.corrective import (
  cells,
  importances,
  live,
  measure,
  references,
  roster,
  selection,
  solve,
  stage,
)
from cmu_jax.studies.corrective.cells import Case, Cell
from cmu_jax.studies.corrective.measure import Look
from cmu_jax.studies.corrective.stage import Stage
from cmu_jax.studies.corrective.world import Scene
from cmu_jax.studies.engine import workers


class Start(NamedTuple):
  """A problem with its original network, on one device."""

  scene: Scene
  original: Variables
  before: Look


def _starting(place: Stage) -> Callable[[Case], Start]:
  """Problems by case, each made once a thread and only when it is needed."""
  held: dict[Any, Start] = {}
  lock = threading.Lock()

  def start(case: Case) -> Start:
    name = (case, threading.get_ident())
    if name in held:
      return held[name]
    one, scene = place.worlds[case.manipulation], stage.scene_of(place, case)
    name_of = cells.case_address(place.config, place.summed, case)
    scene = references.compared(place.config, place.folder, one, scene, name_of)
    trained = stage.original(place, case, scene)
    size = place.config.evaluate.batch_size
    before = solve.look(one, measure.sets(one, scene), trained, size)
    with lock:
      # Cells come case by case: what is behind need not fill the memory.
      for old in [key for key in held if key[1] == name[1]]:
        del held[old]
      held[name] = Start(scene, trained, before)
    return held[name]

  return start


def _measured(
  place: Stage, cell: Cell, begun: Start
) -> importances.Kept | None:
  """The importances that a cell's method asks for, taken or read."""
  request = _request(place, cell)
  if request is None:
    return None
  return importances.kept(
    place.config,
    place.folder,
    place.summed,
    cell,
    request,
    begun.scene,
    begun.original,
  )


def _request(place: Stage, cell: Cell) -> importance.ImportanceRequest | None:
  return place.methods[cell.case.manipulation, cell.method].importances


def _to_measure(place: Stage, absent: list[Cell]) -> list[Cell]:
  """One cell for each file of importances that the absent ones want."""
  first: dict[str, Cell] = {}
  for cell in absent:
    request = _request(place, cell)
    if request is not None:
      name = importances.address(place.config, place.summed, cell, request)
      first.setdefault(name, cell)
  return list(first.values())


def _solve(place: Stage, cell: Cell, begun: Start) -> Info:
  """What a cell's file holds."""
  kind = cell.case.manipulation
  measured = _measured(place, cell, begun)
  started = time.monotonic()
  points, histogram = solve.cell(
    rng.fold_in(begun.scene.key, 'method', cell.method),
    place.methods[kind, cell.method],
    place.worlds[kind],
    begun.scene,
    begun.original,
    begun.before,
    cell.fraction,
    place.config.evaluate.batch_size,
    measured,
  )
  spent = time.monotonic() - started
  spent += 0.0 if measured is None else float(measured.seconds)
  untouched = measure.values(
    place.worlds[kind], begun.scene, begun.before, begun.before, 1.0
  )
  return {
    'case': cell.case._asdict(),
    'train_size': int(begun.scene.problem.truth.size),
    'before': untouched,
    'identified_fraction': cell.fraction,
    'method': cell.method,
    'information': roster.information(place.methods[kind, cell.method]),
    'points': points,
    'importance': histogram if cell.method == 'ssd' else None,
    'seconds': round(spent, 3),
    'device': jax.devices()[0].device_kind,
  }


class _Clock(NamedTuple):
  """When to stop: a moment, and how long each method's cells took."""

  deadline: float | None
  spent: dict[str, float]

  def allows(self, method: str) -> bool:
    """Whether a cell of this method is likely to end in time."""
    if self.deadline is None:
      return True
    return time.monotonic() + self.spent.get(method, 0.0) < self.deadline


def run(place: Stage, minutes: float | None = None) -> bool:
  """Does what is not done yet.

  Args:
    place: see `stage.bind`.
    minutes: after which no further cell is begun; None for no limit.

  Returns:
    Whether all cells are done.
  """
  config = place.config
  clock = _Clock(
    None if minutes is None else time.monotonic() + 60 * minutes, {}
  )
  todo = cells.cells(config)
  names = {cell: cells.address(config, place.summed, cell) for cell in todo}
  absent = {
    c for c in todo if store.read_record(place.folder, names[c]) is None
  }
  waiting = {cell.case for cell in absent}
  start = _starting(place)

  def begin(case: Case) -> None:
    if case in waiting and clock.allows('original'):
      began = time.monotonic()
      start(case)
      clock.spent['original'] = time.monotonic() - began

  def look(cell: Cell) -> None:
    if clock.allows('importances'):
      began = time.monotonic()
      _measured(place, cell, start(cell.case))
      clock.spent['importances'] = time.monotonic() - began

  def work(cell: Cell) -> None:
    if cell in absent and not clock.allows(cell.method):
      return
    if cell in absent:
      begun, began = start(cell.case), time.monotonic()
      store.write_record(place.folder, names[cell], _solve(place, cell, begun))
      clock.spent[cell.method] = time.monotonic() - began
    record = store.read_record(place.folder, names[cell])
    points = record['points'] if record else []
    best = selection.paper(points)
    note(cell, None if best is None else points[best], cell in absent)

  workers.spread(cells.cases(config), begin)
  workers.wait('originals')
  workers.spread(_to_measure(place, [c for c in todo if c in absent]), look)
  workers.wait('importances')
  with live.display(len(todo), _columns(config)) as note:
    workers.spread(todo, work)
  workers.wait('cells')
  left = [c for c in todo if store.read_record(place.folder, names[c]) is None]
  if left:
    print(
      f'the time is up with {len(left)} of {len(todo)} cells to do: the same '
      'command continues',
      file=sys.stderr,
    )
  return not left


def _columns(config: ConfigDict) -> list[float]:
  return sorted({*map(float, config.identified_fractions), 1.0})
