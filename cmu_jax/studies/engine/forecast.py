"""The time that a run will take, from its first minute on.

Trainings dominate a run, so its work is counted in training images. A study
states the images of its cells and of its later phases where it knows them. The
first timed steps give the seconds an image; finished cells replace that rate.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cmu_jax.core import progress
from cmu_jax.studies.engine.study import Cell, Phase

# Seconds of timed training before the first forecast.
_TIMED = 10.0
# A run that ends this soon needs no forecast; a long one may be cut.
_SHORT, _LONG = 120.0, 600.0
# Seconds between two forecasts, and the change that makes the second due.
_INTERVAL, _CHANGE = 60.0, 0.25


class Work(NamedTuple):
  """Finished work.

  Attributes:
    seconds: that it took.
    images: that it trained on; 0 if unknown.
    cells: their number.
  """

  seconds: float = 0.0
  images: float = 0.0
  cells: int = 0

  def add(self, other: 'Work') -> 'Work':
    """Adds two pieces of work."""
    return Work(
      self.seconds + other.seconds,
      self.images + other.images,
      self.cells + other.cells,
    )


def cell_kind(phase: Phase, cell: Cell) -> str:
  """Names the cells of a phase that take about the same time."""
  return f'{phase.title} {getattr(cell.item, "method", "")}'


def estimate_cell(
  cell: Cell, alike: Sequence[Work], rate: float | None
) -> float | None:
  """Estimates the seconds of a cell.

  Args:
    cell: the cell.
    alike: finished work of its kind and of its phase, the closest first.
    rate: seconds an image of any training; None before a training was timed.

  Returns:
    Seconds; None if nothing is known of such cells.
  """
  for work in alike:
    if work.cells and cell.images and work.images:
      return cell.images * work.seconds / work.images
    if work.cells:
      return work.seconds / work.cells
  return cell.images * rate if cell.images and rate else None


class Forecast:
  """Predicts the end of a run, and tells the user.

  Args:
    describe: (seconds, whether they cover all that is to be done) -> a line
      for the user; None to tell nothing.
  """

  def __init__(self, describe: Callable[[float, bool], str] | None) -> None:
    self._describe = describe
    self._began = time.monotonic()
    self._steps = Work()
    self._cells: dict[str, Work] = {}
    # Each device of a process has a thread that trains.
    self._lock = threading.RLock()
    # When the user was told, and the end that he was told.
    self._told: tuple[float, float] | None = None

  @contextlib.contextmanager
  def phase(
    self, phase: Phase, absent: Sequence[Cell], workers: int
  ) -> Iterator[None]:
    """Follows a phase of the run.

    Args:
      phase: the phase.
      absent: its cells that are to be computed, by all processes.
      workers: that compute cells side by side.
    """
    self._phase, self._absent, self._workers = phase, absent, workers
    self._finished: dict[str, float] = {}
    self._restored, self._phase_began = 0.0, time.monotonic()
    with progress.listen(self._hear):
      if absent and self._cells:
        self._tell(is_due=True)
      yield

  def finish(self, cell: Cell, seconds: float) -> None:
    """Learns from a finished cell of the phase."""
    with self._lock:
      self._finished[cell.address] = seconds
      work = Work(seconds, cell.images, 1)
      kind = cell_kind(self._phase, cell)
      # The cells of a phase together are a kind, too.
      for name in {kind, self._phase.title}:
        self._cells[name] = self._cells.get(name, Work()).add(work)
      self._tell()

  def _hear(self, images: int, seconds: float | None) -> None:
    """Learns from steps of a training, see `progress.report_images`."""
    with self._lock:
      if seconds is None:
        self._restored += images
      else:
        self._steps = self._steps.add(Work(seconds, float(images)))
      if self._steps.seconds > _TIMED:
        self._tell()

  def _rate(self) -> float | None:
    """Seconds an image of the trainings so far."""
    seconds, images, _ = self._steps
    return seconds / images if images else None

  def estimate_remaining(self) -> tuple[float, bool] | None:
    """Estimates the seconds to the end of the run.

    Returns:
      The seconds, and whether they cover all that is to be done; None if
      nothing is known yet.
    """
    phase, rate = self._phase, self._rate()
    estimates = [self._estimate(cell) for cell in self._absent]
    known = [x for x in estimates if x is not None]
    if not known and not (phase.later and rate):
      return None
    # Fewer cells than workers end no sooner than the longest of them.
    seconds = max([sum(known) / self._workers, *known])
    seconds -= time.monotonic() - self._phase_began
    seconds -= self._restored * (rate or 0.0) / self._workers
    seconds = max(seconds, 0.0)
    if phase.later:
      seconds += phase.later * (rate or 0.0) / self._workers
    complete = len(known) == len(estimates) and phase.is_covered
    return seconds, complete and (not phase.later or rate is not None)

  def _estimate(self, cell: Cell) -> float | None:
    """The seconds of a cell, which may be over."""
    if cell.address in self._finished:
      return self._finished[cell.address]
    names = cell_kind(self._phase, cell), self._phase.title
    alike = [self._cells.get(name, Work()) for name in names]
    return estimate_cell(cell, alike, self._rate())

  def _tell(self, is_due: bool = False) -> None:
    """Prints a forecast where it is the first, or another one than before."""
    estimate, now = self.estimate_remaining(), time.monotonic()
    if estimate is None or self._describe is None:
      return
    seconds, complete = estimate
    if now - self._began + seconds < _SHORT or seconds < _INTERVAL:
      return
    if self._told is not None and not is_due:
      moment, end = self._told
      change = abs(now + seconds - end) / max(end - now, 1.0)
      if now - moment < _INTERVAL or change < _CHANGE:
        return
    self._told = now, now + seconds
    progress.say(self._describe(seconds, complete))


def describe_run(minutes: float | None, seconds: float, complete: bool) -> str:
  """Describes the time to the end of a run, and how to stop it sooner.

  Args:
    minutes: after which this call stops; None for no limit.
    seconds: to the end.
    complete: whether they cover all that is to be done.
  """
  text = (
    f'whole run: {"about" if complete else "at least"} '
    f'{progress.format_duration(seconds)} left on this machine'
  )
  if minutes is None and seconds < _LONG:
    return text
  stop = minutes or (60 if seconds > 7200 else 10)
  call = f'--minutes={stop}' if minutes is None else 'this call'
  return (
    f'{text}; {call} stops after {stop:g} min, and the same command continues'
  )


@contextlib.contextmanager
def follow_trainings(images: float) -> Iterator[None]:
  """Tells the user how long the trainings inside the block may take.

  Args:
    images: that they train on at most, because they may end early.
  """

  def describe(seconds: float, complete: bool) -> str:
    del complete
    return (
      f'all trainings: at most {progress.format_duration(seconds)} left on '
      'this machine; stopped, the same command continues'
    )

  cells = [Cell(None, '', lambda: None, images=images)]
  with Forecast(describe).phase(Phase('trainings', cells), cells, 1):
    yield
