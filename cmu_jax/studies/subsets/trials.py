"""Trials: a method on an original network and a forget set."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from cmu_jax import audits
from cmu_jax.audits import shadow
from cmu_jax.core import config as config_lib
from cmu_jax.core import rng
from cmu_jax.core.types import Info, Variables
from cmu_jax.studies.engine import bounds, catalogue, pool, references
from cmu_jax.studies.engine.grids import Points
from cmu_jax.studies.engine.pool import World
from cmu_jax.studies.engine.study import Cell, Context
from cmu_jax.studies.subsets import measure, world
from cmu_jax.studies.subsets.measure import References

# Settings that the numbers of a trial depend on, besides network and training.
_FIELDS = (
  'fraction',
  'published_indices',
  'references',
  'reference_group',
  'rmia',
  'evaluate',
)


# Its fields make random keys and addresses: their order is fixed.
class SubsetTrial(NamedTuple):
  """A method on an original network and a forget set."""

  seed: int  # of the original network
  forget_seed: int
  method: str
  run: int


def donor_seed(context: Context[World], trial: SubsetTrial) -> int | None:
  """Returns the seed of the network on which a transferred D_A is made."""
  entry = catalogue.ENTRIES.get(trial.method)
  if entry is None or not entry.transferred:
    return None
  seeds = tuple(context.config.seeds)
  return seeds[(seeds.index(trial.seed) + 1) % len(seeds)]


def trial_address(
  context: Context[World], trial: SubsetTrial, points: Any
) -> str:
  """Computes the address of a trial at these hyperparameters."""
  config: Any = context.config
  entry, donor = catalogue.ENTRIES.get(trial.method), donor_seed(context, trial)
  facts: Info = {}
  # Other trials keep the addresses that they had before donors existed.
  if donor is not None:
    facts['donor'] = pool.network_address(context, f'original {donor}')
  return config_lib.fingerprint(
    {
      **facts,
      'network': pool.network_address(context, f'original {trial.seed}'),
      'cell': trial._asdict(),
      'training': config[entry.part] if entry else None,
      'points': points,
      **{field: config[field] for field in _FIELDS},
    }
  )


def forget_set(
  context: Context[World], forget_seed: int
) -> Int[np.ndarray, 'm']:
  """Draws the forget set of a seed."""
  size = context.world.dataset.train.label.shape[0]
  return world.draw_forget_set(context.config, forget_seed, size)


def reference_job(context: Context[World]) -> shadow.ShadowJob:
  """Prepares the reference networks of RMIA, on halves of the pool."""
  config, shared = context.config, context.world
  key, size = rng.fold_in(0, 'references'), shared.pool.label.shape[0]
  name = config.rmia.signal
  training = bounds.bounded_training(config, shared.bounded, size - size // 2)
  return shadow.make_job(
    key,
    shared.network.model,
    shared.pool,
    shadow.assign_halves(key, config.references, size),
    shadow.ShadowTraining(shared.network.inputs, *training),
    shadow.Plan(
      group=config.reference_group,
      save_seconds=config.checkpoint_seconds,
      folder=context.store.folder,
      address=pool.network_address(context, 'reference'),
      # Side by side, every step would clip all of them.
      strategy='map' if shared.bounded else None,
      images_at_once=config.evaluate.batch_size,
      title='references',
    ),
    signals=((name, audits.SIGNALS[name]),),
  )


def _read_references(context: Context[World]) -> References | None:
  if not context.config.references:
    return None
  shadows = references.read_shadows(context, reference_job(context))
  # The attack takes quotients: float64, as for the audited network.
  probability = shadows.statistics[context.config.rmia.signal]
  return References(probability.astype(np.float64), shadows.inside)


def get_references(context: Context[World]) -> References | None:
  """Returns the references of RMIA; None if the config has none."""
  return context.recent('references', (), lambda: _read_references(context))


def measure_network(
  context: Context[World], variables: Variables, forget: Int[np.ndarray, 'm']
) -> Info:
  """Measures a network after a trial."""
  logits = pool.compute_logits(context, variables)
  values = measure.measure(context, logits, forget, get_references(context))
  norm = bounds.largest_norm(context.world.bounded, variables)
  return values if norm is None else {**values, 'largest_norm': norm}


def solve_trial(
  context: Context[World], trial: SubsetTrial, points: Points
) -> list[Info]:
  """Computes the rows of a trial, one for each point of the grid."""
  train = context.world.dataset.train
  forget = forget_set(context, trial.forget_seed)
  return pool.solve_trial(
    context,
    trial,
    lambda needs: pool.select_inputs(train, forget, needs),
    points,
    lambda network: measure_network(context, network, forget),
    donor_seed(context, trial),
  )


def trial_cell(
  context: Context[World], trial: SubsetTrial, points: Points
) -> Cell:
  """Builds the cell of a trial."""
  address = trial_address(context, trial, points)
  images = count_images(context, trial.method, len(points))
  return pool.trial_cell(
    trial, address, lambda: solve_trial(context, trial, points), images
  )


def count_images(context: Context[World], method: str, points: int) -> float:
  """Counts the images that a trial trains on, see `study.Cell`."""
  size = context.world.dataset.train.label.shape[0]
  count = world.forget_count(context.config, size)
  sizes = catalogue.Sizes(size - count, count)
  return catalogue.count_images(context.config, sizes, method, points)
