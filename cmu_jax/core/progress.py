"""Progress with an estimate for anything that may last over five seconds."""

import contextlib
import contextvars
import sys
import time
from collections.abc import Callable, Iterator

from rich import progress as rich_progress

_muted = contextvars.ContextVar('muted', default=False)


def _remaining_time(total: int, done: int, units: int, seconds: float) -> str:
  """An estimate at the rate of so many units in so many seconds."""
  if not units:
    return 'estimating'
  return f'about {seconds / units * (total - done):.0f} s left'


def _line_progress(title: str, total: int, unit: str, start: int) -> Callable:
  """One line every five seconds, for logs and pipes."""
  began = last = since = time.monotonic()
  done = origin = start

  def advance(count: int = 1, note: str = '') -> None:
    nonlocal last, done, since, origin
    now = time.monotonic()
    if done == start and 20 * count < total:
      # The first of many steps compiles: it says nothing about the others.
      since, origin = now, start + count
    done += count
    if now - last < 5 and done < total:
      return
    if done >= total and now - began < 5:
      return
    last = now
    left = _remaining_time(total, done, done - origin, now - since)
    said = f'{title}: {done}/{total} {unit}, {now - began:.0f} s, {left} {note}'
    print(said.rstrip(), file=sys.stderr, flush=True)

  return advance


@contextlib.contextmanager
def mute() -> Iterator[None]:
  """No bars inside the block, of this thread: something else shows progress."""
  token = _muted.set(True)
  try:
    yield
  finally:
    _muted.reset(token)


@contextlib.contextmanager
def bar(
  title: str, total: int, unit: str = 'steps', start: int = 0
) -> Iterator[Callable]:
  """A progress bar on a terminal, a line every 5 s elsewhere.

  Args:
    title: what is under way.
    total: how many units there are.
    unit: their name.
    start: units done in an earlier run.

  Yields:
    advance(count=1, note=''), to be called as units are finished.
  """
  if _muted.get():
    yield lambda count=1, note='': None
    return
  if not sys.stderr.isatty():
    yield _line_progress(title, total, unit, start)
    return
  columns = (
    rich_progress.TextColumn('{task.description}'),
    rich_progress.BarColumn(),
    rich_progress.MofNCompleteColumn(),
    rich_progress.TextColumn(unit),
    rich_progress.TimeElapsedColumn(),
    rich_progress.TimeRemainingColumn(),
    rich_progress.TextColumn('{task.fields[note]}'),
  )
  with rich_progress.Progress(
    *columns, transient=True, console=None, refresh_per_second=4
  ) as display:
    task = display.add_task(title, total=total, completed=start, note='')
    yield lambda count=1, note='': display.update(
      task, advance=count, note=note
    )
