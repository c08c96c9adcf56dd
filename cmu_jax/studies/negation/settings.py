"""The settings of a run on negation: one base, and their checks."""

from typing import Any

from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.studies.engine import checks, clip_start, recipes

METHODS = ('task_vector', 'uniform', 'negmerge')
# Data sets by their TFDS names, and passes over them (arXiv 2212.04089).
FORGET: dict[str, int] = {
  'cars196': 35,
  'dtd': 76,
  'eurosat': 12,
  'visual_domain_decathlon/gtsrb': 11,
  'mnist': 5,
  'resisc45': 15,
  'sun397': 14,
  'svhn_cropped': 4,
}
# Ways to fine-tune: by what rate and length are multiplied, weight decay,
# pixels of zero padding before a random crop. Seed s takes the way s modulo
# their number, so that vectors, and merges of them, differ by more than chance.
WAYS: tuple[tuple[float, float, float, int], ...] = (
  (1.0, 1.0, 0.1, 0),
  (0.5, 1.5, 0.1, 2),
  (2.0, 0.5, 0.0, 2),
  (1.0, 0.5, 0.0, 0),
  (0.5, 1.0, 0.0, 2),
  (2.0, 1.0, 0.1, 0),
)
_RANGES = {
  'validation.share': '(0, 1]',
  'validation.most': '[1, inf)',
  'floor': '(0, 1]',
  'train_limit': '[0, inf)',
  'test_limit': '[0, inf)',
  'control_limit': '[0, inf)',
  'lambdas': '[2, inf)',
  'evaluate.batch_size': '[1, inf)',
  'checkpoint_seconds': '[0, inf)',
}


def base(name: str) -> ConfigDict:
  """Returns every setting of a run.

  Sources: arXiv 2212.04089 (fine-tuning, splits, the 95 % rule), 2410.05583
  (merging by agreement of signs).
  """
  source = recipes.source()
  del source['image_size']  # a CLIP has a size of its own
  return ConfigDict(
    dict(
      name=name,
      task='negation',
      smoke=False,  # shrunk: every stage runs, nothing is evidence
      **{**source, 'dataset': 'imagenet2012'},  # the control set
      seeds=(0, 1, 2),  # fine-tunings of each set, see `ways`; merges of all
      proxy_fraction=0.0,  # no method here takes a proxy
      forget=tuple(FORGET),  # TFDS names
      methods=METHODS,  # task_vector: of each seed; uniform, negmerge: of all
      epochs=tuple(FORGET.values()),  # of each set to forget; () for `train`
      control_limit=10000,  # test images of the control set; 0 for all
      model=clip_start.settings('clip-vit-b32'),
      train=recipes.training(
        batch_size=128,
        weight_decay=0.1,
        learning_rate=1e-5,
        schedule='warmup_cosine',
        epochs=10,
        warmup=1,
      ),
      ways=WAYS,  # factors of rate and length, decay, padding; () for `train`
      clip_norm=1.0,  # of the gradient, 0 for none
      validation=dict(
        share=0.1,  # of each training split, held out for the choice
        most=5000,  # images of it
      ),
      lambdas=21,  # strengths from 0 to 1
      floor=0.95,  # share of the control accuracy that must stay
      evaluate=dict(batch_size=256),
      checkpoint_seconds=120.0,  # at most so much of a training is lost
    )
  )


def check(config: Any) -> None:
  """Refuses settings that cannot be, whatever the data are.

  Raises:
    UserError: names the field, its value and a remedy.
  """
  checks.check_seeds(config)
  checks.check_network(config)
  checks.check_names('methods', config.methods, METHODS)
  checks.check_ranges(config, _RANGES)
  errors.check(
    config.forget and len(set(config.forget)) == len(config.forget),
    f'config.forget is {config.forget}: give one or more different data sets',
  )
  errors.check(
    config.dataset not in config.forget,
    f"config.dataset '{config.dataset}' is the control set and to be "
    'forgotten, too; take it out of config.forget',
  )
  errors.check(
    not config.epochs or len(config.epochs) == len(config.forget),
    f'config.epochs has {len(config.epochs)} numbers for '
    f'{len(config.forget)} data sets; give one each, or () for train.epochs',
  )
  # Ways come from the command line too, as nested tuples.
  for way in config.ways:
    errors.check(
      len(way) == 4 and min(way[:2]) > 0 and min(way[2:]) >= 0,
      f'config.ways has {way}: give the factors of learning rate and length '
      '(above 0), weight decay and pixels of padding',
    )
  # Bad settings of the last fine-tuning should not wait for the first ones.
  for position in range(len(config.forget)):
    for seed in range(max(1, len(config.ways))):
      options = tuning_recipe(config, position, seed)
      recipes.fit_options(options, 10**4, 'train')


def tuning_recipe(config: Any, position: int, seed: int) -> ConfigDict:
  """Returns the training of a seed on the data set at a position."""
  settings = ConfigDict(config.train)
  if config.epochs:
    settings.update(epochs=config.epochs[position], steps=0)
  if config.ways:
    rate, length, decay, _ = config.ways[seed % len(config.ways)]
    settings.update(
      learning_rate=rate * settings.learning_rate,
      weight_decay=float(decay),
      epochs=_scale_length(settings.epochs, length),
      steps=_scale_length(settings.steps, length),
    )
  return settings


def crop_padding(config: Any, seed: int) -> int:
  """Returns the pixels of zeros around an image before a random crop."""
  return int(config.ways[seed % len(config.ways)][3]) if config.ways else 0


def _scale_length(count: int, factor: float) -> int:
  # 0 says that the length is given in the other unit.
  return max(1, round(factor * count)) if count else 0


def shrink(config: ConfigDict) -> ConfigDict:
  """Shrinks a config to MNIST against CIFAR-10, with a small CLIP."""
  recipes.shrink(config, {'seeds': 2}, (1500, 500))
  config.dataset, config.forget, config.epochs = 'cifar10', ('mnist',), ()
  config.train_limit, config.test_limit, config.control_limit = 1500, 500, 500
  config.validation.most = 300
  config.model = clip_start.settings('clip', width=64)
  config.pretrain = {**clip_start.pretrain(), 'steps': 400, 'images': 10000}
  config.evaluate.batch_size = 100
  config.train = recipes.training(
    steps=40, batch_size=64, learning_rate=3e-4, weight_decay=0.1
  )
  config.lambdas = 6
  config.ways = ()  # each would be compiled for itself
  return config
