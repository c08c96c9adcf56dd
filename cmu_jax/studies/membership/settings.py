"""The settings of an audit of methods: one base, and their checks."""

from ml_collections import ConfigDict

from cmu_jax import audits
from cmu_jax.core import errors
from cmu_jax.studies.engine import catalogue, checks, recipes

ATTACKS = ('rmia', 'ulira')
# Causes of errors that scores share: the bootstrap draws each as a whole.
CLUSTERS = ('networks', 'points')
_TRAININGS = ('train', 'unlearn')
_RANGES = {
  'fraction': '(0, 1)',
  'references': '[2, inf)',
  'learning_rates': '(0, inf)',
  'evaluate.confidence': '(0, 1)',
  'evaluate.replicates': '[2, inf)',
  'rmia.gamma': '[1, inf)',
  'rmia.offline_a': '[0, 1]',
  'memory': '(0, inf)',
  'group': '[0, inf)',
}


def base(name: str, attack: str) -> ConfigDict:
  """Returns every setting of an audit by an attack of ATTACKS."""
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
      methods=('amun', 'ft'),  # besides none and retrain
      learning_rates=(0.01,),  # the one of unlearning: nothing is tuned here
      adaptive=True,  # RMIA also with references that were unlearned too
      rmia=dict(
        signal='taylor_softmax',  # or softmax
        gamma=2.0,
        offline_a=0.3,  # of the adaptive attack, which knows non-members only
      ),
      model=dict(name='fc', width=256, dtype='float32'),
      input=recipes.pixels(mean=(0.0,), std=(1.0,)),
      **recipes.forgetting_trainings(100, (50, 75)),
      evaluate=dict(
        batch_size=1024,
        replicates=1000,  # of the bootstrap
        confidence=0.99,  # of its intervals
        clusters=('networks', 'points'),  # drawn whole; () for single scores
      ),
      checkpoint_seconds=20.0,  # at most so much of a training is lost
    )
  )


def check(config: ConfigDict) -> None:
  """Refuses settings that cannot be, whatever the data are.

  Raises:
    UserError: names the field, its value and a remedy.
  """
  checks.check_seeds(config)
  checks.check_names('attack', config.attack, ATTACKS)
  checks.check_names('rmia.signal', config.rmia.signal, audits.PROBABILITIES)
  known = [name for name in catalogue.ENTRIES if name != 'retrain']
  if config.methods:
    checks.check_names('methods', config.methods, known)
  if config.evaluate.clusters:
    checks.check_names('evaluate.clusters', config.evaluate.clusters, CLUSTERS)
  checks.check_ranges(config, _RANGES)
  errors.check(
    len(config.learning_rates) == 1,
    f'config.learning_rates is {tuple(config.learning_rates)}; give one number '
    'above 0: an audit tunes nothing',
  )
  errors.check(
    config.references % 2 == 0,
    f'config.references is {config.references}; give an even number, every '
    'two of them share the data out',
  )
  checks.check_network(config, *_TRAININGS)


def shrink(config: ConfigDict) -> ConfigDict:
  """Shrinks a config to a smoke run: two networks, few references and steps."""
  recipes.shrink(config, {'seeds': 2, 'methods': 1}, (400, 100), _TRAININGS)
  config.references = 4 if config.attack == 'rmia' else 12
  config.evaluate.replicates = 100
  return config
