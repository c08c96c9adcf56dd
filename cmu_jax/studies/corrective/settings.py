"""The settings of a benchmark sweep: one commented base, and their checks."""

from typing import Any

from ml_collections import ConfigDict

from cmu_jax.core import config as config_lib
from cmu_jax.core import errors
from cmu_jax.data.corruption import triggers
from cmu_jax.studies.corrective import roster
from cmu_jax.studies.engine import checks, recipes

PAPER = ('rewod', 'cf', 'ssd', 'badt', 'scrub')
_NAMES = {
  'validation': ('train_fifth', 'test_half', 'test'),
  'manipulations': ('poison', 'interclass'),
  'methods': roster.ENTRIES,
  'poison.trigger': triggers.KINDS,
  'interclass.choice': ('random', 'first'),
  'ssd.importance': ('batch', 'per_sample'),
  'ssd.retain': ('retain', 'full'),
  'badt_reduction': ('elementmean', 'batchmean'),
}
_RANGES = {
  'identified_fractions': '(0, 1]',
  'references': '[0, inf)',
  'proxy_fraction': '[0, 1)',
}
_TRAININGS = ('train', 'unlearn', 'scrub', 'ascent', 'proxy_train')


def _poison() -> dict[str, Any]:
  return dict(
    sizes=(500,),  # manipulated samples
    target=0,  # the class they are labelled as
    trigger='corner',  # a name in data.corruption.triggers.KINDS
    trigger_size=3,  # corner: side of the patch
    trigger_percent=0.03,  # badnet: share of the pixels
    trigger_margin=(0, 0),  # badnet: rows, columns from the corner
    trigger_alpha=0.2,  # blended: weight of a random pattern
    trigger_amplitude=20.0,  # sinusoidal, sample_specific: in pixel values
    trigger_frequency=6.0,  # sinusoidal: periods in a row
    trigger_strength=0.5,  # warping: about twice the displacement in pixels
  )


def _interclass() -> dict[str, Any]:
  return dict(
    sizes=(5000,),  # manipulated samples, both classes together
    pair='3:5',  # the two classes, as numbers or names
    choice='random',  # which of them: random, first (as released)
  )


def _trainings() -> dict[str, Any]:
  """Procedure A, and what differs from it."""
  procedure: dict[str, Any] = dict(
    batch_size=512,
    optimizer='sgd',
    weight_decay=5e-4,
    schedule='procedure_a',
    learning_rate=0.025,
  )
  return dict(
    train=recipes.training(steps=4000, **procedure),  # original and RewoD
    unlearn=recipes.training(steps=1000, **procedure),  # CF, BadT, ...
    scrub=recipes.training(
      steps=1000, **{**procedure, 'learning_rate': 0.0025}
    ),
    scrub_ascent_steps=100,  # S_f epochs start while fewer steps are done
    ascent=recipes.training(
      **{**procedure, 'schedule': 'constant', 'learning_rate': 0.0025},
      steps=20,
    ),  # gradient ascent alone: few steps, or everything is lost
    proxy_train=recipes.training(
      steps=200, batch_size=64, learning_rate=1e-4
    ),  # CUTS on S_f
  )


def base(name: str) -> ConfigDict:
  """Returns every setting, with the defaults of the paper where it has any.

  Source: Corrective Machine Unlearning, arXiv 2402.14015, and its code.
  """
  return ConfigDict(
    dict(
      name=name,
      task='corrective',
      smoke=False,  # shrunk: every stage runs, nothing is evidence
      **recipes.source(),
      seeds=(0, 1, 2),
      audit='',  # rmia: are the wrong labels of S_m still in the networks?
      references=4,  # of an audit: networks without S_m; 0 for none
      validation='train_fifth',  # what selection sees: train_fifth, test_half;
      # test (parity: also what is reported)
      best_epoch=False,  # keep the epoch that is best on validation images, as
      # the released code does (on the test split); else the last iterate
      proxy_fraction=0.0,  # held out for methods that need a proxy
      identified_fractions=(0.1, 0.5, 0.8, 1.0),
      methods=PAPER,
      manipulations=('poison', 'interclass'),
      poison=_poison(),
      interclass=_interclass(),
      published_indices=False,  # the released poison set and S_f of seed 0
      model=dict(name='resnet9', width=64, dtype='float32'),
      input=recipes.pixels(),
      **_trainings(),
      ssd=dict(
        importance='batch',  # batch (as released), per_sample
        retain='retain',  # what S_f is compared with: retain, full
        batch_size=512,
        augment=True,
      ),
      badt_reduction='elementmean',  # elementmean (as released), batchmean
      layers=1,  # eu_k, cf_k: how many last layers
      evaluate=dict(batch_size=1024),
      checkpoint_seconds=20.0,  # at most so much of the original is lost
    )
  )


def check(config: ConfigDict) -> None:
  """Refuses settings that cannot be, whatever the data are.

  Raises:
    UserError: names the field, its value and a remedy.
  """
  checks.check_seeds(config)
  fields = config_lib.flatten(config)
  for field, names in _NAMES.items():
    checks.check_names(field, fields[field], names)
  checks.check_ranges(config, _RANGES)
  fractions = tuple(config.identified_fractions)
  errors.check(
    fractions and list(fractions) == sorted({*fractions}),
    f'config.identified_fractions is {fractions}: give rising numbers above 0 '
    'and at most 1, for example 0.1,0.5,1.0',
  )
  for kind in config.manipulations:
    sizes = tuple(config[kind].sizes)
    errors.check(
      sizes
      and all(type(n) is int and n >= 2 for n in sizes)
      and len(set(sizes)) == len(sizes),
      f'config.{kind}.sizes is {sizes}: give one or more different numbers of '
      'samples, 2 or more',
    )
    odd = [n for n in sizes if n % 2]
    errors.check(
      not odd or kind != 'interclass',
      f'config.interclass.sizes has {odd}: half of each class; use even '
      'numbers',
    )
  checks.check_network(config, *_TRAININGS)


def full(config: ConfigDict) -> ConfigDict:
  """Widens a sweep to all methods, at ten identified fractions."""
  config.methods = tuple(roster.ENTRIES)
  config.identified_fractions = tuple(i / 10 for i in range(1, 11))
  config.proxy_fraction = 0.02
  return config


def shrink(config: ConfigDict) -> ConfigDict:
  """Shrinks a sweep to a smoke run: one seed, few steps, every stage."""
  recipes.shrink(config, {'seeds': 1}, (2000, 500))
  config.identified_fractions = (0.5, 1.0)
  config.references = min(config.references, 2)
  for name in _TRAININGS:
    settings = config[name]
    settings.epochs, settings.steps = 0, 20
    settings.batch_size = min(settings.batch_size, 64)
  for kind in config.manipulations:
    config[kind].sizes = (min(*config[kind].sizes, 100),)
  return config
