r"""CUTS on the embedded handwritten digits, 40 % symmetric label noise.

Run:    python -m cmu_jax.main --config=configs/cuts_digits.py
Smoke:  python -m cmu_jax.main --config=configs/cuts_digits.py:smoke
Other:  ...:noise=0.6    ...:kind=asymmetric    ...:seeds=0+1+2+3+4
Time:   about a minute on 2 CPU cores.
Expect: no published numbers for this dataset; ours: docs/numbers.md.

A 512-wide two-layer MLP, a 10 % proxy, AdamW throughout.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.cuts import settings
from cmu_jax.studies.engine import recipes


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg, smoke=False, noise=0.4, kind='symmetric', width=512, seeds=(0, 1, 2)
  )
  config = settings.base('cuts_digits')
  config.seeds = a.seeds
  config.noise_rate = a.noise
  config.proxy_fraction = 0.1
  config.proxy_draws = 2 if a.kind == 'symmetric' else 1
  config.corruption.kind = a.kind
  config.corruption.class_map = 'mnist'
  config.model.width = a.width
  config.input.mean, config.input.std = (0.3,), (0.35,)
  config.train = recipes.training(
    epochs=150, batch_size=64, schedule='cosine', minimum=5e-6
  )
  config.proxy_train = recipes.training(steps=300, batch_size=64)
  config.finetune = recipes.training(steps=300, batch_size=64)
  return settings.shrink(config) if a.smoke else config


def sweep(add):
  for noise in (0.2, 0.4, 0.6, 0.8):
    add(noise=noise)
