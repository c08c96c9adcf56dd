"""Settings of the study of forgotten classes: the base and its checks."""

from ml_collections import ConfigDict

from cmu_jax import audits
from cmu_jax.audits import ulira_scores
from cmu_jax.core import errors
from cmu_jax.studies.classes import roster
from cmu_jax.studies.engine import checks, recipes

# Fields of the config that hold a training.
_TRAININGS = ('train', 'unlearn')
_RATES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4)


def base(name: str) -> ConfigDict:
  """Returns every setting.

  Source: arXiv 2506.20893, whose learning rates, epochs, PCA dimension and
  temperature are not public; trainings are those of AMUN, arXiv 2503.00917.
  """
  return ConfigDict(
    dict(
      name=name,
      task='class_unlearning',
      smoke=False,  # shrunk: every stage runs, nothing is evidence
      **recipes.source(),
      seeds=(0, 1, 2),  # of the original networks
      forget_classes=(1, 4, 8),  # each is forgotten by itself, and reported
      tuning_classes=(0, 7),  # hyperparameters are chosen on these
      shadows=0,  # of U-LiRA, and as many without the class; 0: the run's own
      retrained=3,  # networks without the class, each: 6 for a control
      validation=0.15,  # of each class, held out: choices are made on it
      proxy_fraction=0.0,  # no method here takes a proxy
      methods=roster.DEFAULT,
      learning_rates=_RATES,  # the grid of every method that fine-tunes
      betas=(10.0, 0.3, 1.0, 3.0, 30.0),  # of TRW; the first is the paper's
      dimensions=(8,),  # of TRW: principal axes of the last layer
      noises=(0.1, 0.3, 1.0),  # added to TRW's cosines; () for none
      model=dict(name='resnet18', width=64, dtype='float32'),
      input=recipes.pixels(mean=(0.0,), std=(1.0,)),
      **recipes.forgetting_trainings(),
      evaluate=dict(
        batch_size=1024,
        mis_points=0,  # test points that MIS is fitted on; 0 for all
        folds=5,  # of MIA-NN's cross-validation
        ulira_points=1000,  # forgotten images that U-LiRA looks at
      ),
      checkpoint_seconds=20.0,  # at most so much of a training is lost
    )
  )


def _check_classes(config: ConfigDict) -> None:
  for field in ('forget_classes', 'tuning_classes'):
    checks.seeds(tuple(config[field]), field)
  # A choice on a reported class would flatter the method.
  shared = set(config.forget_classes) & set(config.tuning_classes)
  errors.check(
    not shared,
    f'config.tuning_classes and config.forget_classes share {sorted(shared)}: '
    'what is chosen on a class may not be reported on it',
  )
  errors.check(
    config.retrained >= audits.MIN_RETRAINED,
    f'config.retrained is {config.retrained}; the noise floor needs '
    f'{audits.MIN_RETRAINED} or more',
  )
  errors.check(
    config.shadows == 0 or config.shadows >= ulira_scores.MIN_MODELS,
    f'config.shadows is {config.shadows}; U-LiRA needs '
    f'{ulira_scores.MIN_MODELS} '
    "networks of a kind, or 0 for the run's own",
  )


def _check_numbers(config: ConfigDict) -> None:
  errors.check(
    0 < config.validation < 1,
    f'config.validation is {config.validation}; give a share of the training '
    'set between 0 and 1',
  )
  errors.check(
    config.evaluate.folds >= 2,
    f'config.evaluate.folds is {config.evaluate.folds}; use 2 or more',
  )
  for field, least in (
    ('learning_rates', 1e-12),
    ('dimensions', 1),
    ('betas', 0),
  ):
    values = tuple(config[field])
    errors.check(
      values and all(value >= least for value in values),
      f'config.{field} is {values}; give one or more numbers'
      + (f' of at least {least:g}' if least else ' from 0 on'),
    )
  errors.check(
    all(value > 0 for value in config.noises),
    f'config.noises is {tuple(config.noises)}; give numbers above 0, or ()',
  )
  errors.check(
    not config.noises or 'trw' in config.methods,
    "config.noises needs the method trw: add it to config.methods, or give ''",
  )


def check(config: ConfigDict) -> None:
  """Refuses invalid settings before any data are read.

  Raises:
    UserError: names the field, its value and a valid one.
  """
  checks.seeds(tuple(config.seeds))
  _check_classes(config)
  checks.statistics(tuple(config.input.mean), tuple(config.input.std))
  checks.model(config.model)
  checks.names('methods', config.methods, roster.KNOWN)
  _check_numbers(config)
  # The limits of a schedule do not depend on the number of images.
  for name in _TRAININGS:
    recipes.fit_options(config[name], 1, name)


def shrink(config: ConfigDict) -> ConfigDict:
  """Shrinks a config to a smoke run: one network, two classes, few steps."""
  config.smoke = True
  config.seeds = tuple(config.seeds)[:1]
  config.forget_classes = tuple(config.forget_classes)[:1]
  config.tuning_classes = tuple(config.tuning_classes)[:1]
  config.retrained = audits.MIN_RETRAINED
  config.shadows = min(config.shadows, ulira_scores.MIN_MODELS)
  config.train_limit = config.train_limit or 1000
  config.test_limit = config.test_limit or 300
  config.learning_rates = tuple(config.learning_rates)[:2]
  config.betas = tuple(config.betas)[:2]
  config.noises = tuple(config.noises)[:1]
  for name in _TRAININGS:
    config[name].epochs, config[name].steps = 0, 20
    config[name].milestones = (10,)
  return config
