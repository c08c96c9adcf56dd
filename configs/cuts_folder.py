r"""CUTS on an image folder <root>/<train|test>/<class>/*, symmetric noise.

Run:    python -m cmu_jax.main --config=configs/cuts_folder.py \
          --config.dataset=folder:PATH
Smoke:  ...:smoke --config.dataset=folder:PATH
Other:  ...:noise=0.4,side=96,width=2    (images are resized to side x side)
Time:   300 images of 224x224 in two classes: about 2 minutes on 2 CPU cores.
Expect: nothing published; with two classes, 40 % symmetric noise leaves little
        signal, so the default is 20 %.

Pictures are not mirrored in training, because a mirrored sign, digit or word is
another one; ...:flip mirrors half of them, where left and right are alike.

A small strided convolutional network, so that a CPU is enough.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.cuts import settings
from cmu_jax.studies.engine import recipes


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    noise=0.2,
    side=64,
    width=1,
    epochs=60,
    proxy=0.2,
    seeds=(0, 1, 2),
    flip=False,
  )
  config = settings.base('cuts_folder')
  config.dataset = 'folder:PATH'
  config.image_size = a.side
  config.seeds = a.seeds
  config.noise_rate = a.noise
  config.proxy_fraction = a.proxy
  config.model = dict(name='convnet', width=a.width, dtype='float32')
  config.input.flip = a.flip
  config.input.pad = 4
  config.train = recipes.training(
    epochs=a.epochs, batch_size=64, schedule='cosine'
  )
  config.proxy_train = recipes.training(steps=200, batch_size=64)
  config.finetune = recipes.training(
    steps=200, batch_size=64, learning_rate=1e-4
  )
  return settings.shrink(config) if a.smoke else config


def sweep(add):
  for noise in (0.1, 0.2, 0.3):
    add(noise=noise)
