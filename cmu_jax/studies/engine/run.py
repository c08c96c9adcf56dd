"""Runs a study: phases, cells, results. A run continues where it stopped."""

import functools
import pathlib
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from cmu_jax.core import errors, provenance
from cmu_jax.core.types import Info
from cmu_jax.studies.engine import forecast as forecasts
from cmu_jax.studies.engine import workers
from cmu_jax.studies.engine.forecast import Forecast
from cmu_jax.studies.engine.live import Display
from cmu_jax.studies.engine.store import RECORDS, Clock, Store, TimeIsUp
from cmu_jax.studies.engine.study import (
  Cell,
  Context,
  Note,
  Phase,
  Plan,
  Recent,
  Study,
)


def run_study(
  study: Study,
  config: ConfigDict,
  folder: pathlib.Path,
  minutes: float | None = None,
) -> Info:
  """Runs or continues a study.

  Args:
    study: what to compute.
    config: every setting.
    folder: the work folder.
    minutes: the time after which no cell begins; None for no limit.

  Returns:
    The content of results.json, as far as the run came.

  Raises:
    UserError: bad data or settings, a full disk, too little memory.
  """
  study.check(config)
  with errors.collect_remarks() as remarks:
    world = study.load(config, folder)
    context = make_context(config, world, folder, minutes)
    # Of several processes, one tells the user.
    describe = functools.partial(forecasts.describe_run, minutes)
    forecast = Forecast(describe if workers.is_chief() else None)
    results, finished = follow_plan(study, context, forecast)
  header = provenance.results_header(config, finished)
  # Most sources give no reason for a remark.
  facts = {'remarks': remarks} if remarks else {}
  return {**header, **facts, **results}


def make_context(
  config: ConfigDict,
  world: Any,
  folder: pathlib.Path,
  minutes: float | None = None,
) -> Context:
  """Creates the context of a run; the arguments are those of `run_study`."""
  clock = Clock(minutes)
  store = Store(folder, config.checkpoint_seconds, clock)
  return Context(config, world, store, clock, Recent())


def follow_plan(
  study: Study, context: Context, forecast: Forecast | None = None
) -> tuple[Info, bool]:
  """Computes a plan: its results, and whether every cell is done."""
  plan, display = study.plan(context), Display(study.measured)
  forecast = forecast or Forecast(None)
  records, absent, number = None, 0, 0
  while True:
    phase, results = _advance(plan, records)
    if phase is None:
      break
    runner = _Runner(study, context, phase, display, forecast)
    records, missing = runner.run(f'{phase.title} {number}')
    absent, number = absent + missing, number + 1
  if absent:
    print(
      f'the time is up with {absent} cells to do: the same command continues',
      file=sys.stderr,
    )
  return results or {}, not absent


def _advance(
  plan: Plan, records: list[tuple[Any, Info]] | None
) -> tuple[Phase | None, Info | None]:
  """Resumes a plan: its next phase, or None and its results."""
  try:
    # A generator accepts None alone before its first phase.
    return (next(plan) if records is None else plan.send(records)), None
  except StopIteration as end:
    return None, end.value


class _Runner:
  """Computes the absent cells of one phase."""

  def __init__(
    self,
    study: Study,
    context: Context,
    phase: Phase,
    display: Display,
    forecast: Forecast,
  ) -> None:
    self._study, self._context = study, context
    self._phase, self._display = phase, display
    self._forecast = forecast
    self._records: dict[str, Info] = {}

  def run(self, barrier: str) -> tuple[list[tuple[Any, Info]], int]:
    """Returns the records in the order of the cells, and how many are absent.

    `barrier` is a name that no other phase of the run has.
    """
    cells = self._phase.cells
    # All processes share out one list, which is fixed between two barriers:
    # a process that is ahead would otherwise shorten the list of the others.
    workers.wait(f'{barrier} begins')
    absent = [cell for cell in cells if not self._is_done(cell)]
    workers.wait(f'{barrier} is listed')
    for cell in cells:
      if note := self._note(cell):
        self._display.add(note)
    records = any(cell.kind == RECORDS for cell in absent)
    spread = self._phase.spread and jax.local_device_count() > 1
    share = -(-len(absent) // jax.process_count())
    count = workers.count_workers(self._phase.spread)
    with (
      self._display.phase(self._phase.title, share, records or spread),
      self._forecast.phase(self._phase, absent, count),
    ):
      workers.spread(absent, self._compute, self._phase.spread)
    workers.wait(f'{barrier} ends')
    missing = sum(not self._is_done(cell) for cell in absent)
    return [
      (cell.item, self._records[cell.address])
      for cell in cells
      if cell.address in self._records
    ], missing

  def _is_done(self, cell: Cell) -> bool:
    """Looks for the file of a cell, and reads its record."""
    if cell.kind != RECORDS:
      return self._context.store.has_arrays(cell.kind, cell.address)
    if cell.address not in self._records:
      record = self._context.store.read_record(cell.address)
      if record is not None:
        self._records[cell.address] = record
    return cell.address in self._records

  def _compute(self, cell: Cell) -> None:
    clock = self._context.clock
    kind = forecasts.cell_kind(self._phase, cell)
    # A cell that would end late is left to the next run.
    if not clock.allows(kind):
      return
    began = time.monotonic()
    try:
      record = cell.compute()
    except TimeIsUp:
      # The training is in its checkpoint.
      return
    if cell.kind == RECORDS:
      self._context.store.write_record(cell.address, record)
      self._is_done(cell)
    seconds = time.monotonic() - began
    clock.record(kind, seconds)
    self._forecast.finish(cell, seconds)
    self._display.finish(self._note(cell))

  def _note(self, cell: Cell) -> Note | None:
    record = self._records.get(cell.address)
    return None if record is None else self._study.note(cell.item, record)
