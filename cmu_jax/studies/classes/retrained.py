"""Networks retrained without a class, with which methods are compared.

A file for each network has its logits on the pool; its weights are not kept.
The gap of a method to retraining, in points, is

  gap = (|dACC_r| + |dACC_f| + 100 TV) / 3

on unseen images, where d is the difference to the mean of the retrained
networks. MIA-NN and U-LiRA are no part of it, because an audit must not be the
criterion of the choice. MIS is none either, because it extrapolates on a
forgotten class.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Info
from cmu_jax.studies.classes import measure, trials
from cmu_jax.studies.classes import world as worlds
from cmu_jax.studies.classes.measure import Reference
from cmu_jax.studies.classes.trials import RETRAIN, ClassTrial
from cmu_jax.studies.engine import gaps, grids, pool
from cmu_jax.studies.engine.gaps import Gap, Row
from cmu_jax.studies.engine.pool import World
from cmu_jax.studies.engine.study import Cell, Context

_KIND = 'retrained'
_GAP_COLUMNS = ('retain_accuracy', 'forget_accuracy', 'tv')


class Outputs(NamedTuple):
  """The networks retrained without a class."""

  logits: Float[np.ndarray, 'r n k']  # of each network on the pool
  seconds: Float[np.ndarray, 'r']
  evaluations: Float[np.ndarray, 'r']  # gradients of single images, likewise


def _retrain(
  context: Context[World], trial: ClassTrial
) -> dict[str, np.ndarray]:
  """Trains a network without a class, for its logits."""
  method = context.world.methods[RETRAIN]
  data = worlds.select_class(context.world, trial.forget_class, method.needs)
  # Retraining starts from new weights: it takes only the shapes of these.
  start = pool.get_original(context, context.config.seeds[0])
  # The grid of retraining is a single empty point.
  (row,) = grids.solve_grid(
    rng.fold_in(0, *map(str, trial)),
    method,
    start,
    data,
    ({},),
    lambda network: {'logits': pool.compute_logits(context, network)},
  )
  # Without it there is nothing to compare with: the run cannot go on.
  errors.check(
    not row['diverged'],
    f'retraining without class {trial.forget_class}: {row.get("why")}',
  )
  cost = np.array([row['seconds'], row['gradient_evaluations']], np.float64)
  return {'logits': row['logits'], 'cost': cost}


def list_cells(context: Context[World], forget_class: int) -> list[Cell]:
  """Lists the cells of the networks without a class."""
  cells = []
  for number in range(trials.count_retrained(context, forget_class)):
    trial = ClassTrial(number, forget_class, RETRAIN)
    address = trials.retrained_address(context, trial)
    retrain = functools.partial(_retrain, context, trial)
    read = context.store.read_or_compute_named
    compute = functools.partial(read, _KIND, address, retrain)
    images = trials.count_images(context, RETRAIN, 1)
    cells.append(Cell(trial, address, compute, _KIND, images))
  return cells


def is_trained(context: Context[World], forget_class: int) -> bool:
  """Returns whether all networks without a class have their files."""
  return all(
    context.store.has_arrays(cell.kind, cell.address)
    for cell in list_cells(context, forget_class)
  )


def read_outputs(context: Context[World], forget_class: int) -> Outputs:
  """Reads the networks without a class, or trains them."""
  # All files of a class: a part of them would move every number.
  files = [cell.compute() for cell in list_cells(context, forget_class)]
  cost = np.array([file['cost'] for file in files])
  logits = np.stack([file['logits'] for file in files])
  return Outputs(logits, cost[:, 0], cost[:, 1])


def get_reference(
  context: Context[World], forget_class: int, validation: bool
) -> Reference:
  """Returns the measured networks without a class, from memory if recent.

  The unseen images are V for choices (`validation`), else T.
  """

  def compute() -> Reference:
    logits = read_outputs(context, forget_class).logits
    return measure.measure_reference(context, logits, forget_class, validation)

  config = context.config
  # References are small: masks of the pool and mean answers.
  size = len(config.forget_classes) + len(config.tuning_classes)
  return context.recent('reference', (forget_class, validation), compute, size)


def list_rows(
  context: Context[World], outputs: Outputs, reference: Reference
) -> Iterator[tuple[ClassTrial, Info]]:
  """Measures each retrained network, compared with the other ones."""
  for number, logits in enumerate(outputs.logits):
    row = {
      'hyper': {},
      'diverged': False,
      'gradient_evaluations': int(outputs.evaluations[number]),
      'seconds': float(outputs.seconds[number]),
      **measure.measure(context, logits, reference, number),
      'forget_class': reference.forget_class,
    }
    yield ClassTrial(number, reference.forget_class, RETRAIN), row


def compute_gap(rows: Sequence[Row], retrained: Sequence[Row]) -> Gap | None:
  """Computes the gap of runs on a class to networks retrained without it.

  The TV of a row is a distance to retraining already.
  """
  # The ideal distance is zero, although retrained networks differ too.
  ideal = [{**row, 'tv': 0.0} for row in retrained]
  return gaps.compare_columns(rows, ideal, _GAP_COLUMNS)


def _gap_on_class(row: Row, retrained: Sequence[Row]) -> Gap | None:
  if row['diverged']:
    return None
  same = row['forget_class']
  return compute_gap([row], [r for r in retrained if r['forget_class'] == same])


def choose_point(
  points: Sequence[Sequence[Row]], retrained: Sequence[Row]
) -> int:
  """Chooses the point of a grid with the least mean gap over tuning classes.

  Args:
    points: for each point of the grid, its rows, one a class.
    retrained: of all tuning classes; each row is compared with its own class.

  Returns:
    Its position. A point that diverged on a class is chosen only if all did.
  """
  means = []
  for rows in points:
    distances = [_gap_on_class(row, retrained) for row in rows]
    sizes = [gap.of_runs for gap in distances if gap is not None]
    # A gap over fewer classes would not be comparable.
    complete = len(sizes) == len(rows)
    means.append(float(np.mean(sizes)) if complete else np.inf)
  # The last point has the smallest learning rate.
  return int(np.argmin(means)) if np.isfinite(means).any() else len(points) - 1
