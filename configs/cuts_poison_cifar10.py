r"""CUTS against a BadNets trigger on CIFAR-10: published rule, harm shown.

Run:    python -m cmu_jax.main --config=configs/cuts_poison_cifar10.py \
          --config.data_dir=DIR
Smoke:  ...:smoke --config.data_dir=DIR
Paper:  ...:paper            (224x224 images and the 7x7 stem, as published)
Small:  ...:model=resnet9,width=16,epochs=20      (for a CPU)
Time:   days on 2 CPU cores at full size.
Expect: no published number at hand for ResNet-18 from scratch.

The rule takes the smallest alpha whose attack success on the triggered proxy
rounds to .01 or less; where none qualifies the model is left as it is.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.cuts import settings
from cmu_jax.studies.engine import recipes


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    paper=False,
    rate=0.02,
    model='resnet18',
    width=64,
    epochs=120,
    seeds=(0, 1, 2),
  )
  config = settings.base('cuts_poison_cifar10')
  config.task = 'poison'
  config.corruption.kind = 'poison'
  config.dataset = 'cifar10'
  config.seeds = a.seeds
  config.noise_rate = a.rate
  config.proxy_draws = 1
  config.corruption.trigger_margin = (10, 6)
  config.model = dict(name=a.model, width=a.width, dtype='float32')
  if a.model == 'resnet18':
    config.model.stem = 'imagenet' if a.paper else 'cifar'
  config.input.mean, config.input.std = (0.0,), (1.0,)  # as published: none
  config.input.pad = 4
  config.input.resize = 224 if a.paper else 0
  config.train = recipes.training(
    epochs=a.epochs,
    batch_size=256,
    learning_rate=1e-3,
    schedule='cosine',
    minimum=1e-6,
  )
  config.proxy_train = recipes.training(
    epochs=200,
    batch_size=256,
    learning_rate=1e-4,
    schedule='warmup_cosine',
    warmup=30,
    hold=120,
  )
  config.finetune = recipes.training(
    epochs=30,
    batch_size=256,
    learning_rate=5e-5,
    schedule='warmup_cosine',
    warmup=10,
    hold=10,
  )
  if a.smoke:
    config.model = dict(name='convnet', width=1, dtype='float32')
    settings.shrink(config, proxy_fraction=0.1)
  return config


def sweep(add):
  for rate in (0.02, 0.1, 0.2):
    add(rate=rate)
