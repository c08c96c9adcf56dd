"""The corrective benchmark: originals, importances, methods on identified sets.

A cell is one method at one identified fraction of one problem, with its whole
grid. The point of a grid is chosen afterwards, from the record of its cell.
"""

import functools
import time
from typing import NamedTuple

import jax

from cmu_jax.core import rng
from cmu_jax.core.types import Info, Variables
from cmu_jax.methods.dampening import importance
from cmu_jax.studies.corrective import (
  cells,
  importances,
  measure,
  references,
  report,
  results,
  roster,
  selection,
  settings,
  solve,
  stage,
)
from cmu_jax.studies.corrective.cells import Case, Cell
from cmu_jax.studies.corrective.measure import Look
from cmu_jax.studies.corrective.stage import Benchmark
from cmu_jax.studies.corrective.world import Scene
from cmu_jax.studies.engine import study as engine
from cmu_jax.studies.engine.store import NETWORKS
from cmu_jax.studies.engine.study import Context, Note, Phase, Plan, Study


class Start(NamedTuple):
  """A problem with its original network, on one device.

  Attributes:
    scene: the data.
    original: the network as trained on S_tr.
    before: its predictions.
  """

  scene: Scene
  original: Variables
  before: Look


def _case_address(context: Context[Benchmark], case: Case) -> str:
  return cells.case_address(context.config, context.world.digest, case)


def _start(context: Context[Benchmark], case: Case) -> Start:
  """Draws a problem and trains its original; cells of a case share both."""
  return context.recent('start', case, lambda: _make_start(context, case))


def _make_start(context: Context[Benchmark], case: Case) -> Start:
  config, bound = context.config, context.world.worlds[case.manipulation]
  address = _case_address(context, case)
  scene = references.compared(
    config,
    context.store.folder,
    bound,
    stage.draw_scene(context, case),
    address,
  )
  original = stage.train_original(context, case, scene)
  images = measure.sets(bound, scene)
  size = config.evaluate.batch_size
  return Start(scene, original, solve.look(bound, images, original, size))


def _request(
  context: Context[Benchmark], cell: Cell
) -> importance.ImportanceRequest | None:
  method = context.world.methods[cell.case.manipulation, cell.method]
  return method.importances


def _importances(
  context: Context[Benchmark], cell: Cell
) -> importances.Kept | None:
  """Measures or reads the importances that a method asks for."""
  request = _request(context, cell)
  if request is None:
    return None
  start = _start(context, cell.case)
  return importances.read_or_measure(
    context, cell, request, start.scene, start.original
  )


def _importance_cells(
  context: Context[Benchmark], absent: list[Cell]
) -> list[engine.Cell]:
  """Lists one cell for each file of importances that absent cells need."""
  files: dict[str, engine.Cell] = {}
  for cell in absent:
    request = _request(context, cell)
    if request is not None:
      address = importances.address(
        context.config, context.world.digest, cell, request
      )
      compute = functools.partial(_importances, context, cell)
      files.setdefault(
        address, engine.Cell(cell, address, compute, importances.FOLDER)
      )
  return list(files.values())


def solve_cell(context: Context[Benchmark], cell: Cell) -> Info:
  """Runs the grid of a method, and measures every point."""
  kind, config = cell.case.manipulation, context.config
  bound = context.world.worlds[kind]
  method = context.world.methods[kind, cell.method]
  start = _start(context, cell.case)
  measured = _importances(context, cell)
  began = time.monotonic()
  points, histogram = solve.cell(
    rng.fold_in(start.scene.key, 'method', cell.method),
    method,
    bound,
    start.scene,
    start.original,
    start.before,
    cell.fraction,
    config.evaluate.batch_size,
    measured,
  )
  seconds = time.monotonic() - began
  # A repair pays for its importances, whichever cell measured them.
  seconds += 0.0 if measured is None else float(measured.seconds)
  return {
    'case': cell.case._asdict(),
    'train_size': int(start.scene.problem.truth.size),
    'before': measure.values(
      bound, start.scene, start.before, start.before, 1.0
    ),
    'identified_fraction': cell.fraction,
    'method': cell.method,
    'information': roster.information(method),
    'points': points,
    'importance': histogram if cell.method == 'ssd' else None,
    'seconds': round(seconds, 3),
    'device': jax.devices()[0].device_kind,
  }


def plan(context: Context[Benchmark]) -> Plan:
  """Trains originals, measures importances, then runs the methods."""
  config, digest = context.config, context.world.digest
  addresses = {
    cell: cells.address(config, digest, cell) for cell in cells.cells(config)
  }
  absent = [
    cell
    for cell, address in addresses.items()
    if context.store.read_record(address) is None
  ]
  # A finished problem does not need its original any more.
  waiting = {cell.case for cell in absent}
  yield Phase(
    'originals',
    [
      engine.Cell(
        case,
        _case_address(context, case),
        functools.partial(_start, context, case),
        NETWORKS,
      )
      for case in cells.cases(config)
      if case in waiting
    ],
  )
  yield Phase('importances', _importance_cells(context, absent))
  records = yield Phase(
    'cells',
    [
      engine.Cell(cell, address, functools.partial(solve_cell, context, cell))
      for cell, address in addresses.items()
    ],
  )
  return results.collect(context, records)


def note(cell: Cell, record: Info) -> Note:
  """Shows Acc_corr of the point that the benchmark's rule chooses."""
  points = record['points']
  best = selection.paper(points)
  row = {'manipulation': cell.case.manipulation, 'method': cell.method}
  value = None if best is None else points[best]['acc_corr']
  return Note(row, f'{cell.fraction:g}', value)


STUDY = Study(
  task='corrective',
  check=settings.check,
  load=stage.load,
  plan=plan,
  note=note,
  measured='Acc_corr',
  report=report.REPORT,
)
