r"""The corrective benchmark on PatchCamelyon, poison only, as in the paper.

Run:    python -m cmu_jax.main --config=configs/corrective_pcam.py --sweep \
          --config.data_dir=DIR --workdir=DIR2
Small:  ...:width=16,train_limit=20000
Smoke:  ...:smoke --config.data_dir=DIR
Expect: arXiv 2402.14015: SCRUB and SSD repair from small identified fractions
        on, RewoD, CF and BadT not until most is found. No numbers are given.

One per cent of the training images is poisoned (the paper names no size).
Images are resized to 32x32; the released code crops the centre.
"""

from cmu_jax.core import config as configs
from cmu_jax.studies.corrective import settings


def get_config(arg: str = ''):
  a = configs.parse_arg(
    arg,
    smoke=False,
    full=False,
    seeds=(0, 1, 2),
    width=64,
    train_limit=0,
  )
  config = settings.base('corrective_pcam')
  config.dataset = 'patch_camelyon'
  config.seeds = a.seeds
  config.train_limit = a.train_limit
  config.validation = 'test_half'
  config.manipulations = ('poison',)
  config.poison.sizes = ((a.train_limit or 262_144) // 100,)
  config.identified_fractions = tuple(i / 10 for i in range(1, 11))
  config.model = dict(name='resnet9', width=a.width, dtype='float32')
  config.input.pad, config.input.flip = 4, True
  config.input.resize = 32
  if a.full:
    settings.full(config)
  return settings.shrink(config) if a.smoke else config
