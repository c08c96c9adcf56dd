"""What a sweep shows while it runs: a table that fills, and the time left."""

import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from rich import console as rich_console
from rich import live as rich_live
from rich import table as rich_table
from rich import text as rich_text

from cmu_jax.core import progress
from cmu_jax.core.types import Info
from cmu_jax.studies.corrective.cells import Cell

Notes = dict[tuple[str, str, float], list[float]]


def _table(notes: Notes, fractions: Sequence[float], line: str):
  """Mean Acc_corr so far: methods down, identified fractions across."""
  shown = rich_table.Table(title='Acc_corr so far', caption=line)
  shown.add_column('manipulation')
  shown.add_column('method')
  for fraction in fractions:
    shown.add_column(f'{fraction:g}', justify='right')
  for kind, method in dict.fromkeys(key[:2] for key in notes):
    values = [notes.get((kind, method, fraction)) for fraction in fractions]
    words = [f'{statistics.fmean(v):.3f}' if v else '' for v in values]
    shown.add_row(kind, method, *words)
  return shown


def _clock(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  return f'{minutes} min {rest:02} s' if minutes else f'{rest} s'


@contextlib.contextmanager
def display(
  total: int, fractions: Sequence[float]
) -> Iterator[Callable[[Cell, Info | None, bool], None]]:
  """Shows finished cells: a live table on a terminal, else lines every 5 s.

  Args:
    total: how many cells there are.
    fractions: the columns.

  Yields:
    done(cell, chosen point or None, whether it was computed now).
  """
  notes: Notes = {}
  began = last = time.monotonic()
  finished = fresh = 0
  lock = threading.Lock()
  terminal = sys.stderr.isatty()
  shown = rich_live.Live(
    rich_text.Text(''),
    console=rich_console.Console(stderr=True),
    refresh_per_second=2,
    transient=True,
  )

  def note(cell: Cell, point: Info | None, now: bool) -> None:
    nonlocal finished, fresh, last
    with lock:
      finished, fresh = finished + 1, fresh + now
      spent = time.monotonic() - began
      left = spent / max(fresh, 1) * (total - finished)
      line = f'{finished}/{total} cells, about {_clock(left)} left'
      if point and point['acc_corr'] is not None:
        key = (cell.case.manipulation, cell.method, cell.fraction)
        notes.setdefault(key, []).append(point['acc_corr'])
      if terminal:
        shown.update(_table(notes, fractions, line))
      elif now and (time.monotonic() - last > 5 or finished == total):
        last = time.monotonic()
        print(f'{line}; {_words(cell, point)}', file=sys.stderr, flush=True)

  if not terminal:
    yield note
    return
  with shown, progress.mute():
    yield note


def _words(cell: Cell, point: Info | None) -> str:
  case = cell.case
  where = (
    f'{case.manipulation} {case.size}, seed {case.seed}, '
    f'{cell.fraction:g} identified: {cell.method}'
  )
  if not point or point['acc_corr'] is None:
    return f'{where} diverged'
  return f'{where} Acc_corr {point["acc_corr"]:.3f}'
