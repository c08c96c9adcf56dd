"""Settings that studies share, and the trainings that are built from them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import optax
from ml_collections import ConfigDict, config_dict

from cmu_jax.core import errors
from cmu_jax.core.types import Training
from cmu_jax.training import optimizers, train


def training(**changes: Any) -> ConfigDict:
  """Returns the settings of a training, of a network or of a proxy."""
  settings = ConfigDict(
    dict(
      epochs=0,  # passes over the data; 0 where `steps` says it
      steps=0,  # optimiser steps; 0 where `epochs` says it
      batch_size=128,
      optimizer='adamw',  # adamw, sgd
      weight_decay=0.01,
      learning_rate=1e-3,  # the peak
      schedule='constant',  # constant, cosine, warmup_cosine, multistep,
      # procedure_a; its unit is an epoch if `epochs` is given, else a step
      minimum=0.0,  # cosine: the final rate
      warmup=0,  # warmup_cosine: units of linear warm-up from 0
      hold=0,  # warmup_cosine: units at the peak
      milestones=(),  # multistep: units after which the rate falls
      factor=1.0,  # multistep: by how much
    )
  )
  settings.update(changes)
  return settings


def source() -> dict[str, Any]:
  """Returns the settings of the images that every run has."""
  return dict(
    dataset='digits',  # digits, a TFDS name, folder:PATH, npz:PATH
    data_dir=config_dict.placeholder(str),  # where TFDS data lie
    download=False,
    image_size=0,  # folders: resize to this; 0 keeps one common size
    train_limit=0,  # keep so many training images, stratified; 0 keeps all
    test_limit=0,
  )


# Fields of the normalisation, as a command line has them.
NORMALISATION = ('--config.input.mean', '--config.input.std')


def pixels(
  mean: tuple[float, ...] = (0.5,), std: tuple[float, ...] = (0.5,)
) -> dict[str, Any]:
  """Returns the settings of the input step, see `input_step.make`."""
  return dict(
    mean=mean,  # of pixels in [0, 1], by channel
    std=std,
    pad=0,  # zero-padded random crop, in pixels
    flip=False,
    resize=0,  # to so many pixels, inside the step; 0 for none
  )


def forgetting_trainings(
  epochs: int = 200, milestones: tuple[int, ...] = (40, 80, 120, 160)
) -> dict[str, Any]:
  """Returns the trainings of networks that forget, with AMUN's defaults."""
  recipe: dict[str, Any] = dict(
    batch_size=128,
    optimizer='sgd',
    weight_decay=5e-4,
    schedule='multistep',
    factor=0.1,
  )
  return dict(
    train=training(
      epochs=epochs, learning_rate=0.1, milestones=milestones, **recipe
    ),  # the original, Retrain and the references
    unlearn=training(
      epochs=10, learning_rate=1.0, milestones=(5,), **recipe
    ),  # the rate multiplies each of `learning_rates`
  )


def shrink(
  config: ConfigDict,
  firsts: Mapping[str, int],
  limits: tuple[int, int],
  trainings: tuple[str, ...] = (),
) -> None:
  """Shrinks the parts of a config that all studies have to a smoke run.

  Args:
    config: changed in place.
    firsts: field of several values -> how many of them stay.
    limits: training and test images, where the config has no limit.
    trainings: fields of the config that become trainings of 20 steps.
  """
  config.smoke = True
  for field, count in firsts.items():
    config[field] = tuple(config[field])[:count]
  config.train_limit = config.train_limit or limits[0]
  config.test_limit = config.test_limit or limits[1]
  for name in trainings:
    config[name].update(epochs=0, steps=20, milestones=(10,))


def total_steps(settings: ConfigDict, samples: int, where: str) -> int:
  """Counts the optimiser steps of a training on `samples` images."""
  errors.check(
    min(settings.epochs, settings.steps)
    == 0
    < max(settings.epochs, settings.steps),
    f'config.{where}: give either epochs or steps, the other must be 0 (now '
    f'epochs={settings.epochs}, steps={settings.steps})',
  )
  size = min(settings.batch_size, samples)
  per_epoch = train.steps_per_epoch(samples, size)
  steps = settings.steps or settings.epochs * per_epoch
  unit = 'epochs' if settings.epochs else 'steps'
  train.check_length(f'config.{where}.{unit}={settings[unit]}', steps, size)
  return steps


def count_images(settings: ConfigDict, samples: int, where: str) -> float:
  """Counts the images that a training on `samples` images passes through."""
  # A set that is smaller than a batch is used once a step.
  batch_size = min(settings.batch_size, samples)
  return float(total_steps(settings, samples, where) * batch_size)


def _check_schedule(settings: ConfigDict, where: str) -> None:
  """Refuses rates and units that cannot be."""
  peak, minimum = settings.learning_rate, settings.minimum
  errors.check(
    peak > 0, f'config.{where}.learning_rate is {peak}; it must be above 0'
  )
  errors.check(
    0 <= minimum <= peak,
    f'config.{where}.minimum is {minimum}; it must lie between 0 and the '
    f'learning rate, {peak}',
  )
  for name in ('warmup', 'hold'):
    errors.check(
      settings[name] >= 0,
      f'config.{where}.{name} is {settings[name]}; it must be at least 0',
    )
  if settings.schedule == 'multistep':
    edges = tuple(settings.milestones)
    errors.check(
      edges and all(type(edge) is int and edge > 0 for edge in edges),
      f'config.{where}.milestones is {edges}; multistep needs one or more '
      'integers above 0, for example 50,100',
    )
    errors.check(
      settings.factor > 0,
      f'config.{where}.factor is {settings.factor}; it must be above 0',
    )
  if settings.schedule == 'warmup_cosine':
    units = settings.epochs or settings.steps
    errors.check(
      settings.warmup + settings.hold < units,
      f'config.{where}: warmup {settings.warmup} + hold {settings.hold} must '
      f'be below {units} {"epochs" if settings.epochs else "steps"}; shorten '
      'them or train longer',
    )


def make_schedule(
  settings: ConfigDict, samples: int, where: str
) -> optax.Schedule:
  """Makes the learning rate of a training."""
  # A schedule counts in the unit of the length: epochs or steps.
  steps = total_steps(settings, samples, where)
  peak = settings.learning_rate
  _check_schedule(settings, where)
  per_epoch = train.steps_per_epoch(samples, settings.batch_size)
  unit = per_epoch if settings.epochs else 1
  units = settings.epochs or steps
  schedules = {
    'constant': lambda: optimizers.constant_schedule(peak),
    'cosine': lambda: optimizers.cosine_schedule(
      peak, units, settings.minimum, unit
    ),
    'warmup_cosine': lambda: optimizers.warmup_cosine_schedule(
      peak, settings.warmup, settings.hold, units, settings.minimum, unit
    ),
    'multistep': lambda: optimizers.multistep_schedule(
      peak, settings.milestones, settings.factor, unit
    ),
    'procedure_a': lambda: optimizers.procedure_a_schedule(peak, steps),
  }
  if settings.schedule not in schedules:
    raise errors.unknown_name(
      f'config.{where}.schedule', settings.schedule, schedules
    )
  # Only the schedule that is used has to make sense.
  return schedules[settings.schedule]()


def fit_options(settings: ConfigDict, samples: int, where: str) -> Training:
  """Makes the optimizer of a training, and fits its steps to its images.

  Raises:
    UserError: names the field `config.<where>.<...>` that cannot be.
  """
  return _fit_options(ml_collections.FrozenConfigDict(settings), samples, where)


# Equal settings give the same optimiser object, hence one compilation.
@functools.lru_cache(maxsize=64)
def _fit_options(
  settings: ml_collections.FrozenConfigDict, samples: int, where: str
) -> Training:
  errors.check(
    settings.batch_size > 0,
    f'config.{where}.batch_size must be above 0, not {settings.batch_size}',
  )
  errors.check(
    settings.weight_decay >= 0,
    f'config.{where}.weight_decay is {settings.weight_decay}; it must be at '
    'least 0',
  )
  constructors: dict[str, Callable[..., optax.GradientTransformation]] = {
    'adamw': optimizers.adamw,
    'sgd': optimizers.sgd,
  }
  if settings.optimizer not in constructors:
    raise errors.unknown_name(
      f'config.{where}.optimizer', settings.optimizer, constructors
    )
  rate = make_schedule(settings, samples, where)
  return Training(
    optimizer=constructors[settings.optimizer](rate, settings.weight_decay),
    steps=total_steps(settings, samples, where),
    batch_size=settings.batch_size,
  )
