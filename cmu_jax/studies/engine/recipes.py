"""Experiment settings: one commented base, and what is built from it.

`base()` is every field there is. A file in configs/ starts from it and changes
what its paper or dataset needs; nothing reads a field that is not here.
"""

import functools
from collections.abc import Callable
from typing import Any

import ml_collections
import optax
from ml_collections import ConfigDict, config_dict

from cmu_jax.core import errors
from cmu_jax.core.types import Training
from cmu_jax.training import optimizers, train


def training(**changes: Any) -> ConfigDict:
  """The settings of one training, of a network or of a proxy fine-tuning."""
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


def _corruption() -> ConfigDict:
  """The settings of a corruption; each kind reads its own."""
  return ConfigDict(
    dict(
      kind='symmetric',  # symmetric, asymmetric, transition, interclass,
      # constant, human; of task poison: poison, clean_label
      class_map='',  # asymmetric: mnist, cifar10, cifar100, or 'cat:dog,5:3';
      # interclass: likewise, or one pair '3:5'
      target=0,  # poison, constant: the class that labels become
      trigger='badnet',  # poison: badnet, corner, blended, sinusoidal
      matrix_file='',  # transition: an .npz file
      matrix_key='transition',  # the array in it
      matrix='transition',  # what that is: transition, confusion (counts)
      labels_file='',  # human: an .npz file, in the order of the source
      labels_key='worse_label',  # the array in it; it decides the rate
      trigger_percent=0.03,  # badnet: share of the pixels
      trigger_margin=(10, 6),  # badnet: rows, columns from the corner
      trigger_size=3,  # corner: side of the patch
      trigger_alpha=0.2,  # blended: weight of a random pattern
      trigger_amplitude=20.0,  # sinusoidal: in pixel values, 0 to 255
      trigger_frequency=6.0,  # sinusoidal: periods in a row
    )
  )


def source() -> dict[str, Any]:
  """The settings that every run has of where its images come from."""
  return dict(
    dataset='digits',  # digits, a TFDS name, folder:PATH, npz:PATH
    data_dir=config_dict.placeholder(str),  # where TFDS data lie
    download=False,
    image_size=0,  # folders: resize to this; 0 keeps one common size
    train_limit=0,  # keep so many training images, stratified; 0 keeps all
    test_limit=0,
  )


def pixels(
  mean: tuple[float, ...] = (0.5,), std: tuple[float, ...] = (0.5,)
) -> dict[str, Any]:
  """The settings of the input step, see `input_step.make`."""
  return dict(
    mean=mean,  # of pixels in [0, 1], by channel
    std=std,
    pad=0,  # zero-padded random crop, in pixels
    flip=False,
    resize=0,  # to so many pixels, inside the step; 0 for none
  )


def base(name: str) -> ConfigDict:
  """Every setting of an experiment, with the defaults of the paper."""
  return ConfigDict(
    dict(
      name=name,
      task='label_noise',  # label_noise, poison
      smoke=False,  # shrunk: every stage runs, nothing is evidence
      **source(),
      seeds=(0, 1, 2),
      audit='',  # rmia: are the wrong labels still in the networks?
      noise_rate=0.4,  # eta, the corrupted share
      proxy_fraction=0.02,  # held out of each class before the corruption
      proxy_draws=2,  # S, re-corrupted copies of the proxy
      corruption=_corruption(),
      model=dict(name='fc', width=512, dtype='float32'),
      input=pixels(),
      train=training(),  # the corrupted network and the oracle
      proxy_train=training(),  # CUTS
      finetune=training(),  # the baseline on clean proxy labels
      select=dict(
        rule='published',  # published, safe: which alpha the row `cuts` takes
        folds=2,  # of the row `cuts_safe`; 0 leaves it out
        replicates=400,  # bootstrap resamples of its intervals
        confidence=0.8,  # that it is better than nothing, or it abstains
        class_share=1.0,  # gamma: share of classes that must stay predicted
        head_input='raw',  # raw, normalized (as released)
        patience=0,  # stop after so many drops of J; 0 never, 10 as released
        threshold=0.01,  # poison: proxy attack success that qualifies
      ),
      evaluate=dict(
        points=21,  # coarse grid of test evaluations, for the plot
        batch_size=1024,
        path_images=400,  # test images in the figure of the feature path
      ),
      checkpoint_seconds=20.0,  # at most so much work is lost
    )
  )


def forgetting_trainings() -> dict[str, Any]:
  """Returns the trainings of subsets and classes, with AMUN's defaults."""
  recipe: dict[str, Any] = dict(
    batch_size=128,
    optimizer='sgd',
    weight_decay=5e-4,
    schedule='multistep',
    factor=0.1,
  )
  return dict(
    train=training(
      epochs=200, learning_rate=0.1, milestones=(40, 80, 120, 160), **recipe
    ),  # the original, Retrain and the references
    unlearn=training(
      epochs=10, learning_rate=1.0, milestones=(5,), **recipe
    ),  # the rate multiplies each of `learning_rates`
  )


def total_steps(settings: ConfigDict, samples: int, where: str) -> int:
  """Optimiser steps of a training on `samples` images."""
  errors.check(
    min(settings.epochs, settings.steps)
    == 0
    < max(settings.epochs, settings.steps),
    f'config.{where}: give either epochs or steps, the other must be 0 (now '
    f'epochs={settings.epochs}, steps={settings.steps})',
  )
  per_epoch = train.steps_per_epoch(samples, settings.batch_size)
  return settings.steps or settings.epochs * per_epoch


def _check_schedule(settings: ConfigDict, where: str) -> None:
  """Rates and units that cannot be."""
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


def schedule(settings: ConfigDict, samples: int, where: str) -> optax.Schedule:
  """The learning rate that a training's settings describe."""
  steps = total_steps(settings, samples, where)
  peak = settings.learning_rate
  _check_schedule(settings, where)
  per_epoch = train.steps_per_epoch(samples, settings.batch_size)
  unit = per_epoch if settings.epochs else 1
  units = settings.epochs or steps
  known = {
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
  if settings.schedule not in known:
    raise errors.unknown_name(
      f'config.{where}.schedule', settings.schedule, known
    )
  return known[settings.schedule]()


def fit_options(settings: ConfigDict, samples: int, where: str) -> Training:
  """The optimizer, steps and batch size of a training's settings.

  Equal settings give the same optimiser object, hence one compilation.

  Raises:
    UserError: names the field `config.<where>.<...>` that cannot be.
  """
  return _fit_options(ml_collections.FrozenConfigDict(settings), samples, where)


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
  known: dict[str, Callable[..., optax.GradientTransformation]] = {
    'adamw': optimizers.adamw,
    'sgd': optimizers.sgd,
  }
  if settings.optimizer not in known:
    raise errors.unknown_name(
      f'config.{where}.optimizer', settings.optimizer, known
    )
  rate = schedule(settings, samples, where)
  return Training(
    optimizer=known[settings.optimizer](rate, settings.weight_decay),
    steps=total_steps(settings, samples, where),
    batch_size=settings.batch_size,
  )


def shrink(config: ConfigDict, **changes: Any) -> ConfigDict:
  """A smoke run of a config: one seed, few images, every stage and artefact.

  Args:
    config: changed in place.
    **changes: settings by dotted name with '__' for the dot, for what the
      general shrinking does not fit: model__width=8.

  Returns:
    The config.
  """
  config.smoke = True
  config.seeds = tuple(config.seeds)[:1]
  config.train_limit = config.train_limit or 2000
  config.test_limit = config.test_limit or 500
  config.evaluate.points = 5
  config.evaluate.path_images = 200
  for part in (config.train, config.proxy_train, config.finetune):
    part.epochs, part.steps, part.schedule = 0, 40, 'constant'
    part.batch_size = min(part.batch_size, 32)
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return config
