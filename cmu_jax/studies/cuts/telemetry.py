"""Scalars of a run as JSON lines and, identically, as TensorBoard events."""

import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cmu_jax.core import files

MOST_POINTS = 1000
# No clock and no host name in the file: the same series, the same bytes.
_EVENTS = 'events.out.tfevents.0000000000.cmu_jax'

Series = Sequence[tuple[str, Any, Any]]
Point = tuple[str, int, float]


def thin(
  steps: Int[np.ndarray, 'n'], values: Float[np.ndarray, 'n']
) -> tuple[Int[np.ndarray, 'm'], Float[np.ndarray, 'm']]:
  """At most MOST_POINTS evenly spaced points, always with first and last."""
  n = len(steps)
  if n <= MOST_POINTS:
    return steps, values
  index = np.linspace(0, n - 1, MOST_POINTS).round().astype(int)
  return steps[index], values[index]


def _points(series: Series) -> Iterator[Point]:
  """Every scalar that is written, in single precision as TensorBoard has it."""
  for tag, steps, values in series:
    # Overflow to infinity is what single precision says of such a number.
    with np.errstate(over='ignore'):
      single = np.asarray(values).astype(np.float32).astype(float)
    thin_steps, thin_values = thin(np.asarray(steps), single)
    for step, value in zip(
      thin_steps.tolist(), thin_values.tolist(), strict=True
    ):
      yield tag, step, value


def _line(point: Point) -> str:
  tag, step, value = point
  # The shortest decimal that is this single-precision number.
  number = float(str(np.float32(value))) if np.isfinite(value) else None
  return json.dumps({'step': step, 'tag': tag, 'value': number}) + '\n'


def _tensorboard() -> list[ModuleType]:
  """Imports the parts of tensorboardX in use, without PyTorch."""
  # tensorboardX would load PyTorch, seconds and hundreds of megabytes, only to
  # know a type that is not used here. With None in sys.modules, Python takes a
  # module as absent.
  hidden = 'torch' not in sys.modules
  if hidden:
    sys.modules['torch'] = None  # type: ignore[assignment]
  try:
    from tensorboardX import record_writer
    from tensorboardX.proto import event_pb2, summary_pb2

    return [record_writer, event_pb2, summary_pb2]
  finally:
    if hidden:
      del sys.modules['torch']


def _write_events(path: pathlib.Path, points: list[Point]) -> None:
  record_writer, event_pb2, summary_pb2 = _tensorboard()
  writer = record_writer.RecordWriter(str(path))
  try:
    # Readers of event files expect the version at the start.
    header = event_pb2.Event(wall_time=0, file_version='brain.Event:2')
    writer.write(header.SerializeToString())
    for tag, step, value in points:
      scalar = summary_pb2.Summary.Value(tag=tag, simple_value=value)
      summary = summary_pb2.Summary(value=[scalar])
      event = event_pb2.Event(wall_time=0, step=step, summary=summary)
      writer.write(event.SerializeToString())
  finally:
    writer.close()


def write(workdir: os.PathLike | str, series: Series) -> None:
  """Writes metrics.jsonl and tensorboard/ anew, holding the same scalars.

  Both are regenerated whole, so calling this again never repeats a line. A
  series with more than MOST_POINTS points is thinned evenly, keeping the last.
  Values are in single precision; one that is not finite is null in the JSON
  lines and itself in the events.

  Args:
    workdir: the work folder of the run.
    series: (tag, steps [n] int, values [n] float), such as
      ('train_corrupted/seed_0/loss', steps, values).

  Raises:
    UserError: the folder cannot be written.
  """
  workdir = pathlib.Path(workdir)
  points = list(_points(series))
  lines = ''.join(_line(point) for point in points)
  files.write_text(workdir / 'metrics.jsonl', lines)
  # A concurrent reader must not see half a file.
  with files.atomic_path(workdir / 'tensorboard' / _EVENTS) as temporary:
    _write_events(temporary, points)
