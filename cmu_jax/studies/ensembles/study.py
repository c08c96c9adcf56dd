"""The study of ensembles: trainings, attacks between members, rates.

A cell is one method at one seed: its training and all measurements on it. The
measurements of another attack read the same trained networks.
"""

import functools
import math
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import config as config_lib
from cmu_jax.core import rng
from cmu_jax.core.types import Info, Model, Network, Variables
from cmu_jax.robustness import lipschitz
from cmu_jax.studies.engine import recipes, study
from cmu_jax.studies.engine.store import NETWORKS
from cmu_jax.studies.engine.study import Context, Note, Phase, Plan, Study
from cmu_jax.studies.ensembles import report, settings, training, transfer
from cmu_jax.studies.ensembles import world as worlds
from cmu_jax.studies.ensembles.world import World
from cmu_jax.training import metrics

# Raised when the numbers of a cell change.
_VERSION = 1
_NETWORK_FIELDS = (
  'dataset',
  'image_size',
  'train_limit',
  'test_limit',
  'members',
  'model',
  'input',
  'train',
)
# Fields that one method reads, beyond the fields of every training.
_METHOD_FIELDS: dict[str, tuple[str, ...]] = {
  'surrogate': (),
  'plain': (),
  'clipped': ('clip',),
  'lotos': ('clip', 'lotos'),
  'lotos_unclipped': ('clip', 'lotos'),
  'trs': ('trs',),
}
_MEASUREMENT_FIELDS = ('attack', 'threats', 'evaluate')


class Ensemble(NamedTuple):
  """An ensemble: a method of `settings.METHODS` or 'surrogate', and a seed."""

  method: str
  seed: int


class TrainedEnsemble(NamedTuple):
  """Networks and the history of their training, see `training.fit`."""

  variables: Variables
  history: jax.Array


def cell_address(
  config: ConfigDict, data: str, ensemble: Ensemble, measured: bool
) -> str:
  """Computes the address of a training, or of the measurements on it."""
  fields = (*_NETWORK_FIELDS, *_METHOD_FIELDS[ensemble.method])
  if measured:
    fields += _MEASUREMENT_FIELDS
  return config_lib.fingerprint(
    {
      'version': _VERSION,
      'data': data,
      **ensemble._asdict(),
      **{name: config[name] for name in fields},
    }
  )


def _address(
  context: Context[World], ensemble: Ensemble, measured: bool
) -> str:
  return cell_address(context.config, context.world.digest, ensemble, measured)


def train(context: Context[World], ensemble: Ensemble) -> TrainedEnsemble:
  """Trains an ensemble, or reads it."""
  world, (method, seed) = context.world, ensemble
  start = worlds.initial_variables(world, method, seed)
  # Surrogates see the images in another order than the ensembles they attack.
  key = rng.fold_in(seed, 'surrogate' if method == 'surrogate' else 'train')

  def fit(checkpoint: Any) -> TrainedEnsemble:
    fitted = training.fit(
      key,
      world.recipes[method],
      start,
      world.dataset.train,
      world.steps,
      checkpoint,
      f'{method}, seed {seed}',
    )
    return TrainedEnsemble(fitted.variables, fitted.history)

  return context.store.read_or_train(
    _address(context, ensemble, False),
    TrainedEnsemble(start, jnp.zeros((world.steps, 4))),
    fit,
  )


def _surrogate(context: Context[World], seed: int) -> tuple[Model, Variables]:
  """Returns the network that attacks in the black-box setting."""
  trained = train(context, Ensemble('surrogate', seed))
  members = context.world.recipes['surrogate'].members
  return members.one(trained.variables, 0)


def _epoch_means(history: np.ndarray, steps_per_epoch: int) -> Info:
  """Averages the history over epochs; the final epoch may be short."""
  cuts = range(steps_per_epoch, len(history), steps_per_epoch)
  epochs = np.split(history, list(cuts))
  means = np.asarray([epoch.mean(axis=0) for epoch in epochs], float)
  columns = {
    'loss': training.LOSS,
    'cross_entropy': training.CROSS_ENTROPY,
    'penalty': training.PENALTY,
    'train_accuracy': training.ACCURACY,
  }
  return {name: means[:, i].round(6).tolist() for name, i in columns.items()}


def _count_idle_epochs(
  ensemble: Ensemble, history: np.ndarray, steps_per_epoch: int
) -> int:
  """Counts epochs in which the penalty of LOTOS was 0, and warns of them."""
  if ensemble.method != 'lotos':
    return 0
  idle = training.idle_epochs(history, steps_per_epoch)
  if idle:
    print(
      f'warning: {ensemble.method}, seed {ensemble.seed}: the penalty was 0 '
      f'throughout {len(idle)} epochs, first in epoch {idle[0] + 1}: lower '
      'lotos.mal',
      file=sys.stderr,
    )
  return len(idle)


def _measure_threats(
  context: Context[World], ensemble: Ensemble, variables: Variables
) -> list[Info]:
  """Measures a row for each threat model."""
  config, world = context.config, context.world
  members, test = world.recipes[ensemble.method].members, world.dataset.test
  inputs, label = world.network.inputs, np.asarray(test.label)
  size = config.evaluate.batch_size

  def predict(model: Model, variables: Variables) -> np.ndarray:
    return metrics.predict(Network(model, inputs), variables, test, size)

  # Ensembles of a seed are neighbours, and share their surrogate.
  surrogate = context.recent(
    'surrogate', ensemble.seed, lambda: _surrogate(context, ensemble.seed)
  )
  networks = [members.one(variables, i) for i in range(members.size)]
  ensemble_network = (members.model, variables)
  clean = np.stack([predict(*network) for network in networks])
  shared = {
    'test_accuracy': float(np.mean(predict(*ensemble_network) == label)),
    'member_accuracy': float(np.mean(clean == label[None])),
  }
  rows = []
  for name in config.threats:
    rates = transfer.measure_transfer(
      rng.fold_in(ensemble.seed, 'attack', name),
      transfer.Targets(networks, ensemble_network, surrogate),
      test,
      world.attack,
      transfer.make_threat(name, inputs, size),
      predict,
    )
    rows.append({'threat': name, **shared, **transfer.replace_nan(rates)})
  return rows


def _lipschitz_bound(
  context: Context[World], method: str, variables: Variables
) -> float | None:
  """Bounds the Lipschitz constant of the first member, of network input."""
  if not context.config.evaluate.lipschitz:
    return None
  world = context.world
  # A single member, because a bound takes long.
  model, variables = world.recipes[method].members.one(variables, 0)
  image = world.dataset.train.image[:1]
  shape = world.network.inputs.eval(image, None).shape[1:]
  apply = functools.partial(model.apply, variables)
  return lipschitz.bound(rng.fold_in(0), apply, shape).value


def measure(context: Context[World], ensemble: Ensemble) -> Info:
  """Trains an ensemble and measures how attacks transfer between members.

  Returns:
    `rows`, one per threat model, and `curve`, the means over epochs.
  """
  began, world = time.monotonic(), context.world
  trained = train(context, ensemble)
  history = np.asarray(trained.history)
  seconds = time.monotonic() - began
  method = ensemble.method
  shared = {
    **ensemble._asdict(),
    'largest_layer_norm': worlds.largest_layer_norm(
      world, method, trained.variables
    ),
    'member_lipschitz_bound': _lipschitz_bound(
      context, method, trained.variables
    ),
    'idle_epochs': _count_idle_epochs(ensemble, history, world.steps_per_epoch),
    'training_seconds': round(seconds, 2),
  }
  rows = _measure_threats(context, ensemble, trained.variables)
  curve = _epoch_means(history, world.steps_per_epoch)
  return {
    'rows': [{**shared, **row} for row in rows],
    'curve': {**ensemble._asdict(), **curve},
    'device': jax.devices()[0].device_kind,
  }


def _count_images(context: Context[World], ensemble: Ensemble) -> float:
  """Counts the images that all members train on, see `study.Cell`.

  The penalties of LOTOS and TRS, and the attacks, come on top.
  """
  world = context.world
  members = world.recipes[ensemble.method].members.size
  size = world.dataset.train.label.size
  return members * recipes.count_images(context.config.train, size, 'train')


def plan(context: Context[World]) -> Plan:
  """Trains one surrogate per seed, then the ensembles that it attacks."""
  config, dataset = context.config, context.world.dataset
  surrogates = [Ensemble('surrogate', seed) for seed in config.seeds]
  ensembles = [Ensemble(m, s) for s in config.seeds for m in config.methods]
  # Every ensemble is attacked by the surrogate of its seed.
  address = functools.partial(_address, measured=False)
  cells = study.make_cells(
    context, surrogates, address, train, NETWORKS, _count_images
  )
  later = math.fsum(_count_images(context, ensemble) for ensemble in ensembles)
  yield Phase('surrogates', cells, later=later)
  address = functools.partial(_address, measured=True)
  cells = study.make_cells(
    context, ensembles, address, measure, images=_count_images
  )
  results = yield Phase('ensembles', cells, is_covered=True)
  return {
    'class_names': list(dataset.class_names),
    'train_size': int(dataset.train.label.shape[0]),
    'test_size': int(dataset.test.label.shape[0]),
    'rows': [row for _, record in results for row in record['rows']],
    'curves': [record['curve'] for _, record in results],
  }


def note(ensemble: Ensemble, record: Info) -> Note:
  """Shows the transfer rate of the first threat model."""
  rate = record['rows'][0]['t_rate']
  return Note({'method': ensemble.method}, 'T_rate', rate)


STUDY = Study(
  task='ensemble',
  check=settings.check,
  load=worlds.load,
  plan=plan,
  note=note,
  measured='Transfer rate',
  report=report.REPORT,
)
