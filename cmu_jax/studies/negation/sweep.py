"""A run on negation: fine-tunings, merges, the choice of a strength, tests.

A cell is one way to a task vector for one data set: the vector of a seed, or a
merge of the vectors of all seeds. Its file is named by what its numbers depend
on; a fine-tuning keeps its own.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import config as config_lib
from cmu_jax.core import provenance, rng, store
from cmu_jax.core.types import Batch, Info, Variables
from cmu_jax.methods import task_vectors
from cmu_jax.studies.negation import settings, world
from cmu_jax.studies.negation.world import Place, Task
from cmu_jax.training import metrics, train

_VERSION = 2
_MERGES = {
  'uniform': task_vectors.uniform,
  'negmerge': task_vectors.negmerge,
}


class Found(NamedTuple):
  """What a run has so far.

  Attributes:
    rows: one for each data set, method and seed.
    curves: one for each row: the sweep that the strength was chosen from.
    done: whether that is all.
  """

  rows: list[Info]
  curves: list[Info]
  done: bool


class Cell(NamedTuple):
  """A way to a task vector.

  Attributes:
    position: of the data set among those to forget.
    method: one of `settings.METHODS`.
    seed: of the fine-tuning; None for merges.
  """

  position: int
  method: str
  seed: int | None


def todo(config: Any) -> list[Cell]:
  """All cells, set by set; a merge needs two seeds."""
  found = []
  for position in range(len(config.forget)):
    for method in config.methods:
      if method == 'task_vector':
        found += [Cell(position, method, seed) for seed in config.seeds]
      elif len(config.seeds) > 1:
        found.append(Cell(position, method, None))
  return found


def _trained_by(place: Place, position: int, seeds: Sequence[int]) -> Info:
  """What fine-tunings depend on, besides their draws."""
  config: Any = place.config
  task = place.tasks[position]
  train_set: Any = task.data.train
  return {
    'version': _VERSION,
    'start': place.summed,
    'data': provenance.digest(*train_set[:2]),
    'head': provenance.digest(*jax.tree.leaves(task.start.batch_stats)),
    'train': [
      [
        config_lib.to_json(settings.training(config, position, s), 'train'),
        settings.padding(config, s),
      ]
      for s in seeds
    ],
    'clip_norm': config.clip_norm,
    'dtype': config.model.dtype,
  }


def _address(place: Place, cell: Cell) -> str:
  config: Any = place.config
  data = place.tasks[cell.position].data
  images = (*data.validation[:2], *data.test[:2], *place.control.data.test[:2])
  seeds = config.seeds if cell.seed is None else (cell.seed,)
  return config_lib.fingerprint(
    {
      **_trained_by(place, cell.position, seeds),
      'seen': provenance.digest(*images),
      'method': cell.method,
      'seeds': tuple(seeds),
      'lambdas': config.lambdas,
      'floor': config.floor,
    }
  )


def tuned(place: Place, position: int, seed: int) -> Variables:
  """The network fine-tuned on a set, from its file if that is there."""
  config, task = place.config, place.tasks[position]
  batch: Any = task.data.train
  name = config_lib.fingerprint(
    {**_trained_by(place, position, (seed,)), 'seed': seed}
  )
  size = batch.label.shape[0]
  optimizer, options = world.optimiser(config, position, size, seed)
  fitted = train.fit(
    rng.fold_in(seed, 'tune', task.data.name),
    task.model,
    task.start,
    batch,
    optimizer=optimizer,
    inputs=world.augmented(config, seed),
    checkpoint=store.npz_checkpoint(
      place.folder, name, config.checkpoint_seconds
    ),
    title=f'{task.data.name}, seed {seed}',
    **options,
  )
  return fitted.variables


def _vector(place: Place, cell: Cell) -> PyTree:
  """tau of a cell; merges take the vectors one after another."""
  start = place.tasks[cell.position].start.params

  def one(seed: int) -> PyTree:
    after = tuned(place, cell.position, seed).params
    return task_vectors.task_vector(start, after)

  if cell.seed is not None:
    return one(cell.seed)
  seeds = tuple(place.config.seeds)
  return _MERGES[cell.method](lambda i: one(seeds[i]), len(seeds))


def _accuracy(place: Place, task: Task, params: PyTree, batch: Batch) -> float:
  variables = task.start._replace(params=params)
  seen = metrics.predict(
    task.model, place.inputs, variables, batch, place.config.evaluate.batch_size
  )
  return float(np.mean(seen == np.asarray(batch.label)))


def _cell(place: Place, cell: Cell) -> Info:
  """What a cell's file holds."""
  began, config = time.monotonic(), place.config
  task, control = place.tasks[cell.position], place.control
  start, tau = task.start.params, _vector(place, cell)
  build = lambda strength: task_vectors.apply_task_vector(start, tau, -strength)
  see = lambda one, params, part: _accuracy(
    place, one, params, getattr(one.data, part)
  )
  sweep = task_vectors.negation_sweep(
    lambda params: (
      see(task, params, 'validation'),
      see(control, params, 'validation'),
    ),
    build,
    np.linspace(0, 1, config.lambdas),
    config.floor,
  )
  after = build(sweep.strength)
  row = {
    'forget_set': task.data.name,
    'method': cell.method,
    'seed': cell.seed,
    'strength': sweep.strength,
    'feasible': sweep.feasible,
    'tuned_accuracy': see(task, build(-1.0), 'test'),
    'forget_accuracy_before': see(task, start, 'test'),
    'forget_accuracy': see(task, after, 'test'),
    'control_accuracy_before': see(control, start, 'test'),
    'control_accuracy': see(control, after, 'test'),
    'vector_norm': float(task_vectors.norm(tau)),
    'seconds': round(time.monotonic() - began, 2),
  }
  curve = {
    'forget_set': task.data.name,
    'method': cell.method,
    'seed': cell.seed,
    'strength': sweep.lambdas.tolist(),
    'forget_accuracy': sweep.forget.tolist(),
    'control_accuracy': sweep.control.tolist(),
    'threshold': sweep.threshold,
  }
  return {'row': row, 'curve': curve}


def run(place: Place, minutes: float | None) -> Found:
  """Does what is not done yet.

  Args:
    place: see `place.load`.
    minutes: after which no further cell is begun; None for no limit.
  """
  deadline = None if minutes is None else time.monotonic() + 60 * minutes
  cells, found = todo(place.config), []
  for cell in cells:
    name = _address(place, cell)
    record = store.read_record(place.folder, name)
    if record is None and deadline is not None and time.monotonic() > deadline:
      continue
    if record is None:
      record = _cell(place, cell)
      store.write_record(place.folder, name, record)
    found.append(record)
    row = record['row']
    print(
      f'{len(found)}/{len(cells)} {row["forget_set"]}, {row["method"]}: '
      f'{row["forget_accuracy_before"]:.3f} -> {row["forget_accuracy"]:.3f}, '
      f'control {row["control_accuracy_before"]:.3f} -> '
      f'{row["control_accuracy"]:.3f}',
      file=sys.stderr,
    )
  done = len(found) == len(cells)
  if not done:
    print('the time is up: the same command continues', file=sys.stderr)
  return Found([r['row'] for r in found], [r['curve'] for r in found], done)
