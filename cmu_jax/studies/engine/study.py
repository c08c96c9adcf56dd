"""The types of a study: cells, phases, the context they run in.

A study is a plan over cells. A cell is one unit of work whose file is named by
everything that its numbers depend on. The engine (`run`) computes the absent
cells on all devices and processes, and hands the records back to the plan.
"""

import dataclasses
import functools
import pathlib
import threading
from collections.abc import Callable, Generator, Hashable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from ml_collections import ConfigDict

from cmu_jax.core.types import Info
from cmu_jax.report.frame import Report
from cmu_jax.studies.engine.store import RECORDS, Clock, Store

World = TypeVar('World')
Value = TypeVar('Value')
# Training images that the prediction of an image costs.
FORWARD = 1 / 3


class Cell(NamedTuple):
  """A unit of work with an address.

  Attributes:
    item: the cell in the terms of its study.
    address: fingerprint of everything that its numbers depend on.
    compute: () -> the record, which the engine writes; for another kind,
      `compute` writes its arrays through the store itself.
    kind: the folder of its file; `RECORDS`, 'networks' or a folder of arrays.
    images: that it trains on, steps times batch, for the forecast of the run; 0
      if unknown. Images that are only predicted count `FORWARD` each.
  """

  item: Any
  address: str
  compute: Callable[[], Any]
  kind: str = RECORDS
  images: float = 0.0


def make_cells(
  context: 'Context',
  items: Iterable[Any],
  address: Callable[['Context', Any], str],
  compute: Callable[['Context', Any], Any],
  kind: str = RECORDS,
  images: Callable[['Context', Any], float] = lambda context, item: 0.0,
) -> list[Cell]:
  """Makes a cell for each item; the functions take (context, item)."""
  return [
    Cell(
      item,
      address(context, item),
      functools.partial(compute, context, item),
      kind,
      images(context, item),
    )
    for item in items
  ]


class Phase(NamedTuple):
  """Cells that may be computed in any order, on any worker.

  Attributes:
    title: for progress, and for the barrier between processes.
    cells: all of them, in the same order in every process.
    spread: over local devices too, or over processes alone, because a cell
      uses all local devices itself.
    later: the images of all phases after it, as far as they are known, see
      `Cell`.
    is_covered: whether `later` is all that follows.
  """

  title: str
  cells: list[Cell]
  spread: bool = True
  later: float = 0.0
  is_covered: bool = False


Plan = Generator[Phase, list[tuple[Any, Info]], Info]
"""Yields phases, receives (item, record) of every finished cell of each phase,
and returns what results.json holds besides its header."""


class Note(NamedTuple):
  """A finished cell in the live table.

  Attributes:
    row: column name -> text; cells of equal rows are averaged.
    column: the column of the value.
    value: a number; None if the cell has none, because a training diverged.
  """

  row: dict[str, str]
  column: str
  value: float | None


class Recent:
  """The last values of each kind, one memory per thread.

  A worker computes cells in order, so that neighbours share a network. Each
  thread has a device of its own, hence a memory of its own.
  """

  def __init__(self) -> None:
    self._local = threading.local()

  def __call__(
    self, kind: str, key: Hashable, make: Callable[[], Value], size: int = 1
  ) -> Value:
    """Returns the value of a key, and forgets the oldest beyond `size`."""
    kinds = self._local.__dict__.setdefault('kinds', {})
    values = kinds.setdefault(kind, {})
    if key not in values:
      # The old network leaves the memory before the new one enters it.
      while len(values) >= size:
        del values[next(iter(values))]
      values[key] = make()
    return values[key]


@dataclasses.dataclass(frozen=True)
class Context(Generic[World]):
  """The arguments of the functions of a study.

  Attributes:
    config: every setting.
    world: data, network and input step that all cells share.
    store: the files of the run.
    clock: how much time is left.
    recent: networks that neighbouring cells share.
  """

  config: ConfigDict
  world: World
  store: Store
  clock: Clock
  recent: Recent


@dataclasses.dataclass(frozen=True)
class Study(Generic[World]):
  """A kind of study.

  Attributes:
    task: `config.task`, and the task in results.json.
    check: refuses settings that cannot be, before any data are read.
    load: (config, work folder) -> world.
    plan: the phases and the results, see `Plan`.
    note: (item, record) -> its place in the live table, or None.
    measured: the quantity in the live table.
    report: tables, figures and the page; imports no JAX.
  """

  task: str
  check: Callable[[ConfigDict], None]
  load: Callable[[ConfigDict, pathlib.Path], World]
  plan: Callable[[Context[World]], Plan]
  note: Callable[[Any, Info], Note | None]
  measured: str
  report: Report
