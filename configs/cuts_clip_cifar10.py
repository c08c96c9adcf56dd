r"""CUTS on CIFAR-10 with a CLIP ViT-B/16 of yours, symmetric label noise.

Run:    python -m cmu_jax.main --config=configs/cuts_clip_cifar10.py:noise=0.4 \
          --config.data_dir=DIR --config.model.weights=model.safetensors
Other:  ...:model=clip-vit-b32 --config.model.width=768; `clip` with a
        config.json beside the weights; kind=asymmetric
Smoke:  ...:smoke --config.data_dir=DIR    (no weights: trains a small CLIP)
Time:   a GPU; the smoke run takes about 100 seconds of one CPU core.
Expect: arXiv 2511.18660, CLIP ViT-B/16, 2 % proxy, one seed, accuracy in %:
          noise          10     20     40     60     80
          corrupted      96.9   93.5   76.2   51.9   22.7
          CUTS           97.7   97.0   95.6   91.5   80.9
          SAP            97.0   95.1   85.0   72.0   26.3
          oracle         98.6   98.7   98.5   98.4   98.0

The head is made of the class names in 18 sentences and stays frozen. Images
stay 32x32 in memory and are resized bicubically in the network. Deviations: a
zero-padded crop of 32x32 in place of a random resized crop of 224x224, and the
oracle trains as long as the corrupted model (the paper: 3000 steps).
"""

from cmu_jax.core import config as configs
from cmu_jax.networks.clip import zero_shot
from cmu_jax.studies.cuts import settings
from cmu_jax.studies.engine import clip_start, recipes


def _training(steps, warmup, hold, minimum=0.0):
  return recipes.training(
    steps=steps,
    batch_size=256,
    learning_rate=1e-5,
    schedule='warmup_cosine',
    warmup=warmup,
    hold=hold,
    minimum=minimum,
  )


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    noise=0.4,
    kind='symmetric',
    model='clip-vit-b16',
    seeds=(0, 1, 2),
  )
  config = settings.base('cuts_clip_cifar10')
  config.dataset = 'cifar10'
  config.seeds = a.seeds
  config.noise_rate = a.noise
  config.proxy_draws = 2 if a.kind == 'symmetric' else 1
  config.corruption.kind = a.kind
  config.corruption.class_map = 'cifar10'
  config.model = clip_start.settings(a.model)
  config.input.mean, config.input.std = zero_shot.MEAN, zero_shot.STD
  config.input.pad = 1
  config.train = _training(6000 if a.noise >= 0.6 else 5000, 300, 0)
  config.proxy_train = _training(800, 200, 200)
  config.finetune = _training(500, 100, 200, 1e-7)
  config.evaluate.batch_size = 256
  if a.smoke:
    settings.shrink(config, proxy_fraction=0.1, select__folds=0)
    config.train_limit, config.test_limit = 1000, 300
    config.evaluate.points, config.evaluate.path_images = 3, 0
    config.model = clip_start.settings('clip', width=64)
    config.pretrain = clip_start.pretrain()
    for part in (config.train, config.proxy_train, config.finetune):
      part.update(learning_rate=3e-4, warmup=0, hold=0, minimum=0.0)
      part.update(steps=20, batch_size=64)
  return config


def sweep(add):
  for noise in (0.1, 0.2, 0.4, 0.6, 0.8):
    add(noise=noise)
