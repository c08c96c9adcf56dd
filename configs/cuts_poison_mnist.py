r"""CUTS against a BadNets trigger on MNIST: published rule, harm shown.

Run:    python -m cmu_jax.main --config=configs/cuts_poison_mnist.py \
          --config.data_dir=DIR
Smoke:  ...:smoke --config.data_dir=DIR
Time:   about 6 minutes on 2 CPU cores (width 1024, 60 epochs, 3 seeds).
Expect: no published recipe for MLPs. A trial drove the attack success to 0 by
        deleting the target class (accuracy .970 -> .800): see it in the report.

The rule takes the smallest alpha whose attack success on the triggered proxy
rounds to .01 or less; where none qualifies the model is left as it is.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.cuts import settings
from cmu_jax.studies.engine import recipes


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg, smoke=False, rate=0.1, width=1024, epochs=60, seeds=(0, 1, 2)
  )
  config = settings.base('cuts_poison_mnist')
  config.task = 'poison'
  config.corruption.kind = 'poison'
  config.dataset = 'mnist'
  config.seeds = a.seeds
  config.noise_rate = a.rate
  config.proxy_draws = 1
  config.corruption.trigger_margin = (2, 2)
  config.model.width = a.width
  config.input.mean, config.input.std = (0.1307,), (0.3081,)
  config.train = recipes.training(
    epochs=a.epochs,
    batch_size=1024,
    learning_rate=5e-4,
    schedule='cosine',
    minimum=5e-6,
  )
  config.proxy_train = recipes.training(
    steps=600, batch_size=256, learning_rate=1e-4
  )
  config.finetune = recipes.training(
    steps=600, batch_size=256, learning_rate=1e-4
  )
  if a.smoke:
    settings.shrink(config, model__width=256, proxy_fraction=0.1)
  return config


def sweep(add):
  for rate in (0.02, 0.1, 0.2):
    add(rate=rate)
