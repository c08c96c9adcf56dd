"""Settings of the study of random forget sets: the base and its checks."""

from ml_collections import ConfigDict

from cmu_jax import audits
from cmu_jax.core import errors
from cmu_jax.studies.engine import catalogue, checks, gaps, recipes

# Fields of the config that hold a training.
_TRAININGS = ('train', 'unlearn')
_RANGES = {
  'fraction': '(0, 1)',
  'learning_rates': '(0, inf)',
  'clip.bound': '[0, inf)',
  'clip.every': '[1, inf)',
  'references': '[0, inf)',
  'reference_group': '[1, inf)',
  'runs': '[1, inf)',
  'requests': '[0, inf)',
  'request_share': '(0, 1)',
}
_RATES = (0.1, 0.05, 0.01, 5e-3, 1e-3, 1e-4, 1e-5)


def base(name: str) -> ConfigDict:
  """Returns every setting, with the defaults of AMUN where it has any.

  Source: AMUN, arXiv 2503.00917, sections 5 and A, and its code.
  """
  return ConfigDict(
    dict(
      name=name,
      task='forgetting',
      smoke=False,  # shrunk: every stage runs, nothing is evidence
      **recipes.source(),
      seeds=(0, 1, 2),  # of the original networks
      forget_seeds=(0, 1, 2),  # of the forget sets that are reported
      tuning_seeds=(100,),  # of those that learning rates are chosen on
      runs=1,  # repetitions of every method on each of them
      requests=0,  # to forget one after another, with AMUN; 0 for none
      request_share=0.02,  # of the training set, each
      fraction=0.1,  # of the training set that is to be forgotten
      published_indices=False,  # NumPy's legacy generator draws, as in AMUN
      proxy_fraction=0.0,  # no method here takes a proxy
      methods=catalogue.DEFAULT,
      clip=dict(
        bound=0.0,  # of the norm of every layer, in trainings; 0 for none
        every=50,  # steps between clips
      ),
      learning_rates=_RATES,  # the grid of every method that fine-tunes
      attack='confidence',  # of the gap: confidence, rmia, rmia_ratio, mis
      references=0,  # networks for RMIA, an even number; 0 for none
      reference_group=8,  # so many are trained at a time
      rmia=dict(
        signal='taylor_softmax',  # or softmax
        gamma=2.0,
      ),
      model=dict(name='resnet18', width=64, dtype='float32'),
      input=recipes.pixels(mean=(0.0,), std=(1.0,)),
      **recipes.forgetting_trainings(),
      evaluate=dict(
        batch_size=1024,
        replicates=200,  # of the bootstrap
        mis_points=0,  # test points that MIS is fitted on; 0 for all
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
  checks.check_tuning(config, 'tuning_seeds', 'forget_seeds')
  checks.check_names('methods', config.methods, catalogue.ENTRIES)
  checks.check_names('attack', config.attack, gaps.ATTACKS)
  checks.check_names('rmia.signal', config.rmia.signal, audits.PROBABILITIES)
  checks.check_ranges(config, _RANGES)
  # A transferred set is made on the network of the next seed.
  names = [n for n in config.methods if catalogue.ENTRIES[n].transferred]
  errors.check(
    not names or len(config.seeds) > 1,
    f'method {names[:1]} needs the network of another seed: give config.seeds '
    'two or more',
  )
  errors.check(
    config.learning_rates, 'config.learning_rates is (); give one or more'
  )
  errors.check(
    config.references % 2 == 0,
    f'config.references is {config.references}; give an even number, every two '
    'of them share the data out, or 0',
  )
  errors.check(
    config.references or not config.attack.startswith('rmia'),
    f'config.attack={config.attack} needs references: set '
    'config.references=8 or more',
  )
  count, share = config.requests, config.request_share
  errors.check(
    count * share < 1,
    f'config.requests is {count} of {share} of the training set each; give '
    'shares that leave something to retain',
  )
  errors.check(
    not count or 'amun' in config.methods,
    'config.requests needs the method amun: add it to config.methods',
  )
  checks.check_network(config, *_TRAININGS)


def ablation(config: ConfigDict) -> ConfigDict:
  """Selects AMUN's ablation at the published rate, which is not tuned."""
  config.methods = tuple(catalogue.ABLATION)
  config.learning_rates = (0.01,)
  config.unlearn.update(epochs=20, milestones=(5, 10, 15))
  return config


def variants(config: ConfigDict) -> ConfigDict:
  """Selects variants of AMUN's adversarial set, and its own RL and SalUn."""
  config.methods = (
    'rl', 'salun', 'amun', 'rl_alone', 'salun_alone', 'amun_alone',
    *catalogue.PARITY, *catalogue.VARIANTS,
  )  # fmt: skip
  return config


def shrink(config: ConfigDict) -> ConfigDict:
  """Shrinks a config to a smoke run: one network and forget set, few steps."""
  # Transferred sets come from the network of a second seed.
  seeds = 2 if set(catalogue.VARIANTS) & set(config.methods) else 1
  firsts = {'forget_seeds': 1, 'tuning_seeds': 1, 'learning_rates': 2}
  recipes.shrink(config, {'seeds': seeds, **firsts}, (1000, 300), _TRAININGS)
  config.references = min(config.references, 4)
  return config
