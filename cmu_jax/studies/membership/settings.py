"""The settings of an audit of methods: one base, and their checks."""

from typing import Any

from ml_collections import ConfigDict

from cmu_jax import audits
from cmu_jax.core import errors
from cmu_jax.studies.engine import catalogue, checks, recipes

ATTACKS = ('rmia', 'ulira')
# What needs no fine-tuning, and is what the others are compared with.
CONTROLS = ('none', 'retrain')
# What scores share, and the bootstrap draws as a whole.
CLUSTERS = ('networks', 'points')


def _trainings() -> dict[str, Any]:
  recipe: dict[str, Any] = dict(
    batch_size=128,
    optimizer='sgd',
    weight_decay=5e-4,
    schedule='multistep',
    factor=0.1,
  )
  return dict(
    train=recipes.training(
      epochs=100, learning_rate=0.1, milestones=(50, 75), **recipe
    ),  # of every network: audited, retrained, reference
    unlearn=recipes.training(
      epochs=10, learning_rate=1.0, milestones=(5,), **recipe
    ),  # the rate multiplies `learning_rates`
  )


def base(name: str, attack: str) -> ConfigDict:
  """Every setting of an audit.

  Args:
    name: of the run.
    attack: a name of ATTACKS.
  """
  return ConfigDict(
    dict(
      name=name,
      task='membership',
      attack=attack,  # rmia, ulira
      smoke=False,  # shrunk: every stage runs, nothing is evidence
      **recipes.source(),
      seeds=(0, 1, 2, 3, 4),  # rmia: of the audited networks, pooled
      proxy_fraction=0.0,  # no method here takes a proxy
      references=16,  # networks to compare with; ulira: those audited
      group=0,  # so many are trained at a time; 0 for what memory takes
      memory=4.0,  # GiB that it may take
      fraction=0.1,  # of a network's training set that it is to forget
      methods=('amun', 'ft'),  # of forgetting/roster, besides none and retrain
      learning_rates=(0.01,),  # the one of unlearning: nothing is tuned here
      adaptive=True,  # RMIA also with references that were unlearned too
      rmia=dict(
        signal='taylor_softmax',  # or softmax
        gamma=2.0,
        offline_a=0.3,  # of the adaptive attack, which knows non-members only
      ),
      model=dict(name='fc', width=256, dtype='float32'),
      input=recipes.pixels(mean=(0.0,), std=(1.0,)),
      **_trainings(),
      evaluate=dict(
        batch_size=1024,
        replicates=1000,  # of the bootstrap
        confidence=0.99,  # of its intervals
        clusters=('networks', 'points'),  # drawn whole; () for single scores
      ),
      checkpoint_seconds=20.0,  # at most so much of a training is lost
    )
  )


def _ranges(config: ConfigDict) -> None:
  errors.check(
    0 < config.fraction < 1,
    f'config.fraction is {config.fraction}; it must lie between 0 and 1',
  )
  errors.check(
    config.references >= 2 and config.references % 2 == 0,
    f'config.references is {config.references}; give an even number, every '
    'two of them share the data out',
  )
  errors.check(
    0 < config.evaluate.confidence < 1,
    f'config.evaluate.confidence is {config.evaluate.confidence}; it must lie '
    'between 0 and 1',
  )
  errors.check(
    config.evaluate.replicates >= 2,
    f'config.evaluate.replicates is {config.evaluate.replicates}; use 2 or '
    'more',
  )
  errors.check(
    config.rmia.gamma >= 1,
    f'config.rmia.gamma is {config.rmia.gamma}; it must be at least 1',
  )
  errors.check(
    0 <= config.rmia.offline_a <= 1,
    f'config.rmia.offline_a is {config.rmia.offline_a}; it must lie from 0 to '
    '1',
  )
  errors.check(
    config.memory > 0 and config.group >= 0,
    f'config.memory is {config.memory}, config.group {config.group}; give GiB '
    'above 0, and models or 0',
  )


def check(config: ConfigDict) -> None:
  """Refuses settings that cannot be, whatever the data are.

  Raises:
    UserError: names the field, its value and what would do.
  """
  checks.seeds(tuple(config.seeds))
  checks.names('attack', config.attack, ATTACKS)
  checks.names('rmia.signal', config.rmia.signal, audits.PROBABILITIES)
  checks.statistics(tuple(config.input.mean), tuple(config.input.std))
  checks.model(config.model)
  known = [name for name in catalogue.ENTRIES if name != 'retrain']
  if config.methods:
    checks.names('methods', config.methods, known)
  if config.evaluate.clusters:
    checks.names('evaluate.clusters', config.evaluate.clusters, CLUSTERS)
  errors.check(
    len(config.learning_rates) == 1 and config.learning_rates[0] > 0,
    f'config.learning_rates is {tuple(config.learning_rates)}; give one number '
    'above 0: an audit tunes nothing',
  )
  _ranges(config)
  for part in ('train', 'unlearn'):
    recipes.fit_options(config[part], 1, part)


def shrink(config: ConfigDict) -> ConfigDict:
  """A smoke run: two networks, few references and steps, every stage."""
  config.smoke = True
  config.seeds = tuple(config.seeds)[:2]
  config.train_limit = config.train_limit or 400
  config.test_limit = config.test_limit or 100
  config.references = 4 if config.attack == 'rmia' else 12
  config.methods = tuple(config.methods)[:1]
  config.evaluate.replicates = 100
  for part in ('train', 'unlearn'):
    config[part].epochs, config[part].steps = 0, 20
    config[part].milestones = (10,)
  return config
