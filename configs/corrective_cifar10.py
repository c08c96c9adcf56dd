r"""The corrective benchmark on CIFAR-10 with ResNet-9, as published.

Run:    python -m cmu_jax.main --config=configs/corrective_cifar10.py --sweep \
          --config.data_dir=DIR --workdir=DIR2
Small:  ...:width=8,steps=400      (for a CPU)
Parity: ...:parity                 (the released index sets, selection on the
        test split)
Full:   ...:full                   (every method)
Smoke:  ...:smoke --config.data_dir=DIR
Time:   on one H100 about a quarter of an hour a manipulation and seed is a
        guess; on 2 CPU cores days at full size.
Expect: arXiv 2402.14015 and a logged run of its code, poison of 500:
          doing nothing   clean .912, Acc_corr .165, attack success .924
          RewoD at .5     clean .911, Acc_corr .167, attack success .923
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.corrective import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    full=False,
    parity=False,
    seeds=(0, 1, 2),
    width=64,
    steps=4000,
    dtype='float32',
  )
  config = settings.base('corrective_cifar10')
  config.dataset = 'cifar10'
  config.seeds = a.seeds
  config.validation = 'test' if a.parity else 'test_half'
  config.published_indices = config.best_epoch = a.parity
  config.interclass.choice = 'first' if a.parity else 'random'
  config.identified_fractions = tuple(i / 10 for i in range(1, 11))
  config.poison.sizes = (500,)
  config.interclass.sizes = (5000,)
  config.interclass.pair = 'cifar10'
  config.model = dict(name='resnet9', width=a.width, dtype=a.dtype)
  config.input.mean = (0.4914, 0.4822, 0.4465)
  config.input.std = (0.2470, 0.2435, 0.2616)
  config.input.pad, config.input.flip = 4, True
  config.train.steps = a.steps
  for part in (config.unlearn, config.scrub):
    part.steps = max(1, a.steps // 4)
  if a.full:
    settings.full(config)
  if not a.smoke:
    return config
  # Twenty steps of the real network take minutes on a CPU.
  config.model.width, config.train_limit, config.test_limit = 4, 1000, 300
  return settings.shrink(config)
