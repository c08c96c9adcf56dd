"""The study of negation: fine-tuned networks, task vectors, their strengths.

A cell measures one way to a task vector for one data set: the vector of a seed,
or a merge of the vectors of all seeds.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import config as config_lib
from cmu_jax.core import provenance, rng
from cmu_jax.core.types import Batch, Info, Network, Variables
from cmu_jax.methods import task_vectors
from cmu_jax.studies.engine import clip_start, recipes, study
from cmu_jax.studies.engine.store import NETWORKS
from cmu_jax.studies.engine.study import Context, Note, Phase, Plan, Study
from cmu_jax.studies.negation import report, settings
from cmu_jax.studies.negation import world as worlds
from cmu_jax.studies.negation.world import Task, World
from cmu_jax.training import metrics, train

# Raised when the numbers of a cell change.
_VERSION = 2
_MERGES = {'uniform': task_vectors.uniform, 'negmerge': task_vectors.negmerge}


class Vector(NamedTuple):
  """A way to a task vector."""

  position: int  # of the data set among those to forget
  method: str
  seed: int | None  # of the fine-tuning; None for a merge


class Tuning(NamedTuple):
  """A fine-tuning: the position of its data set, and its seed."""

  position: int
  seed: int


def list_vectors(config: Any, position: int) -> list[Vector]:
  """Lists the vectors of one data set; a merge needs two seeds."""
  vectors = []
  for method in config.methods:
    if method == 'task_vector':
      vectors += [Vector(position, method, seed) for seed in config.seeds]
    elif len(config.seeds) > 1:
      vectors.append(Vector(position, method, None))
  return vectors


def _tuning_facts(
  context: Context[World], position: int, seeds: Sequence[int]
) -> Info:
  """Collects the facts that fine-tunings depend on, except random keys."""
  config: Any = context.config
  task = context.world.tasks[position]
  train_set: Any = task.data.train
  return {
    'version': _VERSION,
    'start': context.world.digest,
    # Only what the training sees: other sets may change.
    'data': provenance.digest(*train_set[:2]),
    'head': provenance.digest(*jax.tree.leaves(task.start.batch_stats)),
    'train': [
      [
        config_lib.to_json(
          settings.tuning_recipe(config, position, s), 'train'
        ),
        settings.crop_padding(config, s),
      ]
      for s in seeds
    ],
    'clip_norm': config.clip_norm,
    'dtype': config.model.dtype,
  }


def tuning_address(context: Context[World], tuning: Tuning) -> str:
  """Computes the address of a fine-tuned network."""
  facts = _tuning_facts(context, tuning.position, (tuning.seed,))
  return config_lib.fingerprint({**facts, 'seed': tuning.seed})


def vector_address(context: Context[World], vector: Vector) -> str:
  """Computes the address of a cell."""
  config: Any = context.config
  data = context.world.tasks[vector.position].data
  control = context.world.control.data
  images = (*data.validation[:2], *data.test[:2], *control.test[:2])
  seeds = config.seeds if vector.seed is None else (vector.seed,)
  return config_lib.fingerprint(
    {
      **_tuning_facts(context, vector.position, seeds),
      'seen': provenance.digest(*images),
      'method': vector.method,
      'seeds': tuple(seeds),
      'lambdas': config.lambdas,
      'floor': config.floor,
    }
  )


def fine_tune(context: Context[World], tuning: Tuning) -> Variables:
  """Fine-tunes the network on a data set, or reads it."""
  config, world = context.config, context.world
  task = world.tasks[tuning.position]
  batch: Any = task.data.train
  size = batch.label.shape[0]
  training = worlds.make_training(config, *tuning, size)
  return context.store.read_or_train(
    tuning_address(context, tuning),
    task.start,
    lambda checkpoint: (
      train.fit(
        rng.fold_in(tuning.seed, 'tune', task.data.name),
        Network(
          task.model,
          clip_start.make_inputs(settings.crop_padding(config, tuning.seed)),
        ),
        task.start,
        batch,
        training,
        train.Session(f'{task.data.name}, seed {tuning.seed}', checkpoint),
      ).variables
    ),
  )


def _task_vector(context: Context[World], vector: Vector) -> PyTree:
  """Computes tau; a merge takes the vectors one after another."""
  start = context.world.tasks[vector.position].start.params

  def subtract(seed: int) -> PyTree:
    tuned = fine_tune(context, Tuning(vector.position, seed))
    return task_vectors.task_vector(start, tuned.params)

  if vector.seed is not None:
    return subtract(vector.seed)
  # Merges read vectors when they need them: all at once would fill the memory.
  seeds = tuple(context.config.seeds)
  merge = _MERGES[vector.method]
  return merge(lambda i: subtract(seeds[i]), len(seeds))


def _accuracy(
  context: Context[World], task: Task, params: PyTree, batch: Batch
) -> float:
  variables = task.start._replace(params=params)
  size = context.config.evaluate.batch_size
  inputs = context.world.inputs
  predicted = metrics.predict(
    Network(task.model, inputs), variables, batch, size
  )
  return float(np.mean(predicted == np.asarray(batch.label)))


def measure(context: Context[World], vector: Vector) -> Info:
  """Chooses the strength on validation images, and tests it.

  Returns:
    `row`, the test accuracies, and `curve`, the search for the strength.
  """
  began, config = time.monotonic(), context.config
  task, control = context.world.tasks[vector.position], context.world.control
  start, tau = task.start.params, _task_vector(context, vector)

  def edit(strength: float) -> PyTree:
    return task_vectors.edit(start, tau, strength)

  def accuracy(subject: Task, params: PyTree, part: str) -> float:
    return _accuracy(context, subject, params, getattr(subject.data, part))

  sweep = task_vectors.negation_sweep(
    lambda params: (
      accuracy(task, params, 'validation'),
      accuracy(control, params, 'validation'),
    ),
    edit,
    np.linspace(0, 1, config.lambdas),
    config.floor,
  )
  # Chosen on validation images; tests alone are reported.
  edited = edit(sweep.strength)
  names = {
    'forget_set': task.data.name,
    'method': vector.method,
    'seed': vector.seed,
  }
  row = {
    **names,
    'strength': sweep.strength,
    'feasible': sweep.feasible,
    # theta + tau is the fine-tuned network.
    'tuned_accuracy': accuracy(task, edit(-1.0), 'test'),
    'forget_accuracy_before': accuracy(task, start, 'test'),
    'forget_accuracy': accuracy(task, edited, 'test'),
    'control_accuracy_before': accuracy(control, start, 'test'),
    'control_accuracy': accuracy(control, edited, 'test'),
    'vector_norm': float(task_vectors.norm(tau)),
    'seconds': round(time.monotonic() - began, 2),
  }
  curve = {
    **names,
    'strength': sweep.lambdas.tolist(),
    'forget_accuracy': sweep.forget.tolist(),
    'control_accuracy': sweep.control.tolist(),
    'threshold': sweep.threshold,
  }
  return {'row': row, 'curve': curve}


def _count_tuning(context: Context[World], tuning: Tuning) -> float:
  """Counts the images that a fine-tuning trains on, see `study.Cell`."""
  batch: Any = context.world.tasks[tuning.position].data.train
  size = batch.label.shape[0]
  return recipes.count_images(
    settings.tuning_recipe(context.config, *tuning), size, 'train'
  )


def plan(context: Context[World]) -> Plan:
  """Goes from set to set, so that a run that is stopped has whole sets."""
  config, world = context.config, context.world
  records: list[Info] = []
  for position in range(len(config.forget)):
    tunings = [Tuning(position, seed) for seed in config.seeds]
    cells = study.make_cells(
      *(context, tunings, tuning_address, fine_tune, NETWORKS, _count_tuning)
    )
    next_sets = range(position + 1, len(config.forget))
    later = math.fsum(
      _count_tuning(context, Tuning(index, seed))
      for index in next_sets
      for seed in config.seeds
    )
    yield Phase('fine-tuning', cells, later=later)
    # Every vector, merges above all, needs the networks of its set.
    vectors = list_vectors(config, position)
    results = yield Phase(
      'vectors',
      study.make_cells(context, vectors, vector_address, measure),
      later=later,
      is_covered=not next_sets,
    )
    records += [record for _, record in results]
  return {
    'control': world.control.data.name,
    'sizes': {
      task.data.name: [
        0 if batch is None else int(batch.label.shape[0])
        for batch in (task.data.train, task.data.validation, task.data.test)
      ]
      for task in (world.control, *world.tasks)
    },
    'rows': [record['row'] for record in records],
    'curves': [record['curve'] for record in records],
  }


def note(vector: Vector, record: Info) -> Note:
  """Shows the accuracy on the forget set."""
  del vector
  row = record['row']
  names = {'forget set': row['forget_set'], 'method': row['method']}
  return Note(names, 'forget accuracy', row['forget_accuracy'])


STUDY = Study(
  task='negation',
  check=settings.check,
  load=worlds.load,
  plan=plan,
  note=note,
  measured='Accuracy after negation',
  report=report.REPORT,
)
