r"""CUTS against a BadNets trigger on the digits: published rule, harm shown.

Run:    python -m cmu_jax.main --config=configs/cuts_poison_digits.py
Smoke:  ...:smoke
Time:   about a minute on 2 CPU cores.
Expect: no published recipe for MLPs. Ours, 3 seeds: attack success .997 -> .017
        by deleting the target class (1.00 -> .21, accuracy .980 -> .897);
        projected distillation .014 with class 1.00 and accuracy .981.

The rule takes the smallest alpha whose attack success on the triggered proxy
rounds to .01 or less; where none qualifies the model is left as it is.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.cuts import settings
from cmu_jax.studies.engine import recipes


def get_config(arg: str = ''):
  a = configs.parse_arg(arg, smoke=False, rate=0.1, width=512, seeds=(0, 1, 2))
  config = settings.base('cuts_poison_digits')
  config.task = 'poison'
  config.corruption.kind = 'poison'
  config.seeds = a.seeds
  config.noise_rate = a.rate
  config.proxy_draws = 1
  config.model.width = a.width
  config.proxy_fraction = 0.1
  config.corruption.trigger_margin = (0, 0)
  config.input.mean, config.input.std = (0.3,), (0.35,)
  config.train = recipes.training(
    epochs=150, batch_size=64, schedule='cosine', minimum=5e-6
  )
  config.proxy_train = recipes.training(
    steps=300, batch_size=64, learning_rate=1e-4
  )
  config.finetune = recipes.training(
    steps=300, batch_size=64, learning_rate=1e-4
  )
  if a.smoke:
    settings.shrink(config)
  return config


def sweep(add):
  for rate in (0.02, 0.1, 0.2):
    add(rate=rate)
