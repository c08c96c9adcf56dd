r"""A CLIP of yours forgets eight data sets; ImageNet is the control.

Run:    python -m cmu_jax.main --config=configs/negation_clip.py \
          --config.data_dir=DIR --config.model.weights=model.safetensors \
          --workdir=DIR --minutes=25
        (again and again: it continues where it stopped)
Some:   ...:forget=mnist+svhn_cropped,limit=5000
Smoke:  ...:smoke --config.data_dir=DIR    (no weights: a small CLIP forgets
        MNIST, CIFAR-10 is the control)
Time:   hours on a GPU; the smoke run about 85 seconds of one CPU core.
Expect: ViT-B/32, averages over the eight sets, forget / control accuracy in %:
          before                          48.1 / 63.3
          a task vector (2212.04089)      24.0 / 60.9
          their mean (2410.05583)         22.5 / 60.6
          NegMerge (2410.05583, 30 vectors) 20.8 / 60.4
        Theirs are merges of 30 vectors of other augmentations; here each
        seed takes another way of config.ways (rate, length, decay, crop).

The sets lie in data_dir in array_record form. Small square images stay as they
are and are resized in the network; others are read as CLIP was trained.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.engine import clip_start
from cmu_jax.studies.negation import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    seeds=(0, 1, 2),
    model='clip-vit-b32',
    forget=tuple(settings.FORGET),
    control='imagenet2012',
    limit=20000,
  )
  config = settings.base('negation_clip')
  config.seeds, config.forget, config.dataset = a.seeds, a.forget, a.control
  config.epochs = tuple(settings.FORGET.get(name, 10) for name in a.forget)
  config.train_limit = a.limit
  config.model = clip_start.settings(
    a.model, width=1024 if a.model == 'clip-vit-l14' else 768
  )
  return settings.shrink(config) if a.smoke else config
