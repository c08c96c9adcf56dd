"""Methods and settings of the study of forgotten classes."""

from typing import Any

from ml_collections import ConfigDict

from cmu_jax import audits
from cmu_jax.audits import ulira_scores
from cmu_jax.core import errors
from cmu_jax.core.types import Method, Network
from cmu_jax.methods import study_names, trw
from cmu_jax.studies.engine import catalogue, checks, recipes
from cmu_jax.studies.engine.catalogue import Entry, Sizes

# Methods without a training.
_CLOSED_FORM = ('svd_projection', 'logit_mask')


def entries(
  betas: tuple[float, ...] = trw.BETAS,
  dimensions: tuple[int, ...] = trw.DIMENSIONS,
) -> dict[str, Entry]:
  """Builds the entries of all methods."""
  # A single noise here: noisy similarities have a phase of their own.
  tilted = {'betas': betas, 'dimensions': dimensions, 'noises': (0.0,)}
  options: dict[str, dict[str, Any]] = {
    'scrub_original': {'alphas': (0.5, 0.001)},
    'rwft': {**tilted, 'betas': (0.0,), 'dimensions': dimensions[:1]},
    'trw': tilted,
    'trw_sample': tilted,
  }
  parts = {'retrain': 'train', **dict.fromkeys(_CLOSED_FORM, '')}
  return {
    alias: catalogue.entry(
      study_names.CLASSES,
      name,
      parts.get(name, 'unlearn'),
      **options.get(name, {}),
    )
    for name, alias in study_names.NAMES[study_names.CLASSES].items()
    if name != 'none'
  }


METHODS = tuple(name for name in entries() if name != 'retrain')


def make_methods(
  config: ConfigDict, network: Network, sizes: Sizes
) -> dict[str, Method]:
  """Builds the methods of a run by name.

  Sizes are those of an average class, so that epochs are equal for all classes.
  """
  table = entries(tuple(config.betas), tuple(config.dimensions))
  methods = {
    name: catalogue.make(config, network, sizes, name, table)
    for name in dict.fromkeys(('retrain', *config.methods))
  }
  if {'trw', 'rwft'} <= set(methods):
    # beta is traced: one compilation serves both.
    grid = methods['rwft'].grid
    methods['rwft'] = methods['trw']._replace(grid=grid)
  return methods


# Fields of the config that hold a training.
_TRAININGS = ('train', 'unlearn')
_RANGES = {
  # Retrained networks among themselves are the noise floor.
  'retrained': f'[{audits.MIN_RETRAINED}, inf)',
  'validation': '(0, 1)',
  'evaluate.folds': '[2, inf)',
  'learning_rates': '(0, inf)',
  'betas': '[0, inf)',
  'dimensions': '[1, inf)',
  'noises': '(0, inf)',
}
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
      methods=METHODS,
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


def check(config: ConfigDict) -> None:
  """Refuses invalid settings before any data are read.

  Raises:
    UserError: names the field, its value and a valid one.
  """
  checks.check_seeds(config)
  checks.check_tuning(config, 'tuning_classes', 'forget_classes')
  checks.check_names('methods', config.methods, METHODS)
  checks.check_ranges(config, _RANGES)
  for field in ('learning_rates', 'betas', 'dimensions'):
    errors.check(config[field], f'config.{field} is (); give one or more')
  least = ulira_scores.MIN_MODELS
  errors.check(
    config.shadows == 0 or config.shadows >= least,
    f'config.shadows is {config.shadows}; U-LiRA needs {least} networks of a '
    "kind, or 0 for the run's own",
  )
  errors.check(
    not config.noises or 'trw' in config.methods,
    "config.noises needs the method trw: add it to config.methods, or give ''",
  )
  checks.check_network(config, *_TRAININGS)


def shrink(config: ConfigDict) -> ConfigDict:
  """Shrinks a config to a smoke run: one network, two classes, few steps."""
  firsts = {'seeds': 1, 'forget_classes': 1, 'tuning_classes': 1}
  firsts |= {'learning_rates': 2, 'betas': 2, 'noises': 1}
  recipes.shrink(config, firsts, (1000, 300), _TRAININGS)
  config.retrained = audits.MIN_RETRAINED
  config.shadows = min(config.shadows, ulira_scores.MIN_MODELS)
  return config
