"""Progress of a run: a table that fills, and the time left."""

import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Iterator

from rich import live as rich_live
from rich import table as rich_table
from rich import text as rich_text

from cmu_jax.core import progress
from cmu_jax.studies.engine.study import Note

# Seconds between two lines, where stderr is no terminal.
_INTERVAL = 5.0


def _format_duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  return f'{minutes} min {seconds:02} s' if minutes else f'{seconds} s'


class Display:
  """Shows finished cells: a live table on a terminal, else lines.

  Attributes:
    measured: the quantity in the table.
  """

  def __init__(self, measured: str) -> None:
    self.measured = measured
    self._values: dict[tuple[tuple[str, ...], str], list[float]] = {}
    self._names: dict[str, None] = {}
    self._lock = threading.Lock()
    self._terminal = sys.stderr.isatty()
    self._live: rich_live.Live | None = None
    self._printed = 0.0

  @contextlib.contextmanager
  def phase(self, title: str, total: int, live: bool) -> Iterator[None]:
    """Counts the cells of a phase.

    The table is not `live` while trainings show their bars.
    """
    self._title, self._total, self._count = title, total, 0
    self._began = self._printed = time.monotonic()
    if not (live and total and self._terminal):
      yield
      return
    self._live = rich_live.Live(
      rich_text.Text(''),
      console=progress.CONSOLE,
      refresh_per_second=2,
      transient=True,
    )
    try:
      with self._live, progress.mute():
        self._live.update(self._table())
        yield
    finally:
      self._live = None

  def add(self, note: Note) -> None:
    """Adds a cell to the table."""
    # Each device of a process has a thread that adds cells.
    with self._lock:
      self._names |= dict.fromkeys(note.row)
      if note.value is not None:
        key = tuple(note.row.values()), note.column
        self._values.setdefault(key, []).append(note.value)

  def finish(self, note: Note | None) -> None:
    """Counts a cell that was computed now."""
    if note is not None:
      self.add(note)
    with self._lock:
      self._count += 1
      if self._live is not None:
        self._live.update(self._table())
      elif self._is_due():
        self._printed = time.monotonic()
        text = f'{self._line()}{"" if note is None else _describe(note)}'
        print(text, file=sys.stderr, flush=True)

  def _is_due(self) -> bool:
    if self._terminal:
      return False
    late = time.monotonic() - self._printed > _INTERVAL
    return late or self._count == self._total

  def _line(self) -> str:
    seconds = time.monotonic() - self._began
    remaining = seconds / max(self._count, 1) * (self._total - self._count)
    count = f'{self._title}: {self._count}/{self._total} cells'
    return f'{count}, about {_format_duration(remaining)} left'

  def _table(self) -> rich_table.Table:
    """Means so far: rows of the notes down, their columns across."""
    table = rich_table.Table(
      title=f'{self.measured} so far', caption=self._line()
    )
    for name in self._names:
      table.add_column(name)
    columns = list(dict.fromkeys(column for _, column in self._values))
    for column in columns:
      table.add_column(column, justify='right')
    for row in dict.fromkeys(row for row, _ in self._values):
      values = [self._values.get((row, column)) for column in columns]
      means = (f'{statistics.fmean(x):.3f}' if x else '' for x in values)
      table.add_row(*row, *means)
    return table


def _describe(note: Note) -> str:
  name = ' '.join(filter(None, (*note.row.values(), note.column)))
  value = 'diverged' if note.value is None else f'{note.value:.3f}'
  return f'; {name}: {value}'
