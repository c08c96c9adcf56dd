"""Data, networks and task vectors of `simplex_unlearning.py`."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmu_jax import (
  data,
  inputs,
  models,
  optimizers,
  rng,
  schedules,
  splits,
  train,
)
from cmu_jax import task_vectors as tv
from cmu_jax.task_vectors import FineTuneConfig
from cmu_jax.types import Batch

CONFIGS = (
  FineTuneConfig(1e-3, 0.0, 4, 0.0, 'none', 1),
  FineTuneConfig(5e-4, 0.1, 8, 0.1, 'none', 2),
  FineTuneConfig(2e-3, 0.0, 2, 0.0, 'crop', 3),
  FineTuneConfig(1e-3, 0.1, 8, 0.05, 'crop', 4),
  FineTuneConfig(5e-4, 0.0, 4, 0.0, 'crop', 5),
  FineTuneConfig(2e-3, 0.1, 4, 0.1, 'none', 6),
  FineTuneConfig(1e-3, 0.01, 2, 0.05, 'none', 7),
  FineTuneConfig(3e-3, 0.0, 2, 0.1, 'crop', 8),
)
# Network, images and epochs of a data set; None: all images.
SETTINGS = {
  'digits': {'patch': 4, 'width': 32, 'depth': 2, 'epochs': 40, 'limit': None},
  'mnist': {'patch': 7, 'width': 64, 'depth': 2, 'epochs': 10, 'limit': 10000},
  'cifar10': {
    'patch': 4, 'width': 96, 'depth': 4, 'epochs': 30, 'limit': 20000,
  },
}  # fmt: skip


class Sets(NamedTuple):
  """Images by purpose, and the network input of all of them."""

  val: Batch
  test: Batch
  image: Any


def world(flags):
  """Data, network and input steps, shared by all seeds."""
  chosen = SETTINGS[flags.dataset]
  source = flags.source or flags.dataset
  found = data.load(source, data_dir=flags.data_dir or None)
  some = lambda batch, n: splits.take(batch, np.arange(len(batch.label))[:n])
  limit = 400 if flags.smoke else chosen['limit']
  shape = found.train.image.shape[1:]
  pixels = {'mean': (0.3,) * shape[2], 'std': (0.35,) * shape[2]}
  model = models.make(
    'vit_tiny', found.num_classes, shape,
    patch=chosen['patch'], width=chosen['width'], depth=chosen['depth'],
    heads=4,
  )  # fmt: skip
  steps = {'none': inputs.make(**pixels), 'crop': inputs.make(**pixels, pad=1)}
  epochs = 2 if flags.smoke else chosen['epochs']
  return found._replace(
    train=some(found.train, limit), test=some(found.test, 2000)
  ), model, steps, epochs  # fmt: skip


@functools.lru_cache(maxsize=4)
def recipe(steps):
  """The optimiser of the first training, one object for all seeds."""
  return optimizers.adamw(schedules.warmup_cosine(2e-3, steps // 20, 0, steps))


def vectors(flags, place, seed):
  """What a seed starts from: the network, task vectors, images by purpose."""
  found, model, steps, epochs = place
  classes = found.num_classes
  forget = np.array([seed % 5, seed % 5 + 5])
  held, kept = splits.hold_out(
    rng.named(seed, 'validation'), found.train, 0.25, classes
  )
  start = jax.jit(model.init)(
    rng.named(seed, 'init'), steps['none'].eval(found.train.image[:1], None)
  )
  count = epochs * train.steps_per_epoch(len(kept.label), 64)
  fitted = train.fit(
    rng.named(seed, 'train'),
    model,
    start,
    kept,
    optimizer=recipe(count),
    steps=count,
    batch_size=64,
    inputs=steps['crop'],
    title=f'seed {seed}',
  )
  gone = np.flatnonzero(np.isin(np.asarray(kept.label), forget))
  configs = [
    one._replace(seed=100 * seed + one.seed)
    for one in (CONFIGS[:3] if flags.smoke else CONFIGS)
  ]
  taus = tv.diversify(
    model,
    fitted.variables,
    splits.take(kept, gone),
    configs,
    steps,
    frozen=('head',),
  )
  image = jnp.concatenate([held.image, found.test.image])
  sets = Sets(held, found.test, steps['none'].eval(image, None))
  return fitted.variables.params, taus, sets, forget
