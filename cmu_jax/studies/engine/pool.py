"""Worlds whose methods forget a part of the training set.

The pool has the training images first, then the test images and all others
that no network is trained on. A network is measured by its logits on the pool.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from cmu_jax import audits
from cmu_jax.core import config as config_lib
from cmu_jax.core import jit, rng
from cmu_jax.core.types import (
  Batch,
  Dataset,
  Info,
  Method,
  MethodInputs,
  Network,
  Variables,
)
from cmu_jax.studies.engine import bounds, catalogue, grids, recipes, study
from cmu_jax.studies.engine.store import NETWORKS
from cmu_jax.studies.engine.study import Cell, Context, Phase
from cmu_jax.training import descent, metrics, train

# Raised when the numbers of a network change.
_VERSION = 2
_NETWORK_FIELDS = (
  'dataset',
  'image_size',
  'train_limit',
  'test_limit',
  'model',
  'input',
  'train',
)
# Neighbouring cells share an original, and some need that of a second seed.
_ORIGINALS = 2


class World(NamedTuple):
  """Data, network and methods that all cells share."""

  dataset: Dataset
  pool: Batch  # training images, then test images and other images
  network: Network
  # By name; the same objects for all cells, which therefore share their
  # compiled programs.
  methods: dict[str, Method]
  digest: str
  # The layers whose norms trainings bound; empty for no bound.
  bounded: bounds.Layers = ()


class Groups(NamedTuple):
  """Positions in the pool of forget set, retain set and unseen images."""

  forget: Bool[np.ndarray, 'n']
  retain: Bool[np.ndarray, 'n']
  unseen: Bool[np.ndarray, 'n']


def join_batches(*batches: Batch) -> Batch:
  """Concatenates images and labels."""
  return Batch(
    jnp.concatenate([batch.image for batch in batches]),
    jnp.concatenate([batch.label for batch in batches]),
  )


def select_inputs(
  train_set: Batch,
  forget: Int[np.ndarray, 'm'],
  needs: tuple[str, ...],
  capacity: catalogue.Sizes | None = None,
) -> MethodInputs:
  """Selects the inputs that a method declares.

  Args:
    train_set: the training images.
    forget: positions of the forget set.
    needs: 'retain', 'forget', or both.
    capacity: rows of both sets, padding included, so that sets of several sizes
      share a compilation; None for no padding.
  """
  retain = np.setdiff1d(np.arange(train_set.label.shape[0]), forget)
  # Padding repeats rows, which `valid` marks.
  rows = capacity or catalogue.Sizes(retain.size, forget.size)
  parts: dict[str, Any] = {}
  if 'retain' in needs:
    parts['retain'] = descent.gather_samples(
      train_set, retain, rows.retain, False
    )
  if 'forget' in needs:
    parts['forget'] = descent.gather_samples(
      train_set, forget, rows.forget, True
    )
  return MethodInputs(**parts)


def network_address(context: Context[World], name: str) -> str:
  """Computes the address of a network."""
  config, world = context.config, context.world
  # Without a bound, the settings of clipping change no number.
  fields = (*_NETWORK_FIELDS, 'clip') if world.bounded else _NETWORK_FIELDS
  return config_lib.fingerprint(
    {
      'version': _VERSION,
      'data': world.digest,
      'name': name,
      **{field: config[field] for field in fields},
    }
  )


def train_original(context: Context[World], seed: int) -> Variables:
  """Trains a network on the whole training set, or reads it."""
  world, key = context.world, rng.fold_in(seed, 'original')
  network, batch = world.network, world.dataset.train
  image = network.inputs.eval(world.pool.image[:1], None)
  initialize = jit.compile_cheaply(network.model.init)
  start = initialize(rng.fold_in(key, 'init'), image)
  size = batch.label.shape[0]
  training = bounds.bounded_training(context.config, world.bounded, size)
  return context.store.read_or_train(
    network_address(context, f'original {seed}'),
    start,
    lambda checkpoint: (
      train.fit(
        rng.fold_in(key, 'train'),
        network,
        start,
        batch,
        training,
        train.Session(f'original, seed {seed}', checkpoint),
      ).variables
    ),
  )


def get_original(context: Context[World], seed: int) -> Variables:
  """Returns the original network of a seed, from memory if it is recent."""
  return context.recent(
    'original', seed, lambda: train_original(context, seed), _ORIGINALS
  )


def count_training(context: Context[World]) -> float:
  """Counts the images that the training of an original passes through."""
  size = context.world.dataset.train.label.shape[0]
  return recipes.count_images(context.config.train, size, 'train')


def originals_phase(context: Context[World], later: float) -> Phase:
  """Builds the phase that trains the original networks of all seeds.

  `later` are the images of the phases after it, see `study.Phase`.
  """
  cells = study.make_cells(
    context,
    context.config.seeds,
    lambda context, seed: network_address(context, f'original {seed}'),
    train_original,
    NETWORKS,
    lambda context, seed: count_training(context),
  )
  return Phase('originals', cells, later=later)


def compute_logits(
  context: Context[World], variables: Variables
) -> Float[np.ndarray, 'n k']:
  """Computes the logits of a network on the pool."""
  size, world = context.config.evaluate.batch_size, context.world
  return metrics.logits(world.network, variables, world.pool, size)


@functools.cache
def _signal_program(name: str) -> Callable:
  # One object per signal: a second wrapper would compile again.
  return jit.compile_cheaply(audits.SIGNALS[name])


def compute_signal(
  world: World, name: str, logits: Float[np.ndarray, 'n k']
) -> Float[np.ndarray, 'n']:
  """Computes a signal of `audits.SIGNALS` at every point of the pool."""
  values = _signal_program(name)(jnp.asarray(logits), world.pool.label)
  return np.asarray(values, np.float64)


def attack_confidence(
  context: Context[World], probability: Float[np.ndarray, 'n'], groups: Groups
) -> float:
  """Computes MIS: the share of the forget set that an attack takes for unseen.

  The attack is fitted on retained and unseen points.
  """
  forget, retain, unseen = (probability[group] for group in groups)
  limit = context.config.evaluate.mis_points or None
  # One key for all rows: the attack is fitted on the same points.
  key = rng.fold_in(0, 'mis')
  return audits.confidence_attack(key, retain, unseen, forget, limit)


def describe_information(world: World, name: str) -> str:
  """Describes the inputs of a method in words."""
  # 'none' is no method.
  if name not in world.methods:
    return 'nothing: the model as shipped'
  return catalogue.describe_inputs(name, world.methods[name])


def solve_trial(
  context: Context[World],
  trial: Any,
  select: Callable[[tuple[str, ...]], MethodInputs],
  points: grids.Points,
  measure: Callable[[Variables], Info],
  donor: int | None = None,
) -> list[Info]:
  """Computes the rows of a trial, one for each point of the grid.

  Args:
    context: of the run.
    trial: its `seed` and `method`; all of it makes the random key.
    select: inputs that a method declares -> the inputs.
    points: of the grid.
    measure: network -> its numbers.
    donor: seed of another original on which the method is prepared.
  """
  variables = get_original(context, trial.seed)
  # Doing nothing is measured like every method, at no cost.
  if trial.method == grids.NONE:
    return [grids.idle_row(variables, measure)]
  # Methods are objects of the world, so that trials share their programs.
  method = context.world.methods[trial.method]
  data = select(method.needs)
  source = None if donor is None else get_original(context, donor)
  key = rng.fold_in(0, *map(str, trial))
  return grids.solve_grid(key, method, variables, data, points, measure, source)


def trial_cell(
  trial: Any,
  address: str,
  solve: Callable[[], list[Info]],
  images: float = 0.0,
) -> Cell:
  """Builds the cell of a trial, whose record has the rows of its method.

  `images` are those that it trains on, see `study.Cell`.
  """
  record = lambda: {'cell': trial._asdict(), 'rows': solve()}
  return Cell(trial, address, record, images=images)


def describe_methods(
  hypers: Mapping[str, Info], entries: Mapping[str, catalogue.Entry]
) -> Info:
  """Describes methods, and lists their hyperparameters."""
  return {
    name: {'says': catalogue.describe(name, entries), 'hyper': hyper}
    for name, hyper in hypers.items()
  }


def format_rows(world: World, rows: Iterable[tuple[Any, Info]]) -> list[Info]:
  """Puts method, inputs and trial in front of each row."""
  formatted = []
  for trial, row in rows:
    # A request has the inputs of its method.
    method = trial.method.removesuffix('_adaptive')
    names = {
      'method': trial.method,
      'information': describe_information(world, method),
    }
    # What a row has already stays where it is in the row.
    names |= {k: v for k, v in trial._asdict().items() if k not in row}
    formatted.append({**names, **row})
  return formatted
