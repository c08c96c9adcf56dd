"""Networks that were retrained without a class: what all else is set beside.

Only their answers on the pool are kept, one file a network.
"""

import pathlib
import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cmu_jax import audits
from cmu_jax.core import errors, files, rng
from cmu_jax.core.types import Info
from cmu_jax.studies.classes import addresses, world
from cmu_jax.studies.classes import measure as measure_lib
from cmu_jax.studies.classes.addresses import Cell
from cmu_jax.studies.classes.measure import Reference
from cmu_jax.studies.subsets import measure, sweep
from cmu_jax.studies.subsets.sweep import Run
from cmu_jax.studies.subsets.world import Place


class Outputs(NamedTuple):
  """What networks retrained without a class answer on the pool.

  Attributes:
    logits: of each network.
    seconds: that each took.
    evaluations: gradients of single images, likewise.
  """

  logits: Float[np.ndarray, 'r n k']
  seconds: Float[np.ndarray, 'r']
  evaluations: Float[np.ndarray, 'r']


def count(place: Place, forgotten: int) -> int:
  """How many networks are retrained without a class."""
  if forgotten in place.config.forget_classes:
    return place.config.retrained
  return audits.MIN_RETRAINED


def late(run: Run) -> bool:
  """Whether the time is up."""
  return run.deadline is not None and time.monotonic() > run.deadline


def _retrain(run: Run, cell: Cell, path: pathlib.Path) -> None:
  """One network without a class; its answers are all that is kept."""
  place, method = run.place, run.place.methods['retrain']
  given = world.give(place, cell.forget_class, method.needs)
  key = rng.fold_in(0, *map(str, cell))
  # Retraining starts anew: of the original only the shapes are used.
  start = run.original(place.config.seeds[0])
  seen = lambda found: {'logits': measure.look(place, found)}
  row = sweep.solved(key, method, start, given, ({},), seen)[0]
  errors.check(
    not row['diverged'],
    f'retraining without class {cell.forget_class}: {row.get("why")}',
  )
  logits = row['logits']
  cost = np.array([row['seconds'], row['gradient_evaluations']], np.float64)
  files.write(path, lambda file: np.savez(file, logits=logits, cost=cost))


def outputs(run: Run, forgotten: int) -> Outputs | None:
  """Answers of the networks retrained without a class; None if time is up."""
  found = []
  for i in range(count(run.place, forgotten)):
    cell = Cell(i, forgotten, 'retrain')
    name = addresses.retrained(run.place, cell)
    path = run.place.folder / 'retrained' / f'{name[:24]}.npz'
    if not path.exists():
      if late(run):
        return None
      _retrain(run, cell, path)
    with np.load(path, allow_pickle=False) as stored:
      found.append((stored['logits'], *stored['cost']))
  logits, seconds, evaluations = zip(*found, strict=True)
  return Outputs(np.stack(logits), np.array(seconds), np.array(evaluations))


def tagged(cell: Cell, rows: list[Info]) -> list[tuple[Cell, Info]]:
  """Rows with their cell, each saying its class."""
  return [(cell, {**row, 'forget_class': cell.forget_class}) for row in rows]


def rows(
  place: Place, forgotten: int, found: Outputs, known: Reference
) -> list[tuple[Cell, Info]]:
  """Each retrained network beside the others.

  Args:
    place: of the run.
    forgotten: the class.
    found: their answers.
    known: what they make of the class.
  """
  made: list[tuple[Cell, Info]] = []
  for i, logits in enumerate(found.logits):
    row = {
      'hyper': {},
      'diverged': False,
      'gradient_evaluations': int(found.evaluations[i]),
      'seconds': float(found.seconds[i]),
      **measure_lib.values(place, logits, known, i),
    }
    made += tagged(Cell(i, forgotten, 'retrain'), [row])
  return made
