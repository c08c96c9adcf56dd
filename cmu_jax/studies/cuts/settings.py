"""Settings of the CUTS study: one commented base, its checks, its smoke run.

`base()` is every field there is. A file in configs/ starts from it and changes
what its paper or dataset needs; nothing reads a field that is not here.
"""

from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from cmu_jax.core import errors
from cmu_jax.core.config import parse_arg
from cmu_jax.data import corruption
from cmu_jax.data.corruption import triggers
from cmu_jax.studies.engine import checks, recipes

# The arrays of CIFAR-10N and CIFAR-100N with the most wrong labels.
HUMAN_LABELS = {'cifar10': 'worse_label', 'cifar100': 'noisy_label'}
_TRAININGS = ('train', 'proxy_train', 'finetune')
_RANGES = {
  'noise_rate': '[0, 1)',
  'proxy_fraction': '(0, 1)',
  # Beyond their upper limits nothing gets better, and memory runs out.
  'proxy_draws': '[1, 1000]',
  'select.replicates': '[2, 100000]',
  'select.folds': '[0, inf)',
  'select.confidence': '(0, 1)',
  'select.class_share': '[0, 1]',
  'select.threshold': '[0, 1]',
  'select.patience': '[0, inf)',
  'adapt.learning_rate': '(0, inf)',
  'adapt.steps': '[0, inf)',
  'adapt.batch_size': '[2, inf)',
  'evaluate.points': '[2, inf)',
  'evaluate.batch_size': '[1, inf)',
  'evaluate.path_images': '[0, inf)',
  'image_size': '[0, inf)',
  'train_limit': '[0, inf)',
  'test_limit': '[0, inf)',
  'input.resize': '[0, inf)',
  'input.pad': '[0, inf)',
  'checkpoint_seconds': '[0, inf)',
}


def base(name: str) -> ConfigDict:
  """Every setting of an experiment, with the defaults of the paper."""
  return ConfigDict(
    dict(
      name=name,
      task='label_noise',  # label_noise, poison
      smoke=False,  # shrunk: every stage runs, nothing is evidence
      **recipes.source(),
      seeds=(0, 1, 2),
      audit='',  # rmia: are the wrong labels still in the networks?
      noise_rate=0.4,  # eta, the corrupted share
      proxy_fraction=0.02,  # held out of each class before the corruption
      proxy_draws=2,  # S, re-corrupted copies of the proxy
      # Each kind reads its own fields.
      corruption=dict(
        kind='symmetric',  # a name in data.corruption.KINDS
        class_map='',  # asymmetric: mnist, cifar10, cifar100, or 'cat:dog,5:3';
        # interclass: likewise, or one pair '3:5'
        target=0,  # poison, constant: the class that labels become
        trigger='badnet',  # poison: a name in data.corruption.triggers.KINDS
        matrix_file='',  # transition: an .npz file
        matrix_key='transition',  # the array in it
        matrix='transition',  # what that is: transition, confusion (counts)
        labels_file='',  # human: an .npz file, in the order of the source
        labels_key='worse_label',  # the array in it; it decides the rate
        trigger_percent=0.03,  # badnet: share of the pixels
        trigger_margin=(10, 6),  # badnet: rows, columns from the corner
        trigger_size=3,  # corner: side of the patch
        trigger_alpha=0.2,  # blended: weight of a random pattern
        trigger_amplitude=20.0,  # sinusoidal, sample_specific: pixel values
        trigger_frequency=6.0,  # sinusoidal: periods in a row
        trigger_strength=0.5,  # warping: about twice the displacement
      ),
      model=dict(name='fc', width=512, dtype='float32'),
      input=recipes.pixels(),
      train=recipes.training(),  # the corrupted network and the oracle
      proxy_train=recipes.training(),  # CUTS
      finetune=recipes.training(),  # the baseline on clean proxy labels
      # Information maximisation on the proxy images, without their labels.
      adapt=dict(
        learning_rate=5e-3,  # of SGD, constant
        steps=150,  # of each run; 0 leaves its rows out
        batch_size=256,  # at most half of the images
      ),
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


def check(config: ConfigDict) -> None:
  """Refuses settings that cannot be, whatever the data are.

  Raises:
    UserError: names the field, its value and a remedy.
  """
  task, settings = config.task, config.corruption
  kinds = [n for n, kind in corruption.KINDS.items() if kind.task == task]
  for field, name, known in (
    ('task', task, ('label_noise', 'poison')),
    (f'corruption.kind of task {task}', settings.kind, kinds),
    ('corruption.trigger', settings.trigger, triggers.KINDS),
    ('select.head_input', config.select.head_input, ('raw', 'normalized')),
    ('select.rule', config.select.rule, ('published', 'safe')),
  ):
    checks.check_names(field, name, known)
  checks.check_seeds(config)
  checks.check_ranges(config, _RANGES)
  folds, rule = config.select.folds, config.select.rule
  errors.check(
    folds >= 2 or (folds == 0 and rule == 'published'),
    f'config.select.folds is {folds} with select.rule={rule}; use 2 or more, '
    'or 0 with select.rule=published',
  )
  margin = tuple(settings.trigger_margin)
  errors.check(
    len(margin) == 2 and all(type(m) is int and m >= 0 for m in margin),
    f'config.corruption.trigger_margin is {margin}; give rows and columns, '
    'both 0 or more, for example 2,2',
  )
  checks.check_network(config, *_TRAININGS)


def shrink(config: ConfigDict, **changes: Any) -> ConfigDict:
  """Shrinks a config to a smoke run: one seed, few images, every stage.

  Args:
    config: changed in place, and returned.
    **changes: settings by dotted name with '__' for the dot, for what the
      general shrinking does not fit: model__width=8.
  """
  recipes.shrink(config, {'seeds': 1}, (2000, 500))
  config.evaluate.update(points=5, path_images=200)
  config.adapt.steps = 20
  for name in _TRAININGS:
    part = config[name]
    part.update(epochs=0, steps=40, schedule='constant')
    part.batch_size = min(part.batch_size, 32)
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return config


def cuts_noise_resnet(
  arg: str, dataset: str
) -> tuple[ConfigDict, SimpleNamespace]:
  """CUTS on 32x32 RGB images with label noise, ResNet-18 from scratch.

  AdamW; the corrupted network 150 epochs at 1e-3 (cosine to 5e-6), the proxy
  120 epochs at 5e-4, the clean-proxy baseline 80 epochs at 5e-5.

  Args:
    arg: the text after the config's colon.
    dataset: 'cifar10' or 'cifar100'; names the class map too.

  Returns:
    The config at full size, and the arguments: smoke, paper, noise, kind,
    labels, model, width, dtype, epochs, seeds. `labels` is for kind=human: an
    array in config.corruption.labels_file, by default the noisiest one of
    CIFAR-10N or CIFAR-100N.

  References:
    arXiv 2511.18660, released configs of the ResNets from scratch.
  """
  a = parse_arg(
    arg,
    smoke=False,
    paper=False,
    noise=0.4,
    kind='symmetric',
    labels='',
    model='resnet18',
    width=64,
    dtype='float32',
    epochs=150,
    seeds=(0, 1, 2),
  )
  config = base(f'cuts_{dataset}')
  config.dataset = dataset
  config.seeds = a.seeds
  config.noise_rate = a.noise
  # Only random kinds give a different proxy at the second draw.
  config.proxy_draws = 2 if a.kind in ('symmetric', 'transition') else 1
  config.corruption.kind = a.kind
  config.corruption.class_map = dataset
  config.corruption.labels_key = a.labels or HUMAN_LABELS[dataset]
  # A smoke run tests the program and not the numbers.
  model = 'convnet' if a.smoke else a.model
  width = 1 if a.smoke else a.width
  config.model = dict(name=model, width=width, dtype=a.dtype)
  if model == 'resnet18':
    # Images of 224 pixels, as in the paper, need the stem for ImageNet.
    config.model.stem = 'imagenet' if a.paper else 'cifar'
  config.input.pad = 4
  config.input.resize = 224 if a.paper else 0
  config.train = recipes.training(
    epochs=a.epochs,
    batch_size=256,
    learning_rate=1e-3,
    schedule='cosine',
    minimum=5e-6,
  )
  config.proxy_train = recipes.training(
    epochs=120,
    batch_size=256,
    learning_rate=5e-4,
    schedule='multistep',
    milestones=(50, 70, 90, 100, 110, 115),
    factor=0.7,
  )
  config.finetune = recipes.training(
    epochs=80,
    batch_size=256,
    learning_rate=5e-5,
    schedule='multistep',
    milestones=(50, 60, 80, 90),
    factor=0.9,
  )
  return config, a
