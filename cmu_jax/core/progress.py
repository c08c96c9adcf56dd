"""Progress with an estimate, for work that may last over five seconds."""

import contextlib
import contextvars
import sys
import time
from collections.abc import Callable, Iterator

from rich import console as rich_console
from rich import progress as rich_progress

# A context variable, because threads run cells side by side and each of them
# mutes its own bars only.
_muted = contextvars.ContextVar('muted', default=False)
_title = contextvars.ContextVar('title', default='')
_listener = contextvars.ContextVar[Callable[[int, float | None], None]](
  'listener', default=lambda images, seconds: None
)
_INTERVAL_SECONDS = 5
# One for all, because nested bars share the lines of a terminal.
CONSOLE = rich_console.Console(stderr=True)


def _remaining_time(
  total: int, completed: int, units: int, seconds: float
) -> str:
  """Estimates the remaining time at a rate of `units` in `seconds`."""
  if not units:
    return 'estimating'
  remaining = seconds / units * (total - completed)
  return f'about {format_duration(remaining)} left'


def format_duration(seconds: float) -> str:
  """Formats a duration in the unit in which people would say it."""
  if seconds < 120:
    return f'{seconds:.0f} s'
  minutes = seconds / 60
  return f'{minutes:.0f} min' if minutes < 120 else f'{minutes / 60:.1f} h'


def _line_progress(title: str, total: int, unit: str, start: int) -> Callable:
  """Builds an `advance` that prints a line every five seconds."""
  begin = latest = timed_from = time.monotonic()
  completed = timed_count = start

  def advance(count: int = 1, note: str = '') -> None:
    nonlocal latest, completed, timed_from, timed_count
    clock = time.monotonic()
    if completed == start and 20 * count < total:
      # The first of many steps includes the compilation: it says nothing about
      # the speed of the others.
      timed_from, timed_count = clock, start + count
    completed += count
    if clock - latest < _INTERVAL_SECONDS and completed < total:
      return
    # Work that ends within the interval stays silent.
    if completed >= total and clock - begin < _INTERVAL_SECONDS:
      return
    latest = clock
    remaining = _remaining_time(
      total, completed, completed - timed_count, clock - timed_from
    )
    line = (
      f'{title}: {completed}/{total} {unit}, {clock - begin:.0f} s, '
      f'{remaining} {note}'
    )
    print(line.rstrip(), file=sys.stderr, flush=True)

  return advance


@contextlib.contextmanager
def mute() -> Iterator[None]:
  """Hides the bars of this thread inside the block."""
  token = _muted.set(True)
  try:
    yield
  finally:
    _muted.reset(token)


@contextlib.contextmanager
def listen(
  listener: Callable[[int, float | None], None],
) -> Iterator[None]:
  """Reports the trainings inside the block to a listener.

  Args:
    listener: called with the images of some training steps and their seconds,
      see `report_images`.
  """
  token = _listener.set(listener)
  try:
    yield
  finally:
    _listener.reset(token)


def report_images(images: int, seconds: float | None) -> None:
  """Tells the listener of training steps that are over.

  Args:
    images: that the steps trained on.
    seconds: that they took; None for steps of an earlier run, and for the
      first, whose time is that of the compilation.
  """
  _listener.get()(images, seconds)


def say(line: str) -> None:
  """Prints a line that stays, above the bars of a terminal."""
  if sys.stderr.isatty():
    CONSOLE.print(line, highlight=False, markup=False)
  else:
    print(line, file=sys.stderr, flush=True)


def current_title() -> str:
  """Returns the title of the innermost bar of this thread, or ''."""
  return _title.get()


@contextlib.contextmanager
def bar(
  title: str, total: int, unit: str = 'steps', start: int = 0
) -> Iterator[Callable]:
  """Shows a progress bar on a terminal, a line every 5 s elsewhere.

  Args:
    title: name of the work.
    total: number of units.
    unit: their name.
    start: units done in an earlier run.

  Yields:
    advance(count=1, note=''), to be called as units are finished.
  """
  token = _title.set(title)
  try:
    with _show(title, total, unit, start) as advance:
      yield advance
  finally:
    _title.reset(token)


@contextlib.contextmanager
def _show(title: str, total: int, unit: str, start: int) -> Iterator[Callable]:
  """Chooses how progress is shown; the arguments are those of `bar`."""
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
    *columns,
    transient=True,
    console=CONSOLE,
    refresh_per_second=4,
  ) as display:
    task = display.add_task(title, total=total, completed=start, note='')
    yield lambda count=1, note='': display.update(
      task, advance=count, note=note
    )
