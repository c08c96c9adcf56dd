"""Trains the networks of an audit, and makes them forget.

Networks are shadow models: K trainings in groups, a file a group.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cmu_jax import audits
from cmu_jax.audits import shadow
from cmu_jax.core import config as config_lib
from cmu_jax.core import rng
from cmu_jax.core.types import MethodInputs, PRNGKey, Variables
from cmu_jax.studies.engine import catalogue, recipes, references
from cmu_jax.studies.engine.study import Context
from cmu_jax.studies.membership.attacks import Statistics
from cmu_jax.studies.membership.world import Marks, Models, World, forget_count
from cmu_jax.training import descent

_TRAINING_FIELDS = ('model', 'input', 'train')
_UNLEARNING_FIELDS = ('unlearn', 'learning_rates')


def is_correct(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Bool[Array, 'n']:
  """Marks the points that a network classifies correctly."""
  return jnp.argmax(logits, axis=-1) == label


def _training_address(context: Context[World], method: str) -> str:
  fields: tuple[str, ...] = _TRAINING_FIELDS
  if method:
    fields += _UNLEARNING_FIELDS
  settings = {name: context.config[name] for name in fields}
  return config_lib.fingerprint({'version': 1, 'method': method, **settings})


def make_job(
  context: Context[World], models: Models, method: str
) -> shadow.ShadowJob:
  """Prepares the networks as they are once a method is done with them."""
  return context.recent(
    'job',
    (models.name, method),
    lambda: _make_job(context, models, method),
    # A job has no networks; another digest of the pool takes a second.
    size=64,
  )


def _make_job(
  context: Context[World], models: Models, method: str
) -> shadow.ShadowJob:
  if method == 'none':
    # Methods start from these networks.
    weights = bool(context.config.methods)
    return _job(context, models.name, models.inside, weights=weights)
  if method == 'retrain':
    inside = models.inside & ~models.forget
    return _job(context, f'{models.name}, retrained', inside)
  return _job(
    context,
    models.name,
    models.inside,
    method,
    forget=models.forget,
    unlearn=bind_method(context, method),
  )


def _job(
  context: Context[World],
  name: str,
  inside: Marks,
  method: str = '',
  **options: Any,
) -> shadow.ShadowJob:
  config, world = context.config, context.world
  images = int(inside.sum(axis=1).max())
  signal = config.rmia.signal
  training = recipes.fit_options(config.train, images, 'train')
  return shadow.make_job(
    rng.fold_in(0, name),
    world.network.model,
    world.pool,
    inside,
    shadow.ShadowTraining(world.network.inputs, *training),
    shadow.Plan(
      group=config.group,
      memory_bytes=int(config.memory * 2**30),
      save_seconds=config.checkpoint_seconds,
      folder=context.store.folder,
      address=_training_address(context, ''),
      method=_training_address(context, method) if method else '',
      images_at_once=config.evaluate.batch_size,
      title=f'{name}, then {method}' if method else name,
    ),
    signals=(
      (signal, audits.SIGNALS[signal]),
      ('logit_confidence', audits.logit_confidence),
      ('hit', is_correct),
    ),
    **options,
  )


def read_statistics(
  context: Context[World], models: Models, method: str
) -> Statistics:
  """Reads the statistics of networks once a method is done with them."""
  job = make_job(context, models, method)
  shadows = references.read_shadows(context, job)
  return shadows.statistics if shadows.unlearned is None else shadows.unlearned


def bind_method(context: Context[World], method: str) -> shadow.Unlearn:
  """Binds a method in the form that shadow models unlearn with."""
  config, world = context.config, context.world
  size = world.pool.label.shape[0]
  count = forget_count(config, size)
  sizes = catalogue.Sizes(size // 2 - count, count)
  bound = catalogue.make(config, world.network, sizes, method)

  def unlearn(
    key: PRNGKey,
    variables: Variables,
    retain: Int[np.ndarray, '_'],
    forget: Int[np.ndarray, '_'],
  ) -> Variables:
    rows = {'retain': retain, 'forget': forget}
    parts: dict[str, Any] = {
      name: descent.gather_samples(
        world.pool, rows[name], rows[name].size, name == 'forget'
      )
      for name in bound.needs
    }
    data = MethodInputs(**parts)
    prepared = bound.prepare(rng.fold_in(key, 'prepare'), variables, data)
    solve_key = rng.fold_in(key, 'solve')
    # An audit tunes nothing: the grid has one point.
    return bound.solve(solve_key, variables, data, prepared, bound.grid[0])[0]

  return unlearn
